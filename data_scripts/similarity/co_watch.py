"""Count how often two films are watched one after the other, or by the same person, from ratings or a watch log.

The file is a CSV, plain or compressed, with a header: userId, movieId and timestamp (seconds, or ISO 8601) in any
order, as in MovieLens' ratings.csv; or one of MovieLens' older files, `ratings.dat` or `u.data`. Any rating counts as
having watched the film, whatever its stars.

The paper [4.1] ranks films by how often they were watched right after the given one. It has no rule for films watched
at the same time, and in MovieLens a sixth of a person's ratings have the same second as the rating before. Ours: films
of one timestamp form a burst of unknown order, and all orders count the same. Hence

    within a burst of n films      each of the n(n-1) ordered pairs counts 1/n
    from a burst of n to the next of m      each of the n·m pairs counts 1/(n·m)

and a person of N films counts N-1 in total, whatever the bursts are.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from scipy import sparse
from tqdm import tqdm

from data_scripts.stages.text_files import MetadataError, read_table, text_lines

COLUMNS = ("userId", "movieId", "timestamp")
BLOCK_BYTES = 2**24
PAIRS_AT_ONCE = 2**22
FILMS_AT_ONCE = 512


@dataclass
class Watches:
    """The films that each person watched, in order; a person's films are together, and each film appears once.

    Attributes:
        person, movie: int32 arrays of the same length; `movie` is an index of the catalog.
        seconds: when; equal for films of one burst.
        counts: what was read and what was left out.
    """

    person: np.ndarray
    movie: np.ndarray
    seconds: np.ndarray
    num_movies: int
    counts: dict[str, int]

    @property
    def watchers(self) -> np.ndarray:
        """Number of persons who watched each film."""
        return np.bincount(self.movie, minlength=self.num_movies)


def read_watches(path: Path, movies: Mapping[str, int], num_movies: int) -> Watches:
    """Read a file of ratings or a watch log.

    Args:
        movies: maps the file's film ids to indexes of the catalog. Films that it lacks are left out, as if nobody had
            watched them, and counted.

    Raises:
        MetadataError: it is not such a file; the message names the line.
    """
    layout = _layout(path)
    persons: dict[str, int] = {}
    unknown: set[str] = set()
    matched: set[str] = set()
    blocks, num_rows, num_unknown = [], 0, 0
    for block in _blocks(path, layout):
        person, movie, seconds = block.columns
        _refuse_empty(path, block, num_rows + layout.header_lines)
        people = np.array([persons.setdefault(name, len(persons)) for name in person.dictionary.to_pylist()], np.int32)
        names = movie.dictionary.to_pylist()
        known = np.array([movies.get(name, -1) for name in names], np.int32)
        unknown.update(name for name in names if name not in movies)
        matched.update(name for name in names if name in movies)
        films = known[movie.indices.to_numpy()]
        kept = films >= 0
        times = seconds.cast(pa.int64()) if pa.types.is_timestamp(seconds.type) else seconds
        blocks.append((people[person.indices.to_numpy()][kept], films[kept], times.to_numpy()[kept]))
        num_rows, num_unknown = num_rows + len(kept), num_unknown + int((~kept).sum())
    if num_unknown == num_rows:
        raise MetadataError(
            f"{path}: none of its {num_rows} ratings is of a film of the catalog, but of such as {min(unknown)!r}; "
            "pass the links.csv that belongs to it, if its ids are not those of the catalog"
        )
    person, movie, seconds = _in_order(*map(np.concatenate, zip(*blocks, strict=True)), num_movies)
    counts = {
        "ratings": num_rows,
        "persons": len(persons),
        "ratings_of_unknown_films": num_unknown,
        "known_films": len(matched),
        "unknown_films": len(unknown),
        "repeated_ratings": num_rows - num_unknown - len(person),
    }
    return Watches(person, movie, seconds, num_movies, counts)


def watched_next(watches: Watches, max_burst: int) -> tuple[Iterator[sparse.csr_array], dict[str, int]]:
    """How often each film was watched right after each other film.

    Args:
        max_burst: number of films in the largest burst that counts. A larger burst says nothing about order, so it is
            left out, together with the steps to and from it.

    Returns:
        Expected counts in blocks of `FILMS_AT_ONCE` rows, in order: float32, (films of the block, films); row a, column
        b is how many persons watched b right after a. Second, counts of what was left out.
    """
    # A pair joins a film of a burst to a film of the next burst, or to a film of the same burst.
    start = np.flatnonzero(_changes(watches.person) | _changes(watches.seconds))
    length = np.diff(start, append=len(watches.person))
    long = length > max_burst
    step = (watches.person[start[1:]] == watches.person[start[:-1]]) & ~long[1:] & ~long[:-1]
    inside = (length > 1) & ~long
    before, after = np.flatnonzero(step), np.flatnonzero(step) + 1
    first = np.concatenate([start[before], start[inside]])
    second = np.concatenate([start[after], start[inside]])
    num_first = np.concatenate([length[before], length[inside]])
    num_second = np.concatenate([length[after], length[inside]])
    weight = np.concatenate([1 / (length[before] * length[after]), 1 / length[inside]])
    sizes = np.cumsum(num_first * num_second)
    total = sparse.csr_array((watches.num_movies, watches.num_movies))
    left_out = {"long_bursts": int(long.sum()), "ratings_in_long_bursts": int(length[long].sum())}
    cuts = np.unique(np.searchsorted(sizes, np.arange(PAIRS_AT_ONCE, sizes[-1] if len(sizes) else 0, PAIRS_AT_ONCE)))
    for rows in tqdm(np.split(np.arange(len(sizes)), cuts), "watched next", disable=None):
        each = num_first[rows] * num_second[rows]
        row = np.repeat(rows, each)
        place = np.arange(len(row)) - np.repeat(np.cumsum(each) - each, each)
        a = watches.movie[first[row] + place // num_second[row]]
        b = watches.movie[second[row] + place % num_second[row]]
        apart = a != b
        total += sparse.coo_array((weight[row][apart], (a[apart], b[apart])), shape=total.shape).tocsr()
    # Rounding makes counts equal that differ only by the order of their summands.
    total.data = total.data.astype(np.float32)
    return (total[n : n + FILMS_AT_ONCE] for n in range(0, watches.num_movies, FILMS_AT_ONCE)), left_out


def watched_both(watches: Watches, max_films: int) -> tuple[Iterator[sparse.csr_array], dict[str, int]]:
    """How many persons watched both of two films, in any order: co-rating (ours).

    Args:
        max_films: persons of more films are left out, because their pairs are most of the work and they watch
            everything.

    Returns:
        Counts in blocks of `FILMS_AT_ONCE` rows, in order: float32, (films of the block, films), 0 for a film with
        itself. Second, counts of what was left out.
    """
    num_films = np.bincount(watches.person)
    heavy = num_films > max_films
    kept = ~heavy[watches.person]
    ones = np.ones(int(kept.sum()), np.float32)
    shape = (len(num_films), watches.num_movies)
    seen = sparse.csr_array((ones, (watches.person[kept], watches.movie[kept])), shape=shape)
    left_out = {"heavy_persons": int(heavy.sum()), "ratings_of_heavy_persons": int((~kept).sum())}

    def blocks() -> Iterator[sparse.csr_array]:
        by_film = seen.T.tocsr()
        for first in tqdm(range(0, watches.num_movies, FILMS_AT_ONCE), "watched both", disable=None):
            both = by_film[first : first + FILMS_AT_ONCE] @ seen
            film = first + np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
            both.data[film == both.indices] = 0
            yield both

    return blocks(), left_out


class _Layout(NamedTuple):
    """How a file is written: types of `COLUMNS`, what separates columns, and their names if there is no header."""

    types: dict[str, pa.DataType]
    delimiter: str = ","
    names: tuple[str, ...] | None = None

    @property
    def header_lines(self) -> int:
        return 0 if self.names else 1


def _layout(path: Path) -> _Layout:
    """The layout of a file; the first row tells how times are written."""
    first_line = next(text_lines(path), "")
    if re.match(r"\d+::\d+::", first_line):  # `::` is two separators with nothing between them
        return _Layout(_types("0"), ":", ("userId", "1", "movieId", "2", "rating", "3", "timestamp"))
    if re.fullmatch(r"\d+\t\d+\t[\d.]+\t\d+\s*", first_line):
        return _Layout(_types("0"), "\t", ("userId", "movieId", "rating", "timestamp"))
    _, first = next(read_table(path, COLUMNS), (0, None))
    if first is None:
        raise MetadataError(f"{path}: holds a header and no ratings")
    return _Layout(_types(first["timestamp"]))


def _types(time: str) -> dict[str, pa.DataType]:
    name = pa.dictionary(pa.int32(), pa.string())
    return dict(zip(COLUMNS, (name, name, _type_of_time(time)), strict=True))


def _type_of_time(example: str) -> pa.DataType:
    for kind in (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            pa.array([example]).cast(kind)
        except pa.ArrowInvalid:
            continue
        return kind
    return pa.int64()  # so that the reader names the line


def _blocks(path: Path, layout: _Layout) -> Iterator[pa.RecordBatch]:
    # Errors name the row only if the reader uses one thread.
    read = pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=layout.names)
    parse = pa.csv.ParseOptions(delimiter=layout.delimiter)
    convert = pa.csv.ConvertOptions(column_types=layout.types, include_columns=COLUMNS, strings_can_be_null=True)
    try:
        with pa.csv.open_csv(path, read, parse, convert) as reader, tqdm(unit=" ratings", disable=None) as bar:
            for block in reader:
                bar.update(len(block))
                yield block
    except pa.ArrowException as error:
        row = re.search(r"Row #(\d+)", str(error))
        place = f"{path}, line {_line_of(path, int(row[1]))}" if row else str(path)
        raise MetadataError(f"{place}: {error}") from error


def _refuse_empty(path: Path, block: pa.RecordBatch, lines_before: int) -> None:
    for name, column in zip(block.schema.names, block.columns, strict=True):
        if column.null_count:
            row = pa.compute.index(column.is_null(), True).as_py()
            raise MetadataError(f"{path}, line {_line_of(path, lines_before + row + 1)}: no {name}")


def _line_of(path: Path, row: int) -> int:
    """The line of a row of the file. Rows are counted from 1, with the header but without blank lines."""
    full = (number for number, line in enumerate(text_lines(path), 1) if line.strip())
    return next(itertools.islice(full, row - 1, None), row)


def _in_order(
    person: np.ndarray, movie: np.ndarray, seconds: np.ndarray, num_movies: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort by person and time, and keep only a person's first rating of each film."""
    order = np.lexsort((seconds, person))
    person, movie, seconds = person[order], movie[order], seconds[order]
    _, first = np.unique(person.astype(np.int64) * num_movies + movie, return_index=True)
    first.sort()
    return person[first], movie[first], seconds[first]


def _changes(values: np.ndarray) -> np.ndarray:
    """True where a value differs from the one before, and at the first."""
    return np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]
