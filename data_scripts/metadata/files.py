"""Film metadata in the formats that people have, recognized by their columns and read into `FilmFacts`.

    >>> for file in read_metadata([Path("ml-latest-small"), Path("title.basics.tsv.gz")]):
    ...     print(file.format, file.path, sum(1 for film in file.films), dict(file.problems.counts))

docs/catalog.md lists the formats. Unreadable content is an error with file and line, or counted.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_scripts.metadata import cmu
from data_scripts.metadata.facts import FilmFacts
from data_scripts.metadata.formats import FORMATS, format_of
from data_scripts.metadata.kodi import KodiRows
from data_scripts.metadata.movielens import COLUMNS_100K
from data_scripts.metadata.rows import JsonRows, LetterboxdListRows, ParquetRows, Rows, SeparatedRows, TableRows
from data_scripts.stages.text_files import MetadataError, Problems, text_lines

PARQUET = b"PAR1"
LETTERBOXD_LIST = "Letterboxd list export"
# Files in a folder that may hold films; others are not looked at.
FILES = re.compile(
    r"[^.].*\.(csv|tsv|json|jsonl|ndjson|parquet)(\.gz)?|movies\.dat|u\.item|plot_summaries\.txt|videodb\.xml",
    re.IGNORECASE,
)
ONE_FILM = re.compile(r"(tt)?\d+\.json")
KODI = (".nfo", ".xml")
# Files without a header: what a first line looks like, what separates its columns, and their names.
HEADERLESS: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = (
    (re.compile(r"\d+::.*::\D"), "::", ("movieid", "title", "genres")),
    (
        re.compile(r"\d+(\|[^|]*){4}(\|[01]){19}\s*$"),
        "|",
        COLUMNS_100K,
    ),
    (re.compile(r"\d+::\d+::"), "::", ("userid", "movieid")),
    (re.compile(r"\d+\t\d+\t[\d.]+\t\d+\s*$"), "\t", ("userid", "movieid")),
    (re.compile(r"\d+\t/m/\w+\t"), "\t", cmu.METADATA),
    (re.compile(r"\d+\t[^\t]{20,}$"), "\t", cmu.PLOTS),
)


@dataclass
class MetadataFile:
    """One file, or folder of files of one film each: its films, read as they are iterated, and its problems."""

    path: Path
    format: str
    films: Iterator[FilmFacts]
    problems: Problems


def read_metadata(paths: Sequence[Path]) -> list[MetadataFile]:
    """Recognize files, or all files of folders, each once, in the order given.

    Raises:
        MetadataError: a file of no known format, or nothing with facts about films. Ratings, tags and similar tables
            in a folder are skipped.
    """
    files: dict[Path, MetadataFile] = {}
    for path in paths:
        found = [file for file in (_in_folder(path) if path.is_dir() else [recognize(path)]) if file]
        if not found:
            raise MetadataError(f"{path}: holds no facts of films that a catalog needs{_format_told(path)}")
        for file in found:
            files.setdefault(file.path.resolve(), file)
    return list(files.values())


def _format_told(path: Path) -> str:
    if path.is_dir():
        return ""
    known = format_of(open_rows(path).columns)
    return f" ({known.name})" if known else ""


def _in_folder(folder: Path) -> Iterator[MetadataFile | None]:
    paths = sorted(path for path in folder.iterdir() if FILES.fullmatch(path.name) and path.is_file())
    single = [path for path in paths if ONE_FILM.fullmatch(path.name)]
    if single:
        yield _recognized(JsonRows.open(folder, single))
    for path in paths:
        if path not in single:
            yield recognize(path)
    if nfos := sorted(folder.rglob("*.nfo")):
        yield _recognized(KodiRows(folder, ("nfo",), Problems(), files=nfos))


def recognize(path: Path) -> MetadataFile | None:
    """Recognize a file by its columns; None if it is a known table without facts about films.

    Raises:
        MetadataError: it is of no known format.
    """
    for part, whole in (("links.csv", "movies.csv"), ("plot_summaries.txt", "movie.metadata.tsv")):
        if path.name == part and path.with_name(whole).exists():
            found = recognize(path.with_name(whole))
            if found and found.format.startswith(("MovieLens", "CMU")):
                return found
    return _recognized(open_rows(path))


def open_rows(path: Path) -> Rows:
    """The rows of a file, and their columns.

    Raises:
        MetadataError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start == PARQUET:
        return ParquetRows.open(path)
    if path.suffix.lower() in KODI:
        return KodiRows(path, ("nfo",), Problems(), files=[path])
    first_line = next(text_lines(path), "")
    if first_line.lstrip()[:1] in ("[", "{"):
        return JsonRows.open(path, [path])
    if first_line.startswith(LETTERBOXD_LIST):
        return LetterboxdListRows.open(path)
    for looks, separator, columns in HEADERLESS:
        if looks.match(first_line):
            return SeparatedRows(path, columns, Problems(), separator=separator)
    return TableRows.open(path, first_line)


def _recognized(rows: Rows) -> MetadataFile | None:
    known = format_of(rows.columns)
    if known is None:
        names = ", ".join(dict.fromkeys(each.name for each in FORMATS if each.read))
        raise MetadataError(
            f"{rows.path}, line 1: no columns of a known format ({names}). Is the header missing? Its columns are "
            f"{', '.join(rows.columns)[:120]!r}"
        )
    if not known.read:
        return None
    films = known.read(rows)
    return MetadataFile(rows.path, known.name, films, rows.problems)
