"""Which film of the catalog each id of a file of ratings is.

If a table of links is given, it translates the ids. Otherwise, if MovieLens' films lie beside the ratings, the ids are
MovieLens' numbers, and films are matched by IMDb id or by title and year. Otherwise the ids are the catalog's own.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_scripts.catalog.film_names import imdb_id, is_imdb_id, title_key
from data_scripts.metadata.facts import FilmFacts
from data_scripts.metadata.files import open_rows
from data_scripts.metadata.formats import format_of
from data_scripts.metadata.movielens import FILMS, numbered_films
from data_scripts.similarity.co_watch import Watches
from data_scripts.stages.text_files import MetadataError, read_table


@dataclass
class RatedFilms:
    """Places in the catalog by the ids of a file of ratings; `are_own` if these are the catalog's own ids."""

    places: Mapping[str, int]
    are_own: bool

    @classmethod
    def read(
        cls,
        ratings: Path,
        links: Path | None,
        movie_ids: Sequence[str],
        titles: Sequence[str],
        years: Sequence[int],
    ) -> "RatedFilms":
        """Args: links: a CSV of movieId and imdbId. movie_ids, titles, years: the catalog's; 0 for no year.

        Raises:
            MetadataError: the links, or MovieLens' films beside the ratings, cannot be read.
        """
        places = {movie_id: n for n, movie_id in enumerate(movie_ids)}
        if links is not None:
            rows = read_table(links, ("movieId", "imdbId"))
            linked = ((row["movieId"], imdb_id(row["imdbId"])) for _, row in rows)
            return cls({number: places[movie_id] for number, movie_id in linked if movie_id in places}, are_own=False)
        films = _movielens_beside(ratings)
        if not films:
            return cls(places, are_own=True)
        by_title: dict[tuple[str, int], set[int]] = defaultdict(set)
        for place, (title, year) in enumerate(zip(titles, years, strict=True)):
            by_title[title_key(title), year].add(place)
        found = {number: _place(facts, places, by_title) for number, facts in films.items()}
        return cls({number: place for number, place in found.items() if place is not None}, are_own=False)

    def require_matches(self, ratings: Path, watches: Watches) -> None:
        """Refuse ratings whose ids are probably another catalog's numbers.

        Raises:
            MetadataError: they match less than half of the catalog; or they are the catalog's own, none of IMDb's, and
                most of them are unknown.
        """
        watched = np.flatnonzero(watches.watchers)
        matched, unknown = watches.counts["known_films"], watches.counts["unknown_films"]
        fix = "pass the links.csv that belongs to them; if they are right, pass --allow-few-matches"
        if 2 * len(watched) < watches.num_movies:
            told = f"its ids match {len(watched)} of the catalog's {watches.num_movies} films, less than half"
            raise MetadataError(f"{ratings}: {told}. If they are another catalog's numbers, {fix}")
        names = {place: name for name, place in self.places.items()}
        if self.are_own and matched < unknown and not all(is_imdb_id(names[place]) for place in watched):
            told = f"{unknown} of its {matched + unknown} films are not in the catalog"
            raise MetadataError(f"{ratings}: {told}. If its ids are another catalog's numbers, {fix}")


def _movielens_beside(ratings: Path) -> dict[str, FilmFacts]:
    for name in FILMS:
        path = ratings.with_name(name)
        if path.exists():
            rows = open_rows(path)
            known = format_of(rows.columns)
            if known and known.name.startswith("MovieLens"):
                return dict(numbered_films(rows))
    return {}


def _place(facts: FilmFacts, places: Mapping[str, int], by_title: Mapping[tuple[str, int], set[int]]) -> int | None:
    """The film's place by IMDb id, else by title and year, if exactly one film has these."""
    if facts.movie_id in places:
        return places[facts.movie_id]
    for title in (facts.title, *facts.other_titles):
        found = by_title.get((title_key(title), facts.year or 0), set())
        if len(found) == 1:
            return next(iter(found))
    return None
