"""Text files and tables that others made: lines and rows with their numbers; an error names its line.

>>> for line, cells in read_table(Path("ml-latest-small/links.csv"), ["movieId", "imdbId"]):
...     print(line, cells["imdbId"])
"""

import codecs
import csv
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# Limit of characters in one cell: the longest plots have 40 thousand; an unclosed quote ends here.
MAX_CELL = 2**24
HTML = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")
ZIP = b"PK\x03\x04"
DELIMITERS = (",", ";", "\t", "|")


class MetadataError(ValueError):
    """A file that cannot be read as metadata; the message names the file, the line and the way out."""


@dataclass
class Problems:
    """Problems for which a reader skipped content: how many of each kind, and the place of the first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, path: Path, place: int | str = "") -> None:
        """Count one more of a kind, at a line or another place of a file."""
        self.counts[kind] += 1
        if kind not in self.first:
            where = f"line {place}" if isinstance(place, int) else place
            self.first[kind] = f"{path}, {where}" if where else str(path)


def text_lines(path: Path, other_encoding: str | None = None) -> Iterator[str]:
    """The lines of a UTF-8 text, gzipped or not, without byte order mark.

    Args:
        other_encoding: of the lines that are not UTF-8; without it they are errors.

    Raises:
        MetadataError: a web page, an archive, another encoding, a damaged gzip file.
    """
    with open(path, "rb") as file:
        opener: Callable = gzip.open if file.read(2) == b"\x1f\x8b" else open
    try:
        with opener(path, "rb") as file:
            start = file.peek(512)
            if start.startswith(ZIP):
                raise MetadataError(f"{path}: an archive or an Excel file; unpack it, or save it as CSV (UTF-8)")
            if start.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(HTML):
                raise MetadataError(f"{path}, line 1: a web page, not data; download the file itself")
            for number, line in enumerate(file, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                try:
                    yield line.decode()
                except UnicodeDecodeError as error:
                    if other_encoding:
                        yield line.decode(other_encoding)
                        continue
                    wide = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                    raise MetadataError(
                        f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the file, or the "
                        f"lines in another encoding: iconv -f {'utf-16' if wide else 'latin1'} -t utf-8"
                    ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MetadataError(f"{path}: a damaged gzip file ({error}); download it again") from None


def read_table(
    path: Path,
    required: Sequence[str],
    delimiter: str = ",",
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL,
    problems: Problems | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every row of a table with a header.

    Args:
        required: columns that must be there.
        problems: counts rows with too few or too many cells; without it they are errors.

    Raises:
        MetadataError: a missing or different header, another separator or encoding, a web page, an unclosed quote.
    """
    csv.field_size_limit(MAX_CELL)
    lines = text_lines(path)
    header = _require_columns(path, next(lines, ""), required, delimiter)
    rows = csv.reader(itertools.chain(["\n"], lines), delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise MetadataError(
                f"{path}, line {line}: a quote that opens in this row is not closed, or not where its cell ends "
                f"(noticed on line {rows.line_num}: {error})"
            ) from None
        if cells is None:
            break
        if not cells:
            continue
        if len(cells) == len(header):
            yield line, dict(zip(header, cells, strict=True))
        elif problems is None:
            raise MetadataError(f"{path}, line {line}: {len(cells)} cells, where the header has {len(header)}")
        else:
            problems.add("rows of too few or too many cells", path, line)


def _require_columns(path: Path, first_line: str, required: Sequence[str], delimiter: str) -> list[str]:
    """The columns of a header, `required` among them."""
    header = split_header(first_line, delimiter)
    missing = [name for name in required if name not in header]
    if not missing:
        return header
    if not first_line:
        raise MetadataError(f"{path}: empty; expected a header with {', '.join(required)}")
    for other in DELIMITERS:
        if not set(required) - set(split_header(first_line, other)):
            raise MetadataError(f"{path}, line 1: columns are separated by {other!r}; expected {delimiter!r}")
    raise MetadataError(
        f"{path}, line 1: no column {', '.join(missing)}. Is the header missing? The line is {first_line[:120]!r}"
    )


def split_header(first_line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([first_line], delimiter=delimiter), [])]
