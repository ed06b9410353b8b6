"""Rows of every kind of file: tables with a header, Parquet, JSON, JSON lines."""

import csv
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_scripts.catalog.film_names import named_imdb_id
from data_scripts.metadata.facts import Row
from data_scripts.stages.text_files import DELIMITERS, MetadataError, Problems, read_table, split_header, text_lines

# Entries of JSON whose columns tell what a file is: lists of TMDB and OMDb leave out columns without a value.
ENTRIES_LOOKED_AT = 20
# First columns of IMDb's tables, in which quotes mean nothing.
UNQUOTED = ("tconst", "titleid", "nconst")


@dataclass
class Rows:
    """The rows of a file, read as they are iterated, and its casefolded columns.

    `broken_rows_count` says what a row with too few or too many cells is: a problem that is counted, else an error.
    """

    path: Path
    columns: Sequence[str]
    problems: Problems
    broken_rows_count: bool = False

    def __iter__(self) -> Iterator[Row]:
        for place, cells in self._cells():
            named = {column_name(column): cell for column, cell in cells.items()}
            yield Row(named, self.path, place, self.problems)

    def _cells(self) -> Iterator[tuple[int | str, dict[str, Any]]]:
        raise NotImplementedError


@functools.cache
def column_name(name: str) -> str:
    return "_".join(name.casefold().replace("-", " ").split())


@dataclass
class TableRows(Rows):
    """A text with a header, whose columns are separated by the first of `DELIMITERS` that gives several."""

    delimiter: str = ","

    @classmethod
    def open(cls, path: Path, first_line: str) -> "TableRows":
        split = {delimiter: split_header(first_line, delimiter) for delimiter in DELIMITERS}
        delimiter = max(DELIMITERS, key=lambda each: len(split[each]))
        return cls(path, [column_name(name) for name in split[delimiter]], Problems(), delimiter=delimiter)

    def _cells(self) -> Iterator[tuple[int, dict[str, str]]]:
        quoting: Any = csv.QUOTE_NONE if self.columns[0] in UNQUOTED else csv.QUOTE_MINIMAL
        return read_table(self.path, (), self.delimiter, quoting, self.problems if self.broken_rows_count else None)


@dataclass
class LetterboxdListRows(Rows):
    """The films of an exported list of Letterboxd, below the list's own header and row."""

    table: Sequence[str] = ()

    @classmethod
    def open(cls, path: Path) -> "LetterboxdListRows":
        table = list(itertools.dropwhile(lambda line: not line.startswith("Position,"), text_lines(path)))
        return cls(path, [column_name(name) for name in split_header("".join(table[:1]), ",")], Problems(), table=table)

    def _cells(self) -> Iterator[tuple[str, dict[str, str]]]:
        for number, cells in enumerate(csv.DictReader(self.table), 1):
            yield f"film {number}", cells


@dataclass
class SeparatedRows(Rows):
    """A text without header: a known number of columns, or more, which are left out."""

    separator: str = "|"

    def _cells(self) -> Iterator[tuple[int, dict[str, str]]]:
        for number, line in enumerate(text_lines(self.path, other_encoding="latin1"), 1):
            cells = line.rstrip("\r\n").split(self.separator)
            if len(cells) >= len(self.columns):
                yield number, dict(zip(self.columns, cells, strict=False))
            elif line.strip():
                self.problems.add("rows of too few or too many cells", self.path, number)


@dataclass
class ParquetRows(Rows):
    """A Parquet file."""

    @classmethod
    def open(cls, path: Path) -> "ParquetRows":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return cls(path, [column_name(name) for name in pq.read_schema(path).names], Problems())
        except (pa.ArrowException, OSError) as error:
            raise MetadataError(f"{path}: a damaged Parquet file ({error}); download it again") from None

    def _cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(1024):
                    for cells in batch.to_pylist():
                        number += 1
                        yield number, cells
        except (pa.ArrowException, OSError) as error:
            raise MetadataError(f"{self.path}: a damaged Parquet file ({error}); download it again") from None


@dataclass
class JsonRows(Rows):
    """Entries of JSON: a list, an object of films by id, pages with lists of results, one film, or JSON lines."""

    files: Sequence[Path] = ()

    @classmethod
    def open(cls, path: Path, files: Sequence[Path]) -> "JsonRows":
        """Args: files: the file itself, or files of one film each, of which the first tells the columns."""
        rows = cls(path, (), Problems(), files=files)
        entries = [cells for _, cells in zip(range(ENTRIES_LOOKED_AT), _entries(files[0], Problems()), strict=False)]
        rows.columns = list(dict.fromkeys(column_name(column) for _, cells in entries for column in cells))
        return rows

    def _cells(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in self.files:
            for number, cells in _entries(path, self.problems):
                yield f"entry {number}" if path == self.path else f"{path.name}, entry {number}", cells


def _entries(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, entry in enumerate(_flat(_read_json(path)), 1):
        if isinstance(entry, dict):
            yield number, _flatten(entry)
        else:
            problems.add("entries without a title or an id", path, f"entry {number}")


def _read_json(path: Path) -> Any:
    lines = list(text_lines(path))
    try:
        return json.loads("".join(lines))
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise MetadataError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from None
    return [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise MetadataError(f"{path}, line {number}: no JSON ({error.msg})") from None


def _flat(content: Any) -> Iterable[Any]:
    """The entries of a file's content."""
    if isinstance(content, list):
        if content and all(isinstance(each, dict) and isinstance(each.get("results"), list) for each in content):
            return [entry for page in content for entry in page["results"]]
        return content
    if not isinstance(content, dict):
        return [content]
    names = {name.casefold() for name in content}
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if names & {"title", "name", "movie", "imdb_id", "imdbid"}:
        return [content]
    if len(lists) == 1:
        return lists[0]
    if content and all(isinstance(value, dict) for value in content.values()):
        return [{"imdb_id" if named_imdb_id(name) else "id": name, **value} for name, value in content.items()]
    return [content]


def _flatten(entry: dict[str, Any]) -> dict[str, Any]:
    """Trakt's entries hold the film as `movie`, and its ids as `ids`."""
    if isinstance(entry.get("movie"), dict):
        entry = entry["movie"]
    ids = entry.get("ids")
    return {**entry, **({f"{name}_id": value for name, value in ids.items()} if isinstance(ids, dict) else {})}
