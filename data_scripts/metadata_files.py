"""Film metadata in common formats, recognized by their columns and read into `FilmFacts`.

    >>> for file in read_metadata([Path("ml-latest-small"), Path("title.basics.tsv.gz")]):
    ...     print(file.format, file.path, sum(1 for film in file.films), dict(file.problems.counts))

The formats are MovieLens, IMDb's title.basics, TMDB and the Kaggle tables made of it, MovieNet's meta, Condensed
Movies, Wikipedia as JSON and as plots CSV, and a CSV of one's own. Unreadable content is an error with file and line,
or counted.
"""

import ast
import codecs
import csv
import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_scripts.film_names import imdb_id, split_title, split_year

# Limit of characters in one cell: the longest plots have 40 thousand; an unclosed quote ends here.
MAX_CELL = 2**24
HTML = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")
NO_GENRE = {"", "\\n", "unknown", "(no genres listed)"}
IMDB = ("tconst", "titleType", "primaryTitle", "startYear", "genres")
MOVIELENS = ("movieId", "title", "genres")
MOVIELENS_LINKS = ("movieId", "imdbId", "tmdbId")
TMDB = ("id", "title", "release_date", "genres", "overview")
CONDENSED_TITLES = ("imdbid", "title", "year")
CONDENSED_GENRES = ("imdbid", "genre")
CONDENSED_DESCRIPTIONS = ("imdbid", "videoid", "description")
WIKIPEDIA_PLOTS = ("Release Year", "Title", "Genre", "Plot")
OWN = ("movie_id", "imdb_id", "title", "year", "genres", "synopsis", "video")
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


@dataclass(slots=True)
class FilmFacts:
    """One source's facts about one film; `None` or empty if unknown.

    Args:
        movie_id: `tt…` if it is an IMDb id; a table of one's own may have other ids.
        other_titles: more titles of the same film, to join by.
        video: a file that the source names.
        line: line in its file, for messages.
    """

    movie_id: str | None = None
    tmdb_id: str | None = None
    title: str = ""
    year: int | None = None
    genres: tuple[str, ...] = ()
    synopsis: str = ""
    video: str = ""
    other_titles: tuple[str, ...] = ()
    line: int = 0


@dataclass
class MetadataFile:
    """One file, or folder of MovieNet's files: its films, read as they are iterated, and its problems."""

    path: Path
    format: str
    films: Iterator[FilmFacts]
    problems: Problems


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text, gzipped or not, without byte order mark.

    Raises:
        MetadataError: a web page, another encoding, a damaged gzip file.
    """
    with open(path, "rb") as file:
        opener: Callable = gzip.open if file.read(2) == b"\x1f\x8b" else open
    try:
        with opener(path, "rb") as file:
            if file.peek(512).removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(HTML):
                raise MetadataError(f"{path}, line 1: a web page, not data; download the file itself")
            for number, line in enumerate(file, 1):
                try:
                    yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode()
                except UnicodeDecodeError as error:
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
    header = _split_header(first_line, delimiter)
    missing = [name for name in required if name not in header]
    if not missing:
        return header
    if not first_line:
        raise MetadataError(f"{path}: empty; expected a header with {', '.join(required)}")
    for other in DELIMITERS:
        if not set(required) - set(_split_header(first_line, other)):
            raise MetadataError(f"{path}, line 1: columns are separated by {other!r}; expected {delimiter!r}")
    raise MetadataError(
        f"{path}, line 1: no column {', '.join(missing)}. Is the header missing? The line is {first_line[:120]!r}"
    )


def _split_header(first_line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([first_line], delimiter=delimiter), [])]


def genre_names(cell: str | Sequence[str] | None) -> tuple[str, ...]:
    """Genres of a cell: a JSON or Python list of names or of dicts with a name, or names between `|`, `,` or `;`.

    Raises:
        ValueError: a list that cannot be read.
    """
    if isinstance(cell, str):
        try:
            cell = ast.literal_eval(cell) if cell.lstrip().startswith("[") else re.split(r"[|,;]", cell)
        except SyntaxError as error:
            raise ValueError(str(error)) from None
    names = [" ".join(str(item["name"] if isinstance(item, dict) else item).split()) for item in cell or ()]
    return tuple(dict.fromkeys(name for name in names if name.casefold() not in NO_GENRE))


@dataclass
class Cells:
    """Cells of one row as facts; a cell that cannot be read counts as a problem and as unknown."""

    path: Path
    place: int | str
    problems: Problems

    def imdb_id(self, text: Any) -> str | None:
        return self._known(text, imdb_id(text), "ids that are no IMDb ids")

    def year(self, text: Any) -> int | None:
        found = re.match(r"(1[89]\d\d|20\d\d)(?!\d)", str(text or "").strip())
        return self._known(text, int(found[1]) if found else None, "years that cannot be read")

    def genres(self, cell: Any) -> tuple[str, ...]:
        try:
            return genre_names(cell)
        except (ValueError, TypeError, KeyError):
            self.problems.add("genres that cannot be read", self.path, self.place)
            return ()

    def _known(self, text: Any, value: Any, kind: str) -> Any:
        if value is None and str(text or "").strip() not in ("", r"\N", "None", "nan"):
            self.problems.add(kind, self.path, self.place)
        return value


def read_movielens(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """`movies.csv`, with the ids of the `links.csv` beside it."""
    links_path = path.with_name("links.csv")
    links: dict[str, FilmFacts] = {}
    for number, link in _read_links(links_path, problems) if links_path.exists() else ():
        if number in links:
            problems.add("movieIds repeated in links.csv", links_path, link.line)
        links.setdefault(number, link)
    films = set()
    for line, row in read_table(path, MOVIELENS):
        films.add(row["movieId"])
        link = links.get(row["movieId"], FilmFacts())
        if not link.line:
            problems.add("films without a row in links.csv", path, line)
        whole, year = split_year(row["title"])
        title, others = split_title(whole)
        genres = Cells(path, line, problems).genres(row["genres"])
        yield FilmFacts(link.movie_id, link.tmdb_id, title, year, genres, other_titles=others, line=line)
    for link in (link for number, link in links.items() if number not in films):
        problems.add("rows of links.csv of no film in movies.csv", links_path, link.line)


def _read_links(path: Path, problems: Problems) -> Iterator[tuple[str, FilmFacts]]:
    for line, row in read_table(path, MOVIELENS_LINKS):
        movie_id = Cells(path, line, problems).imdb_id(row["imdbId"])
        yield row["movieId"], FilmFacts(movie_id, row["tmdbId"].removesuffix(".0") or None, line=line)


def read_links(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """`links.csv` alone: pairs of IMDb id and TMDB id."""
    yield from (facts for _, facts in _read_links(path, problems))


def read_imdb(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """`title.basics.tsv.gz`: cinema and TV films, without series, episodes and shorts. Streams 11 million rows."""
    for line, row in read_table(path, IMDB, "\t", csv.QUOTE_NONE):
        if row["titleType"] not in ("movie", "tvMovie"):
            problems.add("titles that are no films", path, line)
            continue
        cells, other = Cells(path, line, problems), row.get("originalTitle", "")
        yield FilmFacts(
            cells.imdb_id(row["tconst"]),
            title=row["primaryTitle"],
            year=cells.year(row["startYear"]),
            genres=cells.genres(row["genres"]),
            other_titles=(other,) if other not in ("", row["primaryTitle"], r"\N") else (),
            line=line,
        )


def read_tmdb(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """TMDB's tables: 5,000 films with JSON genres, Kaggle's movies_metadata with Python genres, or 930,000 films."""
    for line, row in read_table(path, TMDB, problems=problems):
        cells, other = Cells(path, line, problems), row.get("original_title", "")
        yield FilmFacts(
            cells.imdb_id(row.get("imdb_id")),
            row["id"].removesuffix(".0"),
            row["title"],
            cells.year(row["release_date"]),
            cells.genres(row["genres"]),
            row["overview"].strip(),
            other_titles=(other,) if other not in ("", row["title"]) else (),
            line=line,
        )


def read_condensed_titles(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """Condensed Movies' `movies.csv`: title and year."""
    for line, row in read_table(path, CONDENSED_TITLES):
        cells = Cells(path, line, problems)
        yield FilmFacts(cells.imdb_id(row["imdbid"]), None, row["title"], cells.year(row["year"]), line=line)


def read_condensed_genres(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """Condensed Movies' `movie_info.csv`: genres."""
    for line, row in read_table(path, CONDENSED_GENRES):
        cells = Cells(path, line, problems)
        yield FilmFacts(cells.imdb_id(row["imdbid"]), genres=cells.genres(row["genre"]), line=line)


def read_condensed_descriptions(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """Condensed Movies' `descriptions.csv`: the joined descriptions of a film's clips are its synopsis.

    Clips have the order of the `clips.csv` beside it, else of the file.
    """
    clips, order = path.with_name("clips.csv"), {}
    for line, row in read_table(clips, ("videoid", "clip_idx")) if clips.exists() else ():
        try:
            order[row["videoid"]] = float(row["clip_idx"])
        except ValueError:
            problems.add("clips without a number", clips, line)
    told: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for line, row in read_table(path, CONDENSED_DESCRIPTIONS):
        movie_id, text = Cells(path, line, problems).imdb_id(row["imdbid"]), row["description"].strip()
        if movie_id and text:
            told[movie_id].append((order.get(row["videoid"], 0), line, text))
        else:
            problems.add("clips without a film or a description", path, line)
    for movie_id, clips_of_film in told.items():
        synopsis = " ".join(text for *_, text in sorted(clips_of_film))
        yield FilmFacts(movie_id, synopsis=synopsis, line=clips_of_film[0][1])


def read_wikipedia_plots(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """Kaggle's `wiki_movie_plots_deduped.csv`."""
    for line, row in read_table(path, WIKIPEDIA_PLOTS):
        cells = Cells(path, line, problems)
        genres = tuple(name.title() for name in cells.genres(row["Genre"].replace("/", ",")))
        yield FilmFacts(
            None, None, row["Title"], cells.year(row["Release Year"]), genres, row["Plot"].strip(), line=line
        )


def read_own(path: Path, problems: Problems) -> Iterator[FilmFacts]:
    """A CSV of one's own: any of movie_id, imdb_id, title, year, genres, synopsis, video, in any order.

    A `movie_id` of `tt` or at least seven digits is an IMDb id. A relative `video` is looked for beside the table.
    """
    for line, row in read_table(path, ()):
        if line == 2 and (unread := sorted(row.keys() - set(OWN))):
            problems.add(f"columns that are not read: {', '.join(unread)}", path, 1)
        cells = Cells(path, line, problems)
        own = row.get("movie_id", "").strip()
        movie_id = cells.imdb_id(row.get("imdb_id")) or (imdb_id(own) if re.match(r"tt\d|\d{7}", own) else own)
        title = row.get("title", "").strip()
        if not movie_id and not title:
            problems.add("rows without an id or a title", path, line)
            continue
        video, genres = row.get("video", "").strip(), cells.genres(row.get("genres"))
        yield FilmFacts(
            movie_id or None,
            title=title,
            year=cells.year(row.get("year")),
            genres=genres,
            synopsis=row.get("synopsis", "").strip(),
            video=os.path.abspath(path.parent / video) if video else "",
            line=line,
        )


def read_json(paths: Sequence[Path], problems: Problems) -> Iterator[FilmFacts]:
    """Lists of films as in Wikipedia's dump, or MovieNet's `meta` with one film per file."""
    for path in paths:
        text = "".join(text_lines(path))
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise MetadataError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from None
        for number, entry in enumerate(content if isinstance(content, list) else [content], 1):
            if not isinstance(entry, dict) or not (entry.get("title") or entry.get("imdb_id")):
                problems.add("entries without a title or an id", path, f"entry {number}")
                continue
            cells = Cells(path, f"entry {number}", problems)
            title, year = split_year(str(entry.get("title") or ""))
            yield FilmFacts(
                cells.imdb_id(entry.get("imdb_id")),
                str(entry.get("tmdb_id") or "") or None,
                title,
                cells.year(entry.get("year")) or year,
                cells.genres(entry.get("genres")),
                str(entry.get("extract") or entry.get("overview") or entry.get("storyline") or "").strip(),
                line=number,
            )


class Table(NamedTuple):
    """A known table: the columns that identify it, and its reader; None if it has no facts about films."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Path, Problems], Iterator[FilmFacts]] | None
    delimiter: str = ","


# A file is the first of these tables whose columns its header has, separated by the table's delimiter.
TABLES = (
    Table("IMDb title.basics", IMDB, read_imdb, "\t"),
    Table("MovieLens", MOVIELENS, read_movielens),
    Table("MovieLens links", MOVIELENS_LINKS, read_links),
    Table("TMDB", TMDB, read_tmdb),
    Table("Condensed Movies, titles", CONDENSED_TITLES, read_condensed_titles),
    Table("Condensed Movies, genres", CONDENSED_GENRES, read_condensed_genres),
    Table("Condensed Movies, descriptions", CONDENSED_DESCRIPTIONS, read_condensed_descriptions),
    Table("Wikipedia plots", WIKIPEDIA_PLOTS, read_wikipedia_plots),
    Table("MovieLens ratings or tags", ("userId", "movieId"), None),
    Table("MovieLens genome scores", ("movieId", "tagId"), None),
    Table("MovieLens genome tags", ("tagId", "tag"), None),
    Table("IMDb title.ratings", ("tconst", "averageRating"), None, "\t"),
    Table("Condensed Movies, split", ("imdbid", "split"), None),
    Table("Condensed Movies, casts", ("imdbid", "cast"), None),
    Table("Condensed Movies, clips", ("videoid", "clip_idx"), None),
    Table("Condensed Movies, durations", ("videoid", "duration"), None),
    Table("TMDB credits", ("cast", "crew"), None),
    Table("TMDB keywords", ("id", "keywords"), None),
    *(Table("own table", (column,), read_own) for column in ("movie_id", "imdb_id", "title")),
)


def read_metadata(paths: Sequence[Path]) -> list[MetadataFile]:
    """Recognize files, or all tables and JSON files of folders, each once, in the order given.

    Raises:
        MetadataError: a file of no known format, or nothing with facts about films. Ratings, tags and similar tables
            in a folder are skipped.
    """
    files: dict[Path, MetadataFile] = {}
    for path in paths:
        found = [file for file in (_in_folder(path) if path.is_dir() else [recognize(path)]) if file]
        if not found:
            raise MetadataError(f"{path}: holds no facts of films that a catalog needs")
        for file in found:
            files.setdefault(file.path.resolve(), file)
    return list(files.values())


def _in_folder(folder: Path) -> Iterator[MetadataFile | None]:
    paths = sorted(path for path in folder.iterdir() if re.match(r"[^.].*\.(csv|tsv|json)(\.gz)?$", path.name))
    movienet = [path for path in paths if re.match(r"tt\d+\.json", path.name)]
    if movienet:
        problems = Problems()
        yield MetadataFile(folder, "MovieNet", read_json(movienet, problems), problems)
    yield from (recognize(path) for path in paths if path not in set(movienet))


def recognize(path: Path) -> MetadataFile | None:
    """Recognize a file by its first line; None if it is a known table without facts about films.

    Raises:
        MetadataError: it is of no known format.
    """
    first_line, problems = next(text_lines(path), ""), Problems()
    if (start := first_line.lstrip()[:1]) in ("[", "{"):
        return MetadataFile(path, "Wikipedia" if start == "[" else "MovieNet", read_json([path], problems), problems)
    for table in TABLES:
        if set(table.columns) <= set(_split_header(first_line, table.delimiter)):
            if table.read is None:
                return None
            films = path.with_name("movies.csv")
            if table.read is read_links and films.exists():
                found = recognize(films)
                if found and found.format == "MovieLens":
                    return found
            return MetadataFile(path, table.name, table.read(path, problems), problems)
    for table, delimiter in itertools.product(TABLES, DELIMITERS):
        if set(table.columns) <= set(_split_header(first_line, delimiter)):
            raise MetadataError(
                f"{path}, line 1: columns are separated by {delimiter!r}; expected {table.delimiter!r} ({table.name})"
            )
    raise MetadataError(
        f"{path}, line 1: no columns of a known format ({', '.join(table.name for table in TABLES if table.read)}). Is "
        f"the header missing? The line is {first_line[:120]!r}"
    )
