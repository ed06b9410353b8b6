"""What an earlier release wrote is opened, extended and searched.

`fixtures/release_4ac07e5` was written by the commands of commit 4ac07e5: an index of two films, a catalog of five with
shots, features, similar films and scene pairs, and a movie-similarity network. Its encoder has random weights. `videos`
has one film more than the catalog.
"""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from make_videos import picture, write_film
from test_train_mil import SIZES

from data_scripts.check import main as check
from data_scripts.detect_shots import main as detect_shots
from data_scripts.extract_features import main as extract_features
from data_scripts.make_catalog import main as make_catalog
from data_scripts.mine_scene_pairs import main as mine_scene_pairs
from data_scripts.similar_movies import main as similar_movies
from m2s.main import main as m2s
from modeling_m2s import M2SMovieSimilarityModel, M2SSceneModel
from modeling_m2s.storage_m2s import FilmDataset
from train.train_mil import main as train_mil

OLD = Path(__file__).parent / "fixtures/release_4ac07e5"
NEW_FILM = "tt9000005"


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return Path(shutil.copytree(OLD, tmp_path / "release"))


def test_an_index_is_searched_and_extended(release, capsys):
    index = release / "index"
    assert m2s(["search", str(index), "--film", "tt9000000", "--at", "00:00:05", "--top", "2"]) == 0
    assert "tt9000000  00:00:07.0-00:00:13.0" in capsys.readouterr().out
    before = FilmDataset(index / "scene_embeddings", "scene_embeddings").read().to_pylist()
    film = release / f"videos/{NEW_FILM}.mp4"
    more = ["--model", str(release / "model"), "--shots-per-scene", "3", "--output", str(index)]
    assert m2s(["embed", str(film), *more]) == 0
    assert "of 3 films (1 embedded now" in capsys.readouterr().out
    after = FilmDataset(index / "scene_embeddings", "scene_embeddings").read().to_pylist()
    assert [row for row in after if row["movie_id"] != NEW_FILM] == before
    rows = datasets.load_dataset(str(index / "scene_embeddings"), split="train")  # all films with the column kind
    assert len(rows) == len(after) and set(rows["kind"]) == {"window"}
    record = FilmDataset(index / "scene_embeddings", "scene_embeddings").record
    assert record["settings"].get("scene_vector", "joint") == "joint"
    assert m2s(["search", str(index), "--film", NEW_FILM, "--at", "00:00:05", "--across"]) == 0
    assert "tt9000000" in capsys.readouterr().out


def test_keyframes_are_chosen_as_before(release, tmp_path, capsys):
    """What an earlier release began takes blank frames as that release did; what begins now passes over them."""
    images = [picture(0, 0, 96, 64)] * 26
    images[10:14] = [np.zeros_like(images[0])] * 4  # frame 12 is the middle
    (tmp_path / "films").mkdir()
    film = write_film(tmp_path / "films/tt9000009.mp4", images)

    def keyframes(shots: Path) -> list[int]:
        rows = FilmDataset(shots, "shots").read(["movie_id", "keyframe_frames"]).to_pylist()
        return [frame for row in rows if row["movie_id"] == film.stem for frame in row["keyframe_frames"]]

    model = ["--model", str(release / "model"), "--shots-per-scene", "3"]
    for name, flags, expected in [("index", [], [12]), ("new", [], [14]), ("any", ["--any-keyframe"], [12])]:
        assert m2s(["embed", str(film), *model, *flags, "--output", str(release / name)]) == 0
        assert keyframes(release / name / "shots") == expected
    assert FilmDataset(release / "new/films", "films").read()["moved_keyframes"].to_pylist() == [1]
    assert set(FilmDataset(release / "index/films", "films").read()["moved_keyframes"].to_pylist()) == {0}
    capsys.readouterr()
    assert m2s(["info", str(release / "new")]) == 0
    assert "blank keyframes passed over: 1" in capsys.readouterr().out
    assert m2s(["embed", str(film), *model, "--any-keyframe", "--output", str(release / "new")]) == 1
    assert "any_keyframe is False there, True now" in capsys.readouterr().err
    for name, expected in [("shots", [12]), ("new/catalog", [14])]:
        shutil.copy(film, release / "videos")
        flags = ["--videos", str(release / "videos"), "--output", f"{release}/movies"]
        make_catalog([*flags, "--metadata", str(release / "metadata")])
        detect_shots(["--movies", f"{release}/movies", "--output", f"{release}/{name}"])
        assert keyframes(release / name) == expected


def test_a_catalog_grows_by_a_film(release, capsys):
    shots = FilmDataset(release / "shots", "shots")
    before = shots.read().to_pylist()
    make_catalog(
        ["--videos", str(release / "videos"), "--metadata", str(release / "metadata"), "--output", f"{release}/movies"]
    )
    detect_shots(["--movies", f"{release}/movies", "--output", f"{release}/shots"])
    assert "6 films (1 done now, 0 failed, 0 dropped" in capsys.readouterr().out
    assert [row for row in shots.read().to_pylist() if row["movie_id"] != NEW_FILM] == before
    model = ["--model", f"{release}/model"]
    extract_features(["--shots", f"{release}/shots", *model, "--output", f"{release}/shot_features"])
    assert "(1 films now" in capsys.readouterr().out
    synopses = ["--movies", f"{release}/movies", "--shots", f"{release}/shots", "--sources", "synopsis", "genre"]
    similar_movies([*synopses, "--top-k", "2", "--output", f"{release}/similar_movies"])
    inputs = ["--features", f"{release}/shot_features", "--similar", f"{release}/similar_movies"]
    mine_scene_pairs([*inputs, "--space", "features", "--output", f"{release}/scene_pairs"])
    fresh = [*inputs, "--space", "features", "--output", f"{release}/fresh"]
    mine_scene_pairs(fresh)
    pairs = FilmDataset(release / "scene_pairs", "scene_pairs").read()
    assert pairs == FilmDataset(release / "fresh", "scene_pairs").read() and len(pairs)
    check([str(release / name) for name in ("movies", "shots", "shot_features", "scene_pairs")])


def test_nothing_is_excluded_from_an_earlier_catalog(release):
    rows = FilmDataset(release / "movies", "movies").read().to_pylist()
    assert len(rows) == 6 and {row["excluded"] for row in rows} == {""}
    check([f"{release}/movies"])
    similar_movies(["--movies", f"{release}/movies", "--sources", "synopsis", "--output", f"{release}/similar"])
    record = FilmDataset(release / "similar", "similar_movies").record
    assert record["candidates"] == [row["movie_id"] for row in rows]
    assert record["leak_guard"]["lists"] == {} and record["leak_guard"]["catalog"]["num_films"] == 6


def test_an_earlier_catalog_excludes_films_in_another_folder(release, capsys):
    (release / "listed.txt").write_text("tt9000001\n")
    words = ["--metadata", f"{release}/metadata", "--exclude", f"{release}/listed.txt", "--output"]
    with pytest.raises(SystemExit, match="exclude is None there, '1 films, "):
        make_catalog([*words, f"{release}/movies"])
    make_catalog([*words, f"{release}/guarded"])
    rows = FilmDataset(release / "guarded", "movies").read(["movie_id", "excluded"]).to_pylist()
    assert [row["movie_id"] for row in rows if row["excluded"]] == ["tt9000001"]


def test_movie_similarity_is_learned_from_earlier_similar_films(release):
    similar = FilmDataset(release / "similar_movies", "similar_movies")
    inputs = ["--features", f"{release}/shot_features", "--similar", str(similar.folder), "--held-out", "0"]
    sizes = [word for name in SIZES for word in (f"--{name}", str(SIZES[name]))]
    train_mil([*inputs, *sizes, "--epochs", "1", "--log-steps", "1", "--output", f"{release}/new_mil"])
    trained = (release / "new_mil/training_films.txt").read_text().split()
    table = similar.read(["movie_id", "similar_movie_id"]).to_pydict()
    assert set(trained) == {*table["movie_id"], *table["similar_movie_id"]}


def test_networks_load_and_pairs_are_mined_with_one(release):
    M2SSceneModel.from_pretrained(release / "model")
    model = M2SMovieSimilarityModel.from_pretrained(release / "mil/model")
    assert model.config.features["encoder"] == "model"
    inputs = ["--features", f"{release}/shot_features", "--similar", f"{release}/similar_movies"]
    learned = ["--space", "model", "--model", f"{release}/mil/model"]
    mine_scene_pairs([*inputs, *learned, "--output", f"{release}/learned"])
    record = json.loads((release / "learned/m2s.json").read_text())
    assert record["complete"] and record["num_rows"] > 0
