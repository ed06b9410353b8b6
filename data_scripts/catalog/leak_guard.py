"""Which films may not be trained on: those that benchmarks test on [4.3].

    >>> guard = LeakGuard.read([Path("lvu_1.0"), Path("movie1K.split.v1.json")])
    >>> guard.learn("tt0133093", [FilmFacts(title="Matrix, The", year=1999)])
    >>> guard.reason("the-matrix-2000", [FilmFacts(title="The Matrix", year=2000)])
    'by title and year'

`make_catalog` asks once for every film and marks those with a reason. Later stages read the mark.

The paper drops films whose IMDb id is in a benchmark's validation or test set. In addition (ours), a film without IMDb
id is compared by title and year with those listed films whose titles the catalog's sources tell. Years may differ by
one, and a film without year is excluded by its title alone, because losing a film is better than a leak. A film under
another title is not recognized; `require_imdb_id` excludes all films without IMDb id.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_scripts.catalog.film_names import imdb_id, is_imdb_id, title_key
from data_scripts.formats.movienet_labels import film_ids_by_part
from data_scripts.metadata.facts import FilmFacts
from data_scripts.stages.text_files import MetadataError, text_lines

# Every table of LVU is separated by single spaces and ends in these columns.
LVU_COLUMNS = ["youtube_id", "imdb_id"]


class LeakGuard:
    """Decides which films are excluded from training.

    Args:
        lists: IMDb ids by the file that lists them.
        require_imdb_id: exclude every film without IMDb id.
    """

    def __init__(self, lists: dict[str, set[str]], require_imdb_id: bool = False):
        self.lists = lists
        self.require_imdb_id = require_imdb_id
        self.ids = set().union(*lists.values())
        self._with_title: set[str] = set()
        self._years: dict[str, set[int | None]] = defaultdict(set)  # of listed films, by title

    @classmethod
    def read(cls, paths: Sequence[Path], require_imdb_id: bool = False) -> "LeakGuard":
        """A guard from benchmarks' own files.

        Args:
            paths: LVU's folder, or a folder or file in it; MovieNet's split files; text files with one IMDb id per
                line, with or without `tt`, and comments after `#`. Benchmarks' folders and MovieNet's files give the
                films of val and test.

        Raises:
            MetadataError: a list that cannot be read, or holds no film.
        """
        lists: dict[str, set[str]] = {}
        for path in paths:
            files = _lists_in(path) if path.is_dir() else [path]
            for file in files:
                lists[str(file)] = set(_read_ids(file))
                if not lists[str(file)]:
                    raise MetadataError(f"{file}: excludes no film")
        return cls(lists, require_imdb_id)

    @property
    def digest(self) -> str | None:
        """A short text that changes with the listed films; None if there is no list."""
        if not self.ids:
            return None
        return f"{len(self.ids)} films, {hashlib.sha256(' '.join(sorted(self.ids)).encode()).hexdigest()[:12]}"

    def learn(self, movie_id: str | None, facts: Iterable[FilmFacts]) -> None:
        """Remember the titles and years of a film, if it is listed."""
        if movie_id in self.ids:
            for title, year in _titles(facts):
                self._with_title.add(movie_id)
                self._years[title].add(year)

    def reason(self, movie_id: str, facts: Iterable[FilmFacts]) -> str:
        """Why a film is excluded, by its id, else by its titles and years; empty if it may be trained on."""
        if is_imdb_id(movie_id):
            return "by id" if movie_id in self.ids else ""
        if self.require_imdb_id:
            return "without IMDb id"
        for title, year in _titles(facts):
            for listed_year in self._years.get(title, ()):
                if year is None or listed_year is None or abs(year - listed_year) <= 1:
                    return "by title and year"
        return ""

    def record(self, reasons: Iterable[str]) -> dict[str, Any]:
        """For m2s.json: the number of films on each list, and how many films were excluded for each reason."""
        return {
            "lists": {name: len(ids) for name, ids in self.lists.items()},
            "num_listed": len(self.ids),
            "num_listed_with_title": len(self._with_title),
            "require_imdb_id": self.require_imdb_id,
            "exclude": self.digest,
            "excluded": dict(sorted(Counter(reason for reason in reasons if reason).items())),
        }


def _titles(facts: Iterable[FilmFacts]) -> set[tuple[str, int | None]]:
    """Keys of all titles of a film, each with every year that a source gives it; None if no source gives one."""
    films = list(facts)
    years = {film.year for film in films if film.year} or {None}
    titles = {title_key(title) for film in films for title in (film.title, *film.other_titles) if title}
    return {(title, year) for title in titles for year in years}


def _lists_in(folder: Path) -> list[Path]:
    names = ("val.csv", "test.csv", "*split*.json")
    files = sorted({file for name in names for file in folder.rglob(name)})
    if not files:
        raise MetadataError(
            f"{folder}: holds none of {', '.join(names)}; give LVU's folder, MovieNet's or a file of ids"
        )
    return files


def _read_ids(path: Path) -> Iterator[str]:
    lines = list(text_lines(path))
    if lines and lines[0].lstrip().startswith("{"):
        for movie_ids in film_ids_by_part(path, ("val", "test")).values():
            yield from movie_ids
        return
    is_lvu = bool(lines) and lines[0].split()[-2:] == LVU_COLUMNS
    for number, line in enumerate(lines[is_lvu:], 1 + is_lvu):
        text = line.split("#")[0].strip()
        if is_lvu and text:
            text = text.split()[-1]
        movie_id = imdb_id(text)
        if text and movie_id is None:
            raise MetadataError(f"{path}, line {number}: {text[:80]!r} is no IMDb id, such as tt0133093 or 0133093")
        if movie_id:
            yield movie_id
