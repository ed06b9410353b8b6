"""Every kind of dataset is checked as it was made, and each fault is named in one line."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts.check import main
from data_scripts.stages.dataset_checks import check_folder
from modeling_m2s.schemas_m2s import SCHEMAS
from modeling_m2s.shot_store_m2s import film_rows
from modeling_m2s.storage_m2s import FilmDataset, read_json, write_json

FILMS = {"tt1": 12, "tt2": 9, "tt3": 1}


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "JPEG")
    return file.getvalue()


def shot(movie_id: str, index: int, **changes) -> dict:
    frames = {"start_frame": index * 20, "end_frame": index * 20 + 20, "keyframe_frames": [index * 20 + 9]}
    seconds = {"start_seconds": index * 1.0, "end_seconds": index + 1.0}
    images = {"keyframes": [{"bytes": jpeg(), "path": None}]}
    return {"movie_id": movie_id, "shot_index": index, **frames, **seconds, **images, **changes}


def write_shots(folder: Path, films: dict[str, list[dict]]) -> FilmDataset:
    shots = FilmDataset(folder / "shots", "shots")
    shots.begin({"keyframes_per_shot": 1})
    measures = dict.fromkeys(["num_frames", "frame_rate", "duration_seconds", "width", "height"], 1)
    for movie_id, rows in films.items():
        shots.write_film(movie_id, rows, {"video": "", "fingerprint": "", "damage": None, **measures})
    shots.finish(films, {})
    return shots


def write(folder: Path, kind: str, rows: list[dict]) -> Path:
    dataset = FilmDataset(folder / kind, kind)
    dataset.begin({})
    dataset.write_all(rows)
    return dataset.folder


def features(movie_id: str, num_shots: int, **changes) -> dict:
    data = np.zeros((num_shots, 4), "<f2").tobytes()
    return {"movie_id": movie_id, "num_shots": num_shots, "dim": 4, "dtype": "float16", "features": data, **changes}


def pair(a: str, b: str, first_a: int = 0, first_b: int = 0, **changes) -> dict:
    sides = {"movie_id_a": a, "first_shot_a": first_a, "movie_id_b": b, "first_shot_b": first_b}
    return {**sides, "num_shots": 9, "score": 0.5, "source": "genre", **changes}


def similar(a: str, b: str, rank: int, **changes) -> dict:
    return {"movie_id": a, "similar_movie_id": b, "rank": rank, "score": 0.5, "source": "genre", **changes}


@pytest.fixture
def catalog(tmp_path) -> Path:
    """A catalog of three films, with nothing wrong."""
    film = {"title": "", "year": 0, "genres": [], "synopsis": "", "video": ""}
    write(tmp_path, "movies", [{**film, "movie_id": name} for name in FILMS])
    shots = write_shots(tmp_path, {name: [shot(name, n) for n in range(count)] for name, count in FILMS.items()})
    write(tmp_path, "films", film_rows(shots))
    write(tmp_path, "shot_features", [features(name, count) for name, count in FILMS.items()])
    write(tmp_path, "similar_movies", [similar("tt1", "tt2", 1), similar("tt1", "tt3", 2), similar("tt2", "tt1", 1)])
    write(tmp_path, "scene_pairs", [pair("tt1", "tt2"), pair("tt1", "tt2", 3)])
    return tmp_path


KINDS = ["movies", "shots", "films", "shot_features", "similar_movies", "scene_pairs"]


def test_a_sound_catalog_has_no_faults(catalog, capsys):
    main([str(catalog / kind) for kind in KINDS])
    assert capsys.readouterr().out == "".join(f"{catalog / kind}: all there\n" for kind in KINDS)


NAN = np.array([[np.nan] * 4] * 9, "<f2").tobytes()
FAULTS = {
    "bytes": ("shot_features", [features("tt2", 9, features=b"123")], "tt2: 3 bytes of float16 for 9×4 float16"),
    "dtype": ("shot_features", [features("tt2", 9, dtype="float32")], "tt2: 72 bytes of float32 for 9×4 float16"),
    "nan": ("shot_features", [features("tt2", 9, features=NAN)], "tt2: features that are not finite"),
    "length": ("shot_features", [features("tt2", 8)], "tt2: features of 8 shots, films beside it has 9"),
    "foreign": ("shot_features", [features("tt7", 8)], "tt7: features of 8 shots, films beside it has None"),
    "dims": ("shot_features", [features("tt1", 12), features("tt2", 9, dim=2, features=b" " * 36)], "sizes: [2, 4]"),
    "rank": ("similar_movies", [similar("tt1", "tt2", 2)], "tt1, genre: rank 2 where rank 1 is due"),
    "gap": ("similar_movies", [similar("tt1", "tt2", 1), similar("tt1", "tt3", 3)], "rank 3 where rank 2 is due"),
    "itself": ("similar_movies", [similar("tt1", "tt1", 1)], "tt1, genre, rank 1: similar to tt1"),
    "score": ("similar_movies", [similar("tt1", "tt2", 1, score=float("nan"))], "similar to tt2 with score nan"),
    "stranger": ("similar_movies", [similar("tt1", "tt9", 1)], "tt9 is not in the movies beside it"),
    "beyond": ("scene_pairs", [pair("tt1", "tt2", 4)], "tt1:4 and tt2:0: beyond the 12 shots of tt1"),
    "negative": ("scene_pairs", [pair("tt1", "tt2", 0, -1)], "tt1:0 and tt2:-1: beyond the 9 shots of tt2"),
    "unknown": ("scene_pairs", [pair("tt1", "tt9")], "tt1:0 and tt9:0: tt9 is not in the shot_features beside it"),
    "same": ("scene_pairs", [pair("tt1", "tt1")], "tt1:0 and tt1:0: 9 shots with score 0.5"),
    "empty": ("scene_pairs", [pair("tt1", "tt2", num_shots=0)], "tt1:0 and tt2:0: 0 shots with score 0.5"),
    "order": ("movies", [{"movie_id": "b"}, {"movie_id": "a"}], "row ('a',) does not follow ('b',)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault, catalog, capsys):
    kind, rows, words = FAULTS[fault]
    folder = write(catalog, kind, rows)
    if fault == "unknown":
        shutil.rmtree(catalog / "movies")  # it would name the fault a second time
    with pytest.raises(SystemExit) as raised:
        main(["--folders", str(folder)])
    said = capsys.readouterr().out.splitlines()
    assert raised.value.code == 1
    assert len(said) == 1 and said[0].startswith(f"{folder}") and words in said[0]


def test_films_that_the_catalog_excludes_are_named(catalog):
    film = {"title": "", "year": 0, "genres": [], "synopsis": "", "video": ""}
    reasons = {"tt1": "", "tt2": "by id", "tt3": "by title and year", "tt4": "by id"}
    write(catalog, "movies", [{**film, "movie_id": name, "excluded": reason} for name, reason in reasons.items()])
    similar_movies, scene_pairs = catalog / "similar_movies", catalog / "scene_pairs"
    excluded = "is excluded from training by the movies beside it"
    of_rows = [f"tt2 {excluded} (by id)", f"tt3 {excluded} (by title and year)"]
    assert check_folder(similar_movies) == [f"{similar_movies}: {problem}" for problem in of_rows]
    assert check_folder(scene_pairs) == [f"{scene_pairs}: {of_rows[0]}"]
    record = json.loads((similar_movies / "m2s.json").read_text())
    write_json(similar_movies / "m2s.json", {**record, "candidates": ["tt1", "tt4", "tt5"]})
    found = [*of_rows, f"tt4 {excluded} (by id)", "tt5 is not in the movies beside it"]
    assert check_folder(similar_movies) == [f"{similar_movies}: {problem}" for problem in found]


SHOT_FAULTS = {
    "index": (shot("tt1", 2), "tt1: shot 2 where shot 1 is due"),
    "overlap": (shot("tt1", 1, start_frame=19, keyframe_frames=[19]), "frames 19 to 40 after one that ends at 20"),
    "reversed": (shot("tt1", 1, end_frame=20, keyframe_frames=[]), "tt1, shot 1: frames 20 to 20 after"),
    "outside": (shot("tt1", 1, keyframe_frames=[40]), "tt1, shot 1: keyframes [40] are not up to 1 of its frames"),
    "many": (shot("tt1", 1, keyframe_frames=[20, 21]), "tt1, shot 1: keyframes [20, 21] are not up to 1"),
    "count": (shot("tt1", 1, keyframes=[]), "tt1, shot 1: not as many keyframes as numbers of frames"),
    "image": (shot("tt1", 1, keyframes=[{"bytes": b"x", "path": None}]), "tt1, shot 1: keyframe cannot be decoded"),
}


@pytest.mark.parametrize("fault", SHOT_FAULTS)
def test_faults_of_shots_are_named(fault, tmp_path):
    row, words = SHOT_FAULTS[fault]
    shots = write_shots(tmp_path, {"tt1": [shot("tt1", 0), row], "tt2": [shot("tt2", 0)]})
    problems = check_folder(shots.folder)
    assert any(words in problem for problem in problems), problems
    assert not any("tt2" in problem for problem in problems)


def test_an_index_that_is_not_of_its_shots_is_named(catalog):
    rows = FilmDataset(catalog / "films", "films").read().to_pylist()
    write(catalog, "films", [{**rows[0], "first_row": 1}, *rows[1:2]])
    wrong, missing = check_folder(catalog / "films")
    assert "tt1: the index has {" in wrong and "'first_row': 1" in wrong
    assert "tt3: the index has None" in missing


def test_what_an_unfinished_run_left_is_named(catalog):
    shots = FilmDataset(catalog / "shots", "shots")
    shots.write_film("tt9", [shot("tt9", 0)], {})
    (catalog / "shots/data/.m2s-1-x.tmp").touch()
    temporary, part = check_folder(catalog / "shots")
    assert "/parts/tt9-" in part and ".m2s-1-x.tmp: left by a run that did not end" in temporary
    shots.reopen()
    assert check_folder(catalog / "shots")[0] == f"{catalog}/shots: not finished"


@pytest.mark.parametrize("content", [None, [], {"dataset": "songs", "schema_version": 1}, {"schema_version": 1}])
def test_what_is_no_dataset_is_named(content, tmp_path):
    if content is not None:
        write_json(tmp_path / "m2s.json", content)
    reasons = (
        r"no dataset here; .*m2s\.json|.*m2s\.json: not the record of a dataset|.*m2s\.json: a dataset of kind 'songs'"
    )
    with pytest.raises(SystemExit, match=rf"data_scripts.check: error: .*({reasons})"):
        main([str(tmp_path)])


def test_without_folders_the_missing_flag_is_named():
    with pytest.raises(SystemExit, match=r"^data_scripts.check: error: .*required: --folders"):
        main([])


def flip(path: Path, places: list[int]) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["shot_features", "shots"])
def test_bytes_that_changed_are_told_wherever_they_are(kind, tmp_path):
    """Flipped bits of features are features, too; only the checksum tells them."""
    if kind == "shots":
        folder = write_shots(tmp_path, {name: [shot(name, n) for n in range(length)] for name, length in FILMS.items()})
        folder = folder.folder
    else:
        folder = write(tmp_path, kind, [features(name, length) for name, length in FILMS.items()])
    (shard,) = (folder / "data").iterdir()
    whole = shard.read_bytes()
    assert check_folder(folder) == []
    assert read_json(folder / "m2s.json")["shards"][0]["sha256"] == hashlib.sha256(whole).hexdigest()
    places = np.random.default_rng(0).integers(len(whole), size=200).tolist()
    flip(shard, places)
    assert f"{shard}: holds other bytes than were written; make it again" in check_folder(folder)
    for place in [*places[:10], 0, len(whole) - 1]:
        shard.write_bytes(whole)
        flip(shard, [place])
        assert check_folder(folder) != []


def test_a_dataset_of_an_earlier_release_has_no_checksums(tmp_path):
    """It opens, is checked as far as it goes, and grows; the shards that are written now have one."""
    shots = write_shots(tmp_path, {name: [shot(name, 0)] for name in FILMS})
    record = read_json(shots.folder / "m2s.json")
    for entry in record["shards"]:
        del entry["sha256"]
    write_json(shots.folder / "m2s.json", record)
    shots = FilmDataset(shots.folder, "shots")
    assert check_folder(shots.folder) == []
    shots.finish(list(FILMS), {})
    assert "sha256" not in shots.record["shards"][0] and check_folder(shots.folder) == []
    facts = {**dict.fromkeys(["num_frames", "frame_rate", "duration_seconds", "width", "height"], 1), "damage": None}
    shots.write_film("tt4", [shot("tt4", 0)], {"video": "", "fingerprint": "", **facts})
    shots.finish([*FILMS, "tt4"], {})
    assert shots.record["shards"][0]["sha256"] and check_folder(shots.folder) == []


def test_a_flipped_byte_stays_told_when_other_shards_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEMAS, "shots", replace(SCHEMAS["shots"], films_per_shard=1))
    shots = write_shots(tmp_path, {name: [shot(name, 0)] for name in FILMS})
    flip(shots.shard_path(0), [200])
    again = FilmDataset(shots.folder, "shots")
    facts = {**dict.fromkeys(["num_frames", "frame_rate", "duration_seconds", "width", "height"], 1), "damage": None}
    again.write_film("tt4", [shot("tt4", 0)], {"video": "", "fingerprint": "", **facts})
    again.pack(3, ["tt4"])
    again.finish([*FILMS, "tt4"], {})
    assert any("train-00000.parquet: holds other bytes" in problem for problem in check_folder(shots.folder))
    assert all(entry["sha256"] for entry in again.record["shards"]) and len(again.record["shards"]) == 4
