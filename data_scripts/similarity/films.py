"""The similar films of a catalog, source by source: the work of `data_scripts.similar_movies`."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from data_scripts.similar_movies import WATCHED, SimilarMoviesArguments
from data_scripts.similarity.co_watch import Watches, read_watches, watched_both, watched_next
from data_scripts.similarity.neighbors import Neighbors, best_neighbors, weighted
from data_scripts.similarity.rated_films import RatedFilms
from data_scripts.similarity.synopsis import TextEncoder, inner_products, tf_idf
from data_scripts.stages.inputs import finished, leak_guard_of
from modeling_m2s.dataset_cards_m2s import shards_digest
from modeling_m2s.storage_m2s import FilmDataset, exclusive, require_settings
from modeling_m2s.video_m2s import fingerprint

# Added to a film's watchers before the correction, so that films that hardly anyone watched do not come first.
SHRINKAGE = 10
MAX_FILMS_OF_A_PERSON = 2000


@dataclass
class Catalog:
    """Columns of the `movies` dataset for the films that may be similar, sorted by id."""

    movie_ids: list[str]
    titles: list[str]
    years: list[int]
    genres: list[list[str]]
    synopses: list[str]

    def __len__(self) -> int:
        return len(self.movie_ids)

    def label(self, movie: int) -> str:
        return f"{self.titles[movie]} ({self.years[movie] or '?'})"

    def find(self, name: str) -> list[int]:
        """Films with this title, this title and year, or this id.

        Raises:
            ValueError: there are none.
        """
        wanted = name.casefold()
        found = [n for n in range(len(self)) if wanted in (self.titles[n].casefold(), self.label(n).casefold())] or [
            n for n in range(len(self)) if self.movie_ids[n] == name
        ]
        if not found:
            raise ValueError(f"--show {name!r}: no film of this title or id; excluded films are not shown")
        return found


def similar_movies(arguments: SimilarMoviesArguments) -> dict[str, Any]:
    """Write the `similar_movies` dataset, print what is in it, and return its record.

    Excluded films, and those outside of `shots`, are left out before anything is counted or drawn, so they are in no
    pair.

    Raises:
        ValueError: settings or files that cannot be used; a MetadataError names file and line.
        StorageError: the datasets are not finished, or the output was made with other settings.
        OSError: there is no such text encoder.
    """
    catalog, counts = read_catalog(arguments)
    shown = [movie for name in arguments.show for movie in catalog.find(name)]
    encoder = TextEncoder(arguments.text_encoder) if arguments.text_encoder else None
    settings, inputs = settings_of(arguments, encoder), inputs_of(arguments)
    dataset = FilmDataset(arguments.output, "similar_movies")
    with exclusive(arguments.output):
        if dataset.record:
            require_settings(arguments.output, dataset.record["settings"], settings)
        watches, found, counts["sources"] = None, {}, {}
        if WATCHED.intersection(arguments.sources):
            watches = read_ratings(arguments, catalog)
            counts["ratings"] = watches.counts
        for source in arguments.sources:
            if source == "genre":
                found[source], facts = draw_of_genre(catalog, arguments.top_k, arguments.seed)
            elif source == "synopsis":
                found[source], facts = nearest_synopses(catalog, encoder, arguments)
            else:
                found[source], facts = most_watched(source, watches, arguments)
            counts["sources"][source] = {**facts, **describe(found[source], catalog)}
        # The dataset begins only here, so that a failed run does not block a later one with other settings.
        dataset.begin(settings)
        dataset.reopen()  # while the shard changes, the old record would say that the dataset is finished
        dataset.write_all(as_table(found, catalog), **inputs, candidates=catalog.movie_ids, counts=counts)
    print_summary(counts, arguments.output)
    for movie in shown:
        print_neighbors(movie, found, catalog)
    print(f"\nnext: accelerate launch -m train.train_mil --features FEATURES --similar {arguments.output} --output RUN")
    return dataset.record


def read_catalog(arguments: SimilarMoviesArguments) -> tuple[Catalog, dict[str, Any]]:
    """The films that may be similar, and how many films are left out for each reason."""
    rows = finished(arguments.movies, "movies").read().to_pylist()
    counts: dict[str, Any] = {"movies": len(rows)}
    steps: dict[str, Callable[[dict[str, Any]], bool]] = {"excluded": lambda row: not row["excluded"]}
    if arguments.shots:
        filmed = finished(arguments.shots, "shots").films().keys()
        steps["without_shots"] = lambda row: row["movie_id"] in filmed
    for name, keeps in steps.items():
        kept = [row for row in rows if keeps(row)]
        counts[name], rows = len(rows) - len(kept), kept
    if len(rows) < 2:
        raise ValueError(f"{arguments.movies}: {len(rows)} of {counts['movies']} films may be used; at least 2 needed")
    columns = ([row[name] for row in rows] for name in ("movie_id", "title", "year", "genres", "synopsis"))
    return Catalog(*columns), {**counts, "candidates": len(rows)}


def settings_of(arguments: SimilarMoviesArguments, encoder: TextEncoder | None) -> dict[str, Any]:
    """The settings that the pairs depend on, besides their inputs."""
    settings: dict[str, Any] = {
        "sources": arguments.sources,
        "top_k": arguments.top_k,
        "thresholds": arguments.lowest(),
        "only_with_shots": arguments.shots is not None,
    }
    if "genre" in arguments.sources:
        settings["seed"] = arguments.seed
    if "synopsis" in arguments.sources:
        settings["text_encoder"] = encoder.name if encoder else "TF-IDF"
        settings["revision"] = encoder.revision if encoder else None
    for source in sorted(WATCHED.intersection(arguments.sources)):
        settings[f"{source}_popularity_correction"] = arguments.correction(source)
    if "co_watch" in arguments.sources:
        settings["max_burst"] = arguments.max_burst
    return settings


def inputs_of(arguments: SimilarMoviesArguments) -> dict[str, Any]:
    """For the record: facts that identify the inputs, and the films that the catalog excludes."""
    movies = finished(arguments.movies, "movies")
    catalog = {"num_films": movies.record["num_films"], "digest": shards_digest(movies)}
    inputs: dict[str, Any] = {"movies": {"settings": movies.record["settings"], **catalog}}
    for name in ("ratings", "links"):
        if path := getattr(arguments, name):
            inputs[name] = {"file": path.name, "fingerprint": fingerprint(path)}
    return {"inputs": inputs, "leak_guard": {**leak_guard_of(movies), "catalog": catalog}}


def read_ratings(arguments: SimilarMoviesArguments, catalog: Catalog) -> Watches:
    """The films that each person watched.

    Raises:
        MetadataError: a file that cannot be read, or ids that are probably not those of the catalog.
    """
    films = (catalog.movie_ids, catalog.titles, catalog.years)
    rated = RatedFilms.read(arguments.ratings, arguments.links, *films)
    watches = read_watches(arguments.ratings, rated.places, len(catalog))
    if not arguments.allow_few_matches:
        rated.require_matches(arguments.ratings, watches)
    return watches


def most_watched(source: str, watches: Watches, arguments: SimilarMoviesArguments) -> tuple[Neighbors, dict[str, int]]:
    """Films most often watched next (co_watch), or by the same persons (co_rating)."""
    if source == "co_watch":
        blocks, facts = watched_next(watches, arguments.max_burst)
    else:
        blocks, facts = watched_both(watches, MAX_FILMS_OF_A_PERSON)
    weight = 1 / (watches.watchers + SHRINKAGE) ** arguments.correction(source)
    lowest = arguments.lowest().get(source, 0)
    return best_neighbors(weighted(blocks, weight, lowest), arguments.top_k), facts


def draw_of_genre(catalog: Catalog, top_k: int, seed: int) -> tuple[Neighbors, dict[str, int]]:
    """Random films of the same genre, every one with a score of 1.

    The paper's films have one genre. If a film has several, one of them is drawn for every similar film (ours). The
    draws of a film depend only on itself and on the films of its genres.
    """
    by_genre: dict[str, list[int]] = {}
    for movie, genres in enumerate(catalog.genres):
        for genre in set(genres):
            by_genre.setdefault(genre, []).append(movie)
    pairs = []
    for movie, genres in enumerate(catalog.genres):
        random, drawn = Random(f"{seed} {catalog.movie_ids[movie]}"), [movie]
        while len(drawn) <= top_k:
            taken = Counter(genre for other in drawn for genre in set(catalog.genres[other]))
            left = [genre for genre in sorted(set(genres)) if taken[genre] < len(by_genre[genre])]
            if not left:
                break
            films = by_genre[random.choice(left)]
            similar = movie
            while similar in drawn:
                similar = random.choice(films)
            pairs.append((movie, similar, len(drawn)))
            drawn.append(similar)
    columns = np.array(pairs, np.int64).reshape(-1, 3).T
    facts = {"films_without_genre": sum(not genres for genres in catalog.genres)}
    return Neighbors(*columns, np.ones(len(pairs), np.float32)), facts


def nearest_synopses(
    catalog: Catalog, encoder: TextEncoder | None, arguments: SimilarMoviesArguments
) -> tuple[Neighbors, dict[str, int]]:
    """Films with the nearest synopses; films without a synopsis get none."""
    told = np.array([n for n, synopsis in enumerate(catalog.synopses) if synopsis.strip()], np.int64)
    texts = [catalog.synopses[n] for n in told]
    if len(texts) < 2:
        raise ValueError(f"{arguments.movies}: {len(texts)} films with a synopsis; --sources synopsis needs at least 2")
    rows = encoder(texts) if encoder else tf_idf(texts)
    lowest = arguments.lowest().get("synopsis")
    nearest = best_neighbors(inner_products(rows), arguments.top_k, lowest)
    facts = {"films_without_synopsis": len(catalog) - len(told)}
    return replace(nearest, movie=told[nearest.movie], similar=told[nearest.similar]), facts


def describe(neighbors: Neighbors, catalog: Catalog) -> dict[str, Any]:
    """The number of films and pairs, and the share of pairs with a common genre, beside chance.

    Chance is the share of pairs with a common genre among all pairs of two of these films. Films without genres are
    left out of both shares.
    """
    genres = [frozenset(each) for each in catalog.genres]
    pairs = [
        (genres[a], genres[b])
        for a, b in zip(neighbors.movie, neighbors.similar, strict=True)
        if genres[a] and genres[b]
    ]
    films = np.unique(neighbors.movie)
    kinds = Counter(genres[movie] for movie in films if genres[movie])
    number, total = np.array(list(kinds.values()), float), sum(kinds.values())
    names = sorted(frozenset().union(*kinds))
    has = np.array([[name in kind for name in names] for kind in kinds], np.float32).reshape(len(kinds), len(names))
    sharing = number @ (has @ has.T > 0) @ number - total
    return {
        "films": len(films),
        "pairs": len(neighbors),
        "share_of_one_genre": round(sum(bool(a & b) for a, b in pairs) / len(pairs), 4) if pairs else None,
        "chance": round(float(sharing) / (total * (total - 1)), 4) if total > 1 else None,
    }


def as_table(found: Mapping[str, Neighbors], catalog: Catalog) -> pa.Table:
    """The pairs of all sources as rows of the dataset, in its order."""
    names = pa.array(catalog.movie_ids)
    source = np.repeat(np.arange(len(found)), [len(neighbors) for neighbors in found.values()])
    movie, similar, rank, score = (
        np.concatenate([getattr(neighbors, column) for neighbors in found.values()])
        for column in ("movie", "similar", "rank", "score")
    )
    order = np.lexsort((rank, source, movie))  # places in the catalog and in `found` are in the order of their names
    columns = {
        "movie_id": names.take(pa.array(movie[order])),
        "similar_movie_id": names.take(pa.array(similar[order])),
        "rank": rank[order],
        "score": score[order],
        "source": pa.array(list(found)).take(pa.array(source[order])),
    }
    return pa.table(columns)


def print_summary(counts: Mapping[str, Any], output: Path) -> None:
    left_out = ", ".join(
        f"{counts[kind]} {kind}" for kind in counts if kind not in ("movies", "candidates", "ratings", "sources")
    )
    print(f"{counts['movies']} films, {left_out}; {counts['candidates']} may be similar")
    if "ratings" in counts:
        print("; ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in counts["ratings"].items()))
    print(f"\n{'source':10} {'films':>8} {'pairs':>8} {'share a genre':>14} {'chance':>8}   left out")
    for source, facts in counts["sources"].items():
        facts = dict(facts)
        films, pairs, share, chance = (facts.pop(name) for name in ("films", "pairs", "share_of_one_genre", "chance"))
        shares = ["-" if value is None else f"{value:.1%}" for value in (share, chance)]
        rest = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in facts.items())
        print(f"{source:10} {films:8} {pairs:8} {shares[0]:>14} {shares[1]:>8}   {rest}")
    print(f"\nwritten to {output}")


def print_neighbors(movie: int, found: Mapping[str, Neighbors], catalog: Catalog) -> None:
    print(f"\n{catalog.label(movie)}")
    for source, neighbors in found.items():
        rows = range(*np.searchsorted(neighbors.movie, [movie, movie + 1]))
        similar = " · ".join(f"{catalog.label(neighbors.similar[n])} {neighbors.score[n]:.3g}" for n in rows)
        print(f"  {source:10} {similar or 'none'}")
