"""`m2s scenes` as users run it: datasets and pictures, again, with more films, after a failure, on what is no index."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from trees import tree

from m2s.main import main
from modeling_m2s.index_scenes_m2s import SceneFinder
from modeling_m2s.shot_vectors_m2s import ShotVectors
from modeling_m2s.storage_m2s import FilmDataset
from modeling_m2s.story_scenes_m2s import SceneAxes, story_scenes

JOINT = ["--scene-vector", "joint"]


@pytest.fixture(scope="module")
def index(films, tiny_folder, tmp_path_factory) -> Path:
    """An index of them, without vectors of single shots."""
    output = tmp_path_factory.mktemp("index") / "out"
    assert main(["embed", str(films), *JOINT, "--model", str(tiny_folder), "--output", str(output)]) == 0
    return output


def test_scenes_are_those_of_the_stored_vectors(index, tmp_path, capsys):
    mine = shutil.copytree(index, tmp_path / "index")
    assert main(["scenes", str(mine)]) == 0
    printed = capsys.readouterr().out
    features = load_dataset(str(mine / "shot_features"), split="train")
    films = {
        row["movie_id"]: np.frombuffer(row["features"], np.float16).reshape(row["num_shots"], row["dim"])
        for row in features
    }
    axes = SceneAxes.fit(films.values())
    scenes = load_dataset(str(mine / "scenes"), split="train")
    shots = load_dataset(str(mine / "shots"), split="train").remove_columns("keyframes")
    for movie_id, film in films.items():
        rows = [row for row in scenes if row["movie_id"] == movie_id]
        assert [(row["first_shot"], row["num_shots"]) for row in rows] == story_scenes(film, axes)
        assert [row["scene"] for row in rows] == list(range(len(rows)))
        ends = [row["end_seconds"] for row in shots if row["movie_id"] == movie_id]
        assert rows[0]["start_seconds"] == 0 and rows[-1]["end_seconds"] == ends[-1]
        assert f"{movie_id}   {len(film)} shots, {len(rows)} scenes" in printed
    assert len(list((mine / "story_sheets").glob("*.jpg"))) == 3
    assert FilmDataset(mine / "scenes", "scenes").record["settings"]["scenes"] == "story"
    assert all(FilmDataset(mine / name, name).check() == [] for name in ("scenes", "shot_features"))


def test_a_shots_vector_is_that_of_a_scene_of_one_shot(index, tiny_folder, tmp_path):
    mine = shutil.copytree(index, tmp_path / "index")
    assert main(["scenes", str(mine)]) == 0
    alone = tmp_path / "alone"
    video = FilmDataset(mine / "shots", "shots").films()["long"].facts["video"]
    words = ["embed", video, "--model", str(tiny_folder), "--output", str(alone), "--shots-per-scene", "1", *JOINT]
    assert main(words) == 0
    expected = load_dataset(str(alone / "scene_embeddings"), split="train")["embedding"]
    found = SceneFinder(mine).vectors.of("long")
    np.testing.assert_allclose(found, np.array(expected), rtol=2e-3, atol=1e-3)


def test_a_second_run_reads_nothing_and_changes_nothing(index, tmp_path, capsys, monkeypatch):
    mine = shutil.copytree(index, tmp_path / "index")
    assert main(["scenes", str(mine)]) == 0
    before = tree(mine)
    monkeypatch.setattr(ShotVectors, "write", None)
    capsys.readouterr()
    assert main(["scenes", str(mine), "--film", "short"]) == 0
    assert tree(mine) == before
    printed = capsys.readouterr().out
    assert printed.startswith("short   5 shots, ") and "long" not in printed


def test_after_a_failure_or_with_more_films_the_result_is_the_same(index, films, tiny_folder, tmp_path, monkeypatch):
    at_once = shutil.copytree(index, tmp_path / "at_once")
    assert main(["scenes", str(at_once)]) == 0
    grown = tmp_path / "grown"
    for names in (["long"], ["single", "short"]):
        paths = [str(films / f"{name}.mp4") for name in names]
        assert main(["embed", *paths, *JOINT, "--model", str(tiny_folder), "--output", str(grown)]) == 0
        write, calls = ShotVectors.write, []

        def fail(self, *arguments, write=write, calls=calls):
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return write(self, *arguments)

        with monkeypatch.context() as context:
            context.setattr(ShotVectors, "write", fail)
            assert main(["scenes", str(grown)]) == (130 if len(names) > 1 else 0)
        assert main(["scenes", str(grown)]) == 0
    assert tree(grown) == tree(at_once)


def test_shots_without_keyframes(index, tmp_path):
    mine = shutil.copytree(index, tmp_path / "index")
    shots = FilmDataset(mine / "shots", "shots")
    table = shots.read()
    facts = {movie_id: film.facts for movie_id, film in shots.films().items()}
    rows = table.to_pylist()
    for row in rows:
        if row["movie_id"] == "single" or (row["movie_id"] == "long" and row["shot_index"] in (0, 5)):
            row["keyframes"], row["keyframe_frames"] = [], []
    for movie_id in facts:
        shots.write_film(movie_id, [row for row in rows if row["movie_id"] == movie_id], facts[movie_id])
    shots.finish(facts, {})
    assert main(["scenes", str(mine)]) == 0
    finder = SceneFinder(mine)
    vectors = {movie_id: finder.vectors.of(movie_id).any(1) for movie_id in finder.films}
    assert np.flatnonzero(~vectors["long"]).tolist() == [0, 5] and not vectors["single"].any()
    scenes = load_dataset(str(mine / "scenes"), split="train")
    for movie_id, num_shots in {"long": 13, "single": 1}.items():
        assert sum(row["num_shots"] for row in scenes if row["movie_id"] == movie_id) == num_shots


def test_what_is_no_index_is_named(index, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["scenes", str(tmp_path / "empty")]) == 1
    assert "no index here; make one with m2s embed" in capsys.readouterr().err
    films = tmp_path / "films"
    films.mkdir()
    (films / "text.mp4").write_text("no video")
    assert main(["embed", str(films), "--output", str(tmp_path / "failed")]) == 1
    capsys.readouterr()
    assert main(["scenes", str(tmp_path / "failed")]) == 1
    assert "the index is empty; every film failed" in capsys.readouterr().err
    mine = shutil.copytree(index, tmp_path / "index")
    assert main(["scenes", str(mine), "--film", "gone"]) == 1
    assert "no films match 'gone'" in capsys.readouterr().err
