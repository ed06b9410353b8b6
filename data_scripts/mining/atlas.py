"""The page of `data_scripts.pair_atlas`: what it shows, and how it is drawn."""

import base64
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from data_scripts.pair_atlas import AtlasArguments
from data_scripts.stages.inputs import finished
from modeling_m2s.figures_m2s import encode, timecode
from modeling_m2s.storage_m2s import FilmDataset, StoredFilm, atomic_write

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = (128, 72)
SCORE_BINS, FILM_BINS, PART_BINS, MOST_FILMS = 48, 60, 20, 40


@dataclass
class Side:
    """One film's part in every scene pair: the film, as a number, and the first of the scene's shots."""

    film: np.ndarray
    first: np.ndarray


@dataclass
class Atlas:
    """Scene pairs by column, films by number.

    Attributes:
        films: where each film's shots are.
        names: each film's title and year, or its id.
        sides: the parts of film a and film b.
        num_shots, scores, sources: one value for each scene pair.
    """

    films: list[StoredFilm]
    names: list[str]
    sides: tuple[Side, Side]
    num_shots: np.ndarray
    scores: np.ndarray
    sources: list[str]

    @property
    def lengths(self) -> np.ndarray:
        """Number of shots of each film."""
        return np.array([film.num_rows for film in self.films])


def write_pair_atlas(arguments: AtlasArguments) -> None:
    """Write the page.

    Raises:
        ValueError: there are no scene pairs, or they do not fit the shots.
    """
    atlas = read_atlas(arguments.pairs, arguments.shots, arguments.movies)
    shots = FilmDataset(arguments.shots, "shots")
    drawn = draw(atlas.scores, arguments.num_pairs, arguments.seed)
    page = (
        page_environment(TEMPLATES)
        .get_template("pair_atlas.html")
        .render(
            summary=summary(atlas),
            settings=FilmDataset(arguments.pairs, "scene_pairs").record["settings"],
            pairs=[scene_pair(atlas, shots, index, rank + 1) for rank, index in enumerate(drawn)],
            histogram=histogram(atlas.scores),
            ribbons=ribbons(atlas, arguments.num_film_pairs, arguments.seed),
            use=film_use(atlas),
        )
    )
    with atomic_write(arguments.output) as file:
        file.write(page.encode())
    print(f"{len(drawn)} of {len(atlas.scores)} scene pairs in {arguments.output}, {len(page.encode()) / 1e6:.1f} MB")
    print(f"next: open {arguments.output} in a browser")


def page_environment(templates: Path) -> Environment:
    """Jinja's environment for pages: text is escaped, and a name that a template lacks is an error."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_atlas(pairs: Path, shots: Path, movies: Path | None = None) -> Atlas:
    """All scene pairs of a dataset, with the shots and titles of their films.

    Raises:
        ValueError: there are no pairs, or the shots dataset lacks some of their films or shots.
        StorageError: a dataset is not finished.
    """
    table = finished(pairs, "scene_pairs").read()
    if not len(table):
        raise ValueError(f"{pairs} holds no scene pairs")
    ids = sorted({*pc.unique(table["movie_id_a"]).to_pylist(), *pc.unique(table["movie_id_b"]).to_pylist()})
    stored = finished(shots, "shots").films()
    if missing := [movie_id for movie_id in ids if movie_id not in stored]:
        raise ValueError(f"{shots} lacks {len(missing)} films of {pairs}, {missing[0]} for one; give their shots")
    titles = {}
    if movies:
        rows = finished(movies, "movies").read(["movie_id", "title", "year"]).to_pylist()
        titles = {row["movie_id"]: f"{row['title']} ({row['year'] or 'year unknown'})" for row in rows if row["title"]}
    sides = [
        Side(
            pc.index_in(table[f"movie_id_{side}"], value_set=pa.array(ids)).to_numpy(),
            table[f"first_shot_{side}"].to_numpy(),
        )
        for side in "ab"
    ]
    atlas = Atlas(
        [stored[movie_id] for movie_id in ids],
        [titles.get(movie_id, movie_id) for movie_id in ids],
        (sides[0], sides[1]),
        table["num_shots"].to_numpy(),
        table["score"].to_numpy(),
        table["source"].to_pylist(),
    )
    for side in atlas.sides:
        beyond = side.first + atlas.num_shots > atlas.lengths[side.film]
        if beyond.any():
            film = atlas.films[side.film[beyond.argmax()]]
            raise ValueError(
                f"{shots}: film {film.movie_id} has {film.num_rows} shots, fewer than a scene of {pairs} needs"
            )
    return atlas


def draw(scores: np.ndarray, num_pairs: int, seed: int) -> list[int]:
    """Sort all pairs by score, split them into `num_pairs` equal parts and draw one of each; highest score first."""
    order = np.argsort(-scores, kind="stable")
    generator = np.random.default_rng(seed)
    return [int(generator.choice(part)) for part in np.array_split(order, min(num_pairs, len(order)))]


def summary(atlas: Atlas) -> dict[str, Any]:
    """Counts; `overlaps` counts scenes that share a shot with the next scene of the same film pair, in either film."""
    by_source: dict[str, list[float]] = {}
    for source, score in zip(atlas.sources, atlas.scores.tolist(), strict=True):
        by_source.setdefault(source, []).append(score)
    overlaps = 0
    a, b = atlas.sides
    for side in atlas.sides:
        order = np.lexsort((side.first, b.film, a.film))
        same = (np.diff(a.film[order]) == 0) & (np.diff(b.film[order]) == 0)
        overlaps += int((same & (np.diff(side.first[order]) < atlas.num_shots[order][:-1])).sum())
    return {
        "scene_pairs": len(atlas.scores),
        "film_pairs": len(film_pairs(atlas)),
        "films": len(atlas.films),
        "overlaps": overlaps,
        "sources": [(name, len(found), float(np.median(found))) for name, found in sorted(by_source.items())],
    }


def film_pairs(atlas: Atlas) -> np.ndarray:
    """The numbers of both films of every film pair, (pairs, 2)."""
    return np.unique(np.stack([side.film for side in atlas.sides], 1), axis=0)


def scene_pair(atlas: Atlas, shots: FilmDataset, index: int, rank: int) -> dict[str, Any]:
    """The content of the page for one scene pair."""
    score = float(atlas.scores[index])
    return {
        "rank": rank,
        "score": score,
        "higher": float((atlas.scores > score).mean()),
        "source": atlas.sources[index],
        "scenes": [
            scene(atlas, shots, int(side.film[index]), int(side.first[index]), int(atlas.num_shots[index]))
            for side in atlas.sides
        ],
    }


def scene(atlas: Atlas, shots: FilmDataset, film: int, first: int, num_shots: int) -> dict[str, Any]:
    stored = atlas.films[film]
    rows = [row for table in shots.read_film(stored, first, num_shots) for row in table.to_pylist()]
    return {
        "film": atlas.names[film],
        "start": timecode(rows[0]["start_seconds"]),
        "end": timecode(rows[-1]["end_seconds"]),
        "first": first,
        "last": first + num_shots - 1,
        "from": first / stored.num_rows,
        "share": num_shots / stored.num_rows,
        "keyframes": [
            {"shot": row["shot_index"], "at": timecode(row["start_seconds"]), "image": thumbnail(row["keyframes"])}
            for row in rows
        ],
    }


def thumbnail(keyframes: Sequence[dict[str, Any]]) -> str | None:
    """The middle one of a shot's keyframes, as the data URI of a small JPEG; None if there is none."""
    if not keyframes:
        return None
    picture = Image.open(BytesIO(keyframes[(len(keyframes) - 1) // 2]["bytes"])).convert("RGB")
    picture.thumbnail(THUMBNAIL)
    return "data:image/jpeg;base64," + base64.b64encode(encode(picture, "JPEG")).decode()


def histogram(scores: np.ndarray) -> dict[str, Any]:
    """Bars with heights from 0 to 1, fewer for fewer scores, and the quartiles with their places from 0 to 1."""
    counts, edges = np.histogram(
        scores.astype(np.float64), min(SCORE_BINS, max(SCORE_BINS // 2, math.isqrt(4 * len(scores))))
    )
    low, high = float(edges[0]), float(edges[-1])
    quartiles = np.quantile(scores, [0.25, 0.5, 0.75])
    return {
        "bars": [
            (int(count), float(left), float(count / counts.max())) for count, left in zip(counts, edges, strict=False)
        ],
        "low": low,
        "high": high,
        "quartiles": [(float(value), (float(value) - low) / (high - low)) for value in quartiles],
    }


def ribbons(atlas: Atlas, num_film_pairs: int, seed: int) -> list[dict[str, Any]]:
    """Film pairs drawn at random, with the places of all their scenes in both films, in shots."""
    pairs = film_pairs(atlas)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:num_film_pairs]
    found = []
    for films in pairs[np.sort(chosen)]:
        rows = np.flatnonzero((atlas.sides[0].film == films[0]) & (atlas.sides[1].film == films[1]))
        scores = atlas.scores[rows]
        spread = float(np.ptp(scores)) or 1.0
        found.append(
            {
                "names": [atlas.names[film] for film in films],
                "lengths": atlas.lengths[films].tolist(),
                "scenes": [
                    {
                        "firsts": [int(side.first[row]) for side in atlas.sides],
                        "num_shots": int(atlas.num_shots[row]),
                        "score": float(atlas.scores[row]),
                        "strength": float((atlas.scores[row] - scores.min()) / spread),
                    }
                    for row in rows
                ],
            }
        )
    return found


def film_use(atlas: Atlas) -> dict[str, Any]:
    """How many scenes cover each part of each film, most used films first, and each part of all films on average."""
    lengths = atlas.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    change = np.zeros(offsets[-1])
    for side in atlas.sides:
        np.add.at(change, offsets[side.film] + side.first, 1)
        np.add.at(change, offsets[side.film] + side.first + atlas.num_shots, -1)
    uses = [np.cumsum(change[start : start + length]) for start, length in zip(offsets, lengths, strict=False)]
    scenes = np.bincount(np.concatenate([side.film for side in atlas.sides]), minlength=len(lengths))
    partners = np.bincount(film_pairs(atlas).ravel(), minlength=len(lengths))
    most = np.lexsort((np.arange(len(lengths)), -scenes))[:MOST_FILMS]
    parts = np.mean([in_parts(use, PART_BINS) for use in uses], 0)
    rows = [
        {
            "name": atlas.names[film],
            "scenes": int(scenes[film]),
            "partners": int(partners[film]),
            "used": float((uses[film] > 0).mean()),
            "parts": in_parts(uses[film], FILM_BINS).tolist(),
        }
        for film in most
    ]
    return {
        "films": rows,
        "omitted": len(lengths) - len(rows),
        "quartiles": np.quantile(scenes, [0, 0.5, 1]).astype(int).tolist(),
        "highest": max(max(row["parts"]) for row in rows),
        "parts": parts.tolist(),
    }


def in_parts(use: np.ndarray, num_parts: int) -> np.ndarray:
    """The mean over each of `num_parts` equal parts; if a film has fewer shots, a shot's value fills several parts."""
    edges = np.arange(num_parts + 1) * len(use) / num_parts
    return np.array(
        [use[math.floor(a) : max(math.ceil(b), math.floor(a) + 1)].mean() for a, b in itertools.pairwise(edges)]
    )
