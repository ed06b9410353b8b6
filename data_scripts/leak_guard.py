"""Keep the films that benchmarks test on out of everything that a model is trained on [4.3].

    >>> guard = LeakGuard.read([Path("lvu_1.0"), Path("movie1K.split.v1.json")], movies=Path("catalog/movies"))
    >>> kept, excluded = guard.split(movie_ids)

The paper drops films whose IMDb id is in a benchmark's validation or test set. In addition (ours), a film without IMDb
id is compared by title and year with those excluded films whose titles the catalog or metadata give. Years may differ
by one, and a film without year is excluded by its title alone, because losing a film is better than a leak. A film
under another title is not recognized; `require_imdb_id` excludes all films without IMDb id.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.film_names import imdb_id, is_imdb_id, title_key
from data_scripts.formats.movienet_labels import film_ids_by_part
from data_scripts.inputs import finished
from data_scripts.metadata_files import MetadataError, read_metadata, text_lines

# Every table of LVU is separated by single spaces and ends in these columns.
LVU_COLUMNS = ["youtube_id", "imdb_id"]
Title = tuple[str, int | None]


@dataclass(kw_only=True)
class LeakGuardArguments:
    """Which films a stage leaves out."""

    exclude: list[Path] = field(
        default_factory=list,
        metadata={"help": "label files of benchmarks, or lists of IMDb ids, whose films are left out"},
    )
    movies: Path | None = field(
        default=None, metadata={"help": "the movies dataset: titles, to find films to exclude without IMDb id by"}
    )
    require_imdb_id: bool = field(
        default=False,
        metadata={"help": "leave out films without IMDb id, which --exclude knows by title and year only"},
    )

    def leak_guard(self) -> "LeakGuard":
        """See `LeakGuard.read`."""
        return LeakGuard.read(self.exclude, self.movies, require_imdb_id=self.require_imdb_id)


class LeakGuard:
    """Which films may not be trained on.

    Args:
        lists: IMDb ids by the file that excludes them.
        titles: title keys and years by film id, for the films to check and for the films on the lists.
        require_imdb_id: exclude every film without IMDb id.
    """

    def __init__(
        self, lists: dict[str, set[str]], titles: dict[str, set[Title]] | None = None, require_imdb_id: bool = False
    ):
        self.lists = lists
        self.require_imdb_id = require_imdb_id
        self.ids = set().union(*lists.values())
        self._titles = titles or {}
        self._excluded_years: dict[str, set[int | None]] = defaultdict(set)
        for movie_id in self.ids & self._titles.keys():
            for title, year in self._titles[movie_id]:
                self._excluded_years[title].add(year)
        self._found: dict[str, str] = {}

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        movies: Path | None = None,
        metadata: Sequence[Path] = (),
        require_imdb_id: bool = False,
    ) -> "LeakGuard":
        """A guard from benchmarks' own files.

        Args:
            paths: LVU's folder, or a folder or file in it; MovieNet's split files; text files with one IMDb id per
                line, with or without `tt`, and comments after `#`. Benchmarks' folders and MovieNet's files give the
                films of val and test.
            movies: the catalog's `movies` dataset, for titles.
            metadata: further files with titles of excluded films, in the formats that `make_catalog` reads.

        Raises:
            MetadataError: a list that cannot be read, or holds no film.
            StorageError: `movies` is no finished dataset.
        """
        lists: dict[str, set[str]] = {}
        for path in paths:
            files = _lists_in(path) if path.is_dir() else [path]
            for file in files:
                lists[str(file)] = set(_read_ids(file))
                if not lists[str(file)]:
                    raise MetadataError(f"{file}: excludes no film")
        titles: dict[str, set[Title]] = defaultdict(set)
        if movies is not None:
            for row in finished(movies, "movies").read(["movie_id", "title", "year"]).to_pylist():
                titles[row["movie_id"]].add((title_key(row["title"]), row["year"] or None))
        for source in read_metadata(metadata):
            for film in source.films:
                if film.movie_id and film.title:
                    named = {(title_key(title), film.year) for title in (film.title, *film.other_titles)}
                    titles[film.movie_id] |= named
        return cls(lists, dict(titles), require_imdb_id)

    def excludes(self, movie_id: str, title: str = "", year: int | None = None) -> bool:
        """Whether a film must be left out. `title` and `year` add to what the catalog knows of it."""
        reason = self._reason(movie_id, title, year)
        if reason:
            self._found[movie_id] = reason
        return bool(reason)

    def split(self, movie_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """The films that may be trained on, and those that may not, each in the order given."""
        kept: list[str] = []
        excluded: list[str] = []
        for movie_id in movie_ids:
            (excluded if self.excludes(movie_id) else kept).append(movie_id)
        return kept, excluded

    def record(self) -> dict[str, Any]:
        """For m2s.json: the number of films on each list, and how many films were excluded for each reason."""
        return {
            "lists": {name: len(ids) for name, ids in self.lists.items()},
            "num_listed": len(self.ids),
            "num_listed_with_title": len(self.ids & self._titles.keys()),
            "require_imdb_id": self.require_imdb_id,
            "excluded": dict(sorted(Counter(self._found.values()).items())),
        }

    def _reason(self, movie_id: str, title: str, year: int | None) -> str | None:
        if is_imdb_id(movie_id):
            return "by id" if movie_id in self.ids else None
        if self.require_imdb_id:
            return "without IMDb id"
        titles = set(self._titles.get(movie_id, ()))
        if title:
            titles.add((title_key(title), year or None))
        for key, known_year in titles:
            for excluded_year in self._excluded_years.get(key, ()):
                if known_year is None or excluded_year is None or abs(known_year - excluded_year) <= 1:
                    return "by title and year"
        return None


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
