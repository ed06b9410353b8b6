"""Indexes of story scenes: made at once or film by film, killed, searched, listed, exported; scenes in every space."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from datasets import load_dataset
from trees import tree

from m2s.main import main
from modeling_m2s import M2SSceneConfig, M2SSceneEnsembleConfig
from modeling_m2s.scene_space_m2s import SPACES, SceneSpace
from modeling_m2s.scene_store_m2s import SceneStore
from modeling_m2s.search_m2s import SceneIndex
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from modeling_m2s.story_scenes_m2s import SceneAxes, story_scenes


def embed(films, tiny_folder, output, *more) -> int:
    paths = films if isinstance(films, list) else [films]
    words = ["--scenes", "story", "--shots-per-scene", "3", "--workers", "1", *more]
    return main(["embed", *map(str, paths), "--model", str(tiny_folder), "--output", str(output), *words])


@pytest.fixture(scope="module", params=["joint", "mean"])
def vector(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def index(films, tiny_folder, vector, tmp_path_factory) -> Path:
    """An index of them."""
    output = tmp_path_factory.mktemp("index") / "out"
    assert embed(films, tiny_folder, output, "--scene-vector", vector) == 0
    return output


def test_the_scenes_are_those_of_all_films_together(index):
    vectors = {
        row["movie_id"]: np.frombuffer(row["features"], np.float16).reshape(row["num_shots"], row["dim"])
        for row in load_dataset(str(index / "shot_features"), split="train")
    }
    axes = SceneAxes.fit(vectors.values())
    scenes = load_dataset(str(index / "scene_embeddings"), split="train")
    assert set(scenes["kind"]) == {"story"}
    for movie_id, film in vectors.items():
        found = [(row["first_shot"], row["num_shots"]) for row in scenes if row["movie_id"] == movie_id]
        assert found == story_scenes(film, axes)
    assert len(list((index / "contact_sheets").iterdir())) == 3
    assert all(not FilmDataset(index / name, name).check() for name in ("scene_embeddings", "shot_features"))


def test_means_weigh_all_shots_of_a_scene(index, vector):
    if vector == "joint":
        pytest.skip("is about means")
    features = {row["movie_id"]: row for row in load_dataset(str(index / "shot_features"), split="train")}
    for row in load_dataset(str(index / "scene_embeddings"), split="train"):
        film = features[row["movie_id"]]
        shots = np.frombuffer(film["features"], np.float16).reshape(film["num_shots"], film["dim"])
        expected = shots[row["first_shot"] : row["first_shot"] + row["num_shots"]].astype(np.float32).mean(0)
        np.testing.assert_allclose(row["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_films_added_later_and_a_failure_give_the_same_bytes(index, films, vector, tiny_folder, tmp_path, monkeypatch):
    grown = tmp_path / "grown"
    assert embed([films / "short.mp4"], tiny_folder, grown, "--scene-vector", vector) == 0
    write, calls = SceneStore._write, []

    def fail(self, *arguments):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, *arguments)

    with monkeypatch.context() as context:
        context.setattr(SceneStore, "_write", fail)
        assert embed([films / "long.mp4", films / "single.mp4"], tiny_folder, grown) == 130
    assert embed(films, tiny_folder, grown) == 0
    assert tree(grown) == tree(index)


@pytest.mark.parametrize("kind", ["story", "windows"])
def test_a_run_killed_after_its_shots_are_packed_leaves_no_complete_index(films, tiny_folder, kind, tmp_path, capsys):
    mine, output, flags = tmp_path / "films", tmp_path / "index", ["--scenes", kind]
    mine.mkdir()
    for source, name in (("short", "stays"), ("single", "replaced")):
        shutil.copy(films / f"{source}.mp4", mine / f"{name}.mp4")
    assert embed(mine, tiny_folder, output, *flags) == 0
    shutil.copy(films / "long.mp4", mine / "replaced.mp4")
    for stage, is_found in (("add", True), ("embed_story", False), ("finish", False)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SceneStore, stage, Mock(side_effect=KeyboardInterrupt))
            assert embed(mine, tiny_folder, output, *flags) == 130
        if is_found:
            assert len(SceneIndex(output).films) == 2
        else:
            with pytest.raises(StorageError, match="the index here is not finished; run m2s embed"):
                SceneIndex(output)
    assert embed(mine, tiny_folder, output, *flags) == 0
    assert embed(mine, tiny_folder, tmp_path / "at once", *flags) == 0
    assert tree(output) == tree(tmp_path / "at once")


def test_an_encoder_that_has_moved_extends_an_index(films, tiny_folder, tmp_path, capsys):
    first, second = shutil.copytree(tiny_folder, tmp_path / "first"), tmp_path / "second"
    output, flags = tmp_path / "index", ["--scenes", "windows", "--scene-vector", "mean"]
    assert embed([films / "short.mp4"], first, output, *flags) == 0
    first.rename(second)
    assert embed(films, second, output, *flags) == 0
    vectors = FilmDataset(output / "shot_features", "shot_features")
    assert vectors.films().keys() == {"long", "short", "single"} and not vectors.check()
    (second / "config.json").write_text((second / "config.json").read_text() + "\n")
    capsys.readouterr()
    assert embed(films, second, output, *flags) == 1
    assert "revision is" in capsys.readouterr().err


def test_a_second_run_embeds_nothing(index, films, tiny_folder, tmp_path, capsys):
    mine = shutil.copytree(index, tmp_path / "index")
    assert embed(films, tiny_folder, mine) == 0
    assert "0 embedded now" in capsys.readouterr().out
    assert tree(mine) == tree(index)


def test_a_film_is_embedded_again_only_if_its_scenes_changed(index, films, tiny_folder, tmp_path, capsys):
    mine = shutil.copytree(index, tmp_path / "index")
    scenes = FilmDataset(mine / "scene_embeddings", "scene_embeddings")
    films_before = scenes.films()
    rows = [row for table in scenes.read_film(films_before["long"]) for row in table.to_pylist()]
    scenes.write_film("long", rows[:1], {**films_before["long"].facts, "scenes": [[0, 2], [2, 11]]})
    scenes.finish(films_before, {}, **{name: scenes.record[name] for name in ("model", "inputs", "versions")})
    assert embed(films, tiny_folder, mine) == 0
    assert "1 embedded now" in capsys.readouterr().out
    assert tree(mine) == tree(index)


def test_verbs_work_on_it(index, tmp_path, capsys):
    mine = shutil.copytree(index, tmp_path / "index")
    assert main(["search", str(mine), "--film", "short", "--at", "0"]) == 0
    assert "distances in the whitened space" in capsys.readouterr().out
    assert main(["info", str(mine), "--check"]) == 0
    assert "scenes: story" in capsys.readouterr().out
    sheets = tree(mine / "contact_sheets")
    assert main(["scenes", str(mine)]) == 0  # nothing to read; the sheets are those of the index
    assert tree(mine / "contact_sheets") == sheets and not (mine / "story_sheets").exists()
    for of in ("scenes", "story-scenes"):
        assert (
            main(["export", str(mine), "--film", "long", "--format", "csv", "--of", of, "--output", f"{mine}/{of}.csv"])
            == 0
        )
    lists = [(mine / f"{of}.csv").read_text() for of in ("scenes", "story-scenes")]
    assert lists[0] == lists[1] and len(lists[0].splitlines()) > 1
    assert main(["export", str(mine), "--format", "html"]) == 0


def test_story_scenes_of_windows_are_exported_once_found(films, tiny_folder, tmp_path, capsys):
    mine = tmp_path / "index"
    assert main(["embed", str(films), "--model", str(tiny_folder), "--output", str(mine)]) == 0
    record = json.loads((mine / "scene_embeddings/m2s.json").read_text())
    assert (record["settings"]["scenes"], record["settings"]["scene_vector"]) == ("windows", "mean")
    capsys.readouterr()
    export = ["export", str(mine), "--format", "csv", "--of", "story-scenes"]
    assert main(export) == 1
    assert f"no story scenes here; run m2s scenes {mine}" in capsys.readouterr().err
    assert main(["scenes", str(mine)]) == 0
    assert "reading" not in capsys.readouterr().out  # the vectors of shots are there already
    assert main(export) == 0
    assert "story scene" in capsys.readouterr().out
    wrong = ["embed", str(films), "--scenes", "story", "--stride", "2", "--output", str(mine)]
    assert main(wrong) == 1 and "--stride is for windows" in capsys.readouterr().err


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("num_scenes", [3, 40, 400])
def test_distances_are_those_written_out(space, num_scenes):
    random = np.random.default_rng(num_scenes)
    vectors = (random.normal(size=(num_scenes, 7)) @ random.normal(size=(7, 7)) + 50).astype(np.float32)
    found = SceneSpace.fit(vectors, space).apply(vectors)
    expected = vectors.astype(np.float64)
    if space != "raw":
        expected = expected - expected.mean(0)
    if space == "whitened":
        variances, axes = np.linalg.eigh(np.cov(expected.T))
        expected = (
            expected
            @ axes
            / np.sqrt(np.maximum(variances, 0) + (0.1 + 20 / num_scenes) * variances.sum() / min(7, num_scenes - 1))
        )
    if space != "raw":
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    distances = [np.linalg.norm(each[:, None] - each, axis=2) for each in (found, expected)]
    np.testing.assert_allclose(*distances, rtol=1e-3, atol=1e-4)


def test_scenes_without_statistics_are_compared_raw():
    for vectors in (np.ones((1, 3)), np.ones((4, 3)), np.zeros((2, 3))):
        space = SceneSpace.fit(vectors.astype(np.float32), "whitened")
        assert space.name == "raw" and (space.apply(vectors) == vectors).all()
    with pytest.raises(ValueError, match="space='blue' is unknown; choose one of raw, centered, whitened"):
        SceneSpace.fit(np.eye(3), "blue")


def test_search_is_by_distance_in_the_space(index):
    for space in SPACES:
        opened = SceneIndex(index, space)
        query = opened.scenes[-1]
        found = opened.nearest(opened.distances(opened.vectors[query.row]), 50, query)
        points = SceneSpace.fit(opened.vectors, space).apply(opened.vectors)
        distances = np.linalg.norm(points - points[query.row], axis=1)
        assert [scene.distance for scene in found] == pytest.approx(sorted(np.delete(distances, query.row)), abs=1e-6)


def test_encoders_trained_on_scenes_read_jointly(films, tiny_folder, tmp_path):
    trained = shutil.copytree(tiny_folder, tmp_path / "trained")
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps({**config, "trained_on_scenes": True}))
    film, mine = str(films / "short.mp4"), tmp_path / "index"
    assert main(["embed", film, "--model", str(trained), "--output", str(mine)]) == 0
    record = json.loads((mine / "scene_embeddings/m2s.json").read_text())
    assert record["settings"]["scene_vector"] == "joint" and not (mine / "shot_features").exists()
    members = [M2SSceneConfig(trained_on_scenes=value).to_diff_dict() for value in (True, False)]
    assert not M2SSceneEnsembleConfig(names=["a", "b"], members=members).trained_on_scenes
    assert M2SSceneEnsembleConfig(names=["a", "b"], members=members[:1] * 2).trained_on_scenes
