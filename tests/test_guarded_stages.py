"""Films that benchmarks test on, named once to `make_catalog`, take part in no later stage.

Features of such films, and of a film that the catalog lacks, are no numbers: a stage that reads one ends with an error.
"""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from mining_catalog import features_of, write_features
from test_train_mil import SIZES

from data_scripts.check import main as check
from data_scripts.make_catalog import main as make_catalog
from data_scripts.mine_scene_pairs import main as mine_scene_pairs
from data_scripts.similar_movies import main as similar_movies
from modeling_m2s.storage_m2s import FilmDataset
from train.train_mil import main as train_mil

ALLOWED = ["home-video", *(f"tt{number:07d}" for number in range(11, 27))]
EXCLUDED = {"big-copy": "by title and year", "kite": "by title and year", "tt0000009": "by id"}
UNKNOWN = "tt0000077"  # not in the catalog
NOT_A_NUMBER = "a feature is infinite or not a number"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Metadata, a benchmark's list and features; only a lookup tells the title of the second listed film."""
    titles = {"tt0000009": ("Big Film, The", 1999), "big-copy": ("The Big Film", 2000), "kite": ("Kite", "")}
    lines = ["movie_id,title,year,genres,synopsis"]
    for number, movie_id in enumerate([*ALLOWED, *EXCLUDED]):
        title, year = titles.get(movie_id, (f"Film {number}", 1980))
        theme = ("War", "A captain sails a stormy sea"), ("Drama", "Two lovers meet in a village")
        genre, synopsis = theme[number % 2]
        lines.append(f'{movie_id},"{title}",{year},{genre},{synopsis} {number}')
    (tmp_path / "films.csv").write_text("\n".join(lines))
    (tmp_path / "titles.csv").write_text("movie_id,title,year\ntt0000099,Kite,1990\ntt0000098,Film 3,1970\n")
    (tmp_path / "test.csv").write_text("class_id youtube_id imdb_id\n0 abc tt0000009\n1 def tt0000099\n")
    features = {name: features_of(f"tt{number}", 12 + number) for number, name in enumerate(ALLOWED)}
    no_numbers = np.full_like(features[ALLOWED[0]], np.nan)
    write_features(tmp_path / "shot_features", features | dict.fromkeys([*EXCLUDED, UNKNOWN], no_numbers))
    return tmp_path


def find_similar(folder: Path, *exclude: object) -> dict:
    """The catalog and its similar films; the record of the latter."""
    sources = ["--metadata", folder / "films.csv", "--lookup", folder / "titles.csv"]
    run(make_catalog, *sources, *exclude, "--output", folder / "movies")
    words = ["--movies", folder / "movies", "--sources", "genre", "synopsis", "--top-k", "2"]
    run(similar_movies, *words, "--output", folder / "similar_movies")
    return FilmDataset(folder / "similar_movies", "similar_movies").record


def run(command, *words: object) -> None:
    command([str(word) for word in words])


def learn(folder: Path, *words: object) -> None:
    inputs = [
        "--features",
        folder / "shot_features",
        "--similar",
        folder / "similar_movies",
        "--output",
        folder / "mil",
    ]
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", value)]
    run(train_mil, *inputs, *sizes, "--epochs", "2", "--negatives", "4", "--whiten", "--held-out", "0.4", *words)


def mine(folder: Path, space: str, *words: object) -> list[dict]:
    inputs = ["--features", folder / "shot_features", "--similar", folder / "similar_movies", "--space", space]
    run(mine_scene_pairs, *inputs, *words, "--device", "cpu", "--output", folder / space)
    return FilmDataset(folder / space, "scene_pairs").read(["movie_id_a", "movie_id_b"]).to_pylist()


def test_excluded_and_unknown_films_take_part_nowhere(folder):
    record = find_similar(folder, "--exclude", folder / "test.csv")
    movies = FilmDataset(folder / "movies", "movies")
    marked = {row["movie_id"]: row["excluded"] for row in movies.read(["movie_id", "excluded"]).to_pylist()}
    assert marked == {**dict.fromkeys(ALLOWED, ""), **EXCLUDED}
    assert record["candidates"] == ALLOWED and record["counts"]["excluded"] == 3
    found = FilmDataset(folder / "similar_movies", "similar_movies").read(["movie_id", "similar_movie_id"])
    assert set(found["movie_id"].to_pylist()) | set(found["similar_movie_id"].to_pylist()) == set(ALLOWED)
    learn(folder)
    parts = [(folder / f"mil/{name}_films.txt").read_text().split() for name in ("training", "held_out")]
    assert sorted(parts[0] + parts[1]) == ALLOWED and all(parts)
    results = json.loads((folder / "mil/results.json").read_text())
    assert results["counts"]["films"] == len(ALLOWED) and results["counts"]["films_left_out"] == 4
    for space in ("whitened", "both"):
        rows = mine(folder, space, *(["--model", folder / "mil/model"] if space == "both" else []))
        assert rows and {movie_id for row in rows for movie_id in row.values()} <= set(ALLOWED)
    records = [record, results, *(json.loads((folder / f"{name}/m2s.json").read_text()) for name in ("both", "movies"))]
    for each in records:
        assert each["leak_guard"]["excluded"] == {"by id": 1, "by title and year": 2}
        assert each["leak_guard"]["lists"] == {str(folder / "test.csv"): 2}
    assert all(each["leak_guard"]["catalog"]["num_films"] == len(marked) for each in records[:3])
    card = (folder / "mil/model/README.md").read_text()
    assert "1 found by id and left out, 2 found by title and year and left out." in card
    assert "The catalog has 20 films" in card
    check([str(folder / name) for name in ("movies", "similar_movies", "both")])


def test_without_a_list_these_films_would_be_read(folder):
    assert find_similar(folder)["candidates"] == sorted([*ALLOWED, *EXCLUDED])
    with pytest.raises(SystemExit, match=NOT_A_NUMBER):
        learn(folder)
    with pytest.raises(SystemExit, match=NOT_A_NUMBER):
        mine(folder, "whitened")


def test_all_films_without_imdb_id_can_be_kept_out(folder):
    record = find_similar(folder, "--exclude", folder / "test.csv", "--require-imdb-id")
    assert record["candidates"] == ALLOWED[1:]
    assert record["leak_guard"]["excluded"] == {"by id": 1, "without IMDb id": 3}
    learn(folder, "--resident")
    assert json.loads((folder / "mil/results.json").read_text())["counts"]["films"] == len(ALLOWED) - 1
