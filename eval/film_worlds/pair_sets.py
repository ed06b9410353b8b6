"""Pair sets to compare with mined pairs: random films that are not similar, scenes of the same place, the surest."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.mining.films import read_film_pairs
from data_scripts.mining.scenes import WINDOW
from eval.film_worlds.truth import TrueScene, Truth, true_scenes
from modeling_m2s.storage_m2s import FilmDataset, exclusive

DRAWS_PER_PAIR = 50  # drawing ends after so many tries, possibly with too few pairs


def write_random_films(folder: Path, similar: Path, movie_ids: Collection[str], seed: int) -> None:
    """Write a `similar_movies` dataset of random film pairs that are not similar, as many as `similar` has pairs.

    Args:
        similar: folder of the dataset of similar films; only pairs within `movie_ids` are counted.
        movie_ids: the films to draw from.

    Raises:
        ValueError: all pairs of films are similar, or `similar` has no pairs.
        StorageError: no finished dataset of similar films, or the folder holds other pairs.
    """
    films = sorted(movie_ids)
    ruled_out = {pair[:2] for pair in read_film_pairs(similar)}
    count = sum(set(pair) <= set(films) for pair in ruled_out)
    random, drawn = np.random.default_rng([seed, 0]), set()
    for _ in range(DRAWS_PER_PAIR * count):
        first, second = sorted(films[place] for place in random.choice(len(films), size=2, replace=False))
        if (first, second) not in ruled_out:
            drawn.add((first, second))
        if len(drawn) == count:
            break
    if not drawn:
        raise ValueError(f"{similar}: any two of {len(films)} films are similar; there are no others to draw")
    rows, rank = [], 0
    for number, (first, second) in enumerate(pairs := sorted(drawn)):
        rank = rank + 1 if number and pairs[number - 1][0] == first else 1
        row = {"movie_id": first, "similar_movie_id": second, "rank": rank, "score": 0.0, "source": "random"}
        rows.append(row)
    _write(folder, "similar_movies", {"sources": ["random"], "seed": seed, "films": len(films), "pairs": count}, rows)


def write_true_pairs(folder: Path, truth: Truth, movie_ids: Collection[str], count: int, seed: int) -> None:
    """Write a `scene_pairs` dataset of `count` pairs of windows whose true scenes show the same place, in two films.

    A window lies inside its scene if the scene has at least nine shots. The window of a shorter scene surrounds it,
    within the film; scenes shorter than half a window are left out. Scenes are drawn at random, so frequent places have
    more pairs. If fewer than `count` pairs exist, fewer are written.

    Raises:
        ValueError: no two films have a place in common.
        StorageError: the folder holds other pairs.
    """
    films = sorted(movie_id for movie_id in movie_ids if len(truth[movie_id]) >= WINDOW)
    scenes = [scene for scene in true_scenes(truth, films) if 2 * scene.num_shots > WINDOW]
    by_place = defaultdict(list)
    for scene in scenes:
        by_place[scene.place].append(scene)
    random = np.random.default_rng([seed, 1])

    def window(scene: TrueScene) -> tuple[str, int]:
        spare = scene.num_shots - WINDOW
        lowest, highest = scene.first_shot + min(spare, 0), scene.first_shot + max(spare, 0)
        last = len(truth[scene.movie_id]) - WINDOW
        return scene.movie_id, int(np.clip(random.integers(lowest, highest + 1), 0, last))

    drawn: dict[tuple[str, str, int], int] = {}  # these three values are the key of a row in the dataset
    for _ in range(DRAWS_PER_PAIR * count if scenes else 0):
        first = scenes[random.integers(len(scenes))]
        second = by_place[first.place][random.integers(len(by_place[first.place]))]
        if first.movie_id != second.movie_id:
            a, b = sorted((window(first), window(second)))
            drawn.setdefault((a[0], b[0], a[1]), b[1])
        if len(drawn) == count:
            break
    if not drawn:
        raise ValueError(f"no two of {len(films)} films of at least {WINDOW} shots have a place in common")
    columns = ("movie_id_a", "movie_id_b", "first_shot_a", "first_shot_b", "num_shots", "score", "source")
    rows = [dict(zip(columns, (*key, drawn[key], WINDOW, 1.0, "truth"), strict=True)) for key in sorted(drawn)]
    settings = {"space": "truth", "window": WINDOW, "seed": seed, "films": len(films), "pairs": count}
    _write(folder, "scene_pairs", settings, rows)


def write_surest(folder: Path, pairs: Path, share: float) -> None:
    """Write a `scene_pairs` dataset of the pairs with the highest scores of another one.

    Raises:
        StorageError: `pairs` is no finished dataset, or the folder holds other pairs.
    """
    dataset = FilmDataset(pairs, "scene_pairs")
    rows = surest(dataset.read().to_pylist(), share)
    columns = ("movie_id_a", "movie_id_b", "first_shot_a")
    rows.sort(key=lambda row: tuple(row[name] for name in columns))
    _write(folder, "scene_pairs", {**dataset.record["settings"], "surest_share": round(share, 4)}, rows)


def surest(pairs: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """The share of the pairs with the highest scores, at least one pair, the surest first."""
    return sorted(pairs, key=lambda pair: -pair["score"])[: max(1, round(share * len(pairs)))]


def _write(folder: Path, kind: str, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a dataset; a finished one with the same settings is kept."""
    dataset = FilmDataset(folder, kind)
    with exclusive(folder):
        dataset.begin(settings)
        if not dataset.record["complete"]:
            dataset.write_all(rows)
