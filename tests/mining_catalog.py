"""A small catalog that scene pairs are mined from, and the command's flags on it."""

from pathlib import Path

import numpy as np
import torch

from modeling_m2s.configuration_m2s import M2SMovieSimilarityConfig
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset

DIM, SETTINGS = 16, {"encoder": "clip", "revision": "r1", "keyframe": "middle"}
LENGTHS = {f"tt{number:07d}": 20 + 13 * (number % 5) for number in range(1, 9)}
# Several sources and both directions name some pairs.
SIMILAR = [
    ("tt0000001", "tt0000002", "genre"),
    ("tt0000002", "tt0000001", "co_watch"),
    ("tt0000002", "tt0000001", "genre"),
    ("tt0000003", "tt0000001", "co_watch"),
    ("tt0000003", "tt0000004", "synopsis"),
    ("tt0000005", "tt0000008", "genre"),
    ("tt0000006", "tt0000005", "co_watch"),
    ("tt0000007", "tt0000008", "genre"),
]
PAIRS = {
    ("tt0000001", "tt0000002"): "co_watch+genre",
    ("tt0000001", "tt0000003"): "co_watch",
    ("tt0000003", "tt0000004"): "synopsis",
    ("tt0000005", "tt0000006"): "co_watch",
    ("tt0000005", "tt0000008"): "genre",
    ("tt0000007", "tt0000008"): "genre",
}


def features_of(movie_id: str, num_shots: int) -> np.ndarray:
    return np.random.default_rng(int(movie_id[2:])).normal(1, 1, (num_shots, DIM)).astype("<f2")


def write_features(folder: Path, films: dict[str, np.ndarray], **settings: str) -> None:
    dataset = FilmDataset(folder, "shot_features")
    dataset.begin({**SETTINGS, **settings})
    rows = [
        {
            "movie_id": movie_id,
            "num_shots": len(features),
            "dim": DIM,
            "dtype": "float16",
            "features": features.tobytes(),
        }
        for movie_id, features in sorted(films.items())
    ]
    dataset.write_all(rows)


def write_similar(folder: Path, similar: list[tuple[str, str, str]], **facts: object) -> None:
    ranks: dict[tuple[str, str], int] = {}
    rows = []
    for movie_id, other, source in sorted(similar, key=lambda row: (row[0], row[2])):
        ranks[movie_id, source] = ranks.get((movie_id, source), 0) + 1
        place = {"rank": ranks[movie_id, source], "score": 1.0, "source": source}
        rows.append({"movie_id": movie_id, "similar_movie_id": other, **place})
    dataset = FilmDataset(folder, "similar_movies")
    dataset.begin({})
    dataset.write_all(rows, **facts)


def write_catalog(folder: Path, films: dict[str, np.ndarray]) -> None:
    """Features and similar films, and a model of them."""
    write_features(folder / "shot_features", films)
    write_similar(folder / "similar_movies", SIMILAR)
    torch.manual_seed(0)
    config = M2SMovieSimilarityConfig(feature_dim=DIM, hidden_size=DIM, features=SETTINGS)
    M2SMovieSimilarityModel(config).save_pretrained(folder / "model")


def flags(catalog: Path, output: str, *more: str, space: str = "model") -> list[str]:
    model = ["--model", str(catalog / "model")] if space in ("model", "both") else []
    inputs = ["--features", str(catalog / "shot_features"), "--similar", str(catalog / "similar_movies")]
    return [*inputs, *model, "--space", space, "--device", "cpu", "--output", str(catalog / output), *more]


def rows(catalog: Path, output: str) -> list[dict]:
    dataset = FilmDataset(catalog / output, "scene_pairs")
    assert dataset.check() == []
    return dataset.read().to_pylist()
