"""Label files of benchmarks, of users and of folders of photographs: published counts, and files that are wrong."""

import json
import math
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_scripts.formats.bbc import read_bbc
from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError
from data_scripts.formats.lvu import LVU_CLASSES, LVU_TASKS, read_lvu
from data_scripts.formats.movieclip import VERIFIED, read_movieclip
from data_scripts.formats.movienet_labels import film_splits, read_place_tags, read_scene_boundaries
from data_scripts.formats.own_labels import read_own_labels
from data_scripts.formats.photographs import read_photographs

# Rows of train, val and test, published class sizes of train by class id, and accuracy in percent on test of the
# class that is the most frequent in train.
LVU = {
    "relationship": ((149, 53, 42), {0: 92, 1: 3, 2: 36, 3: 18}, 52.4),
    "way_speaking": ((939, 205, 201), {0: 261, 1: 216, 2: 247, 3: 105, 4: 110}, 26.9),
    "scene": ((557, 120, 86), {0: 73, 1: 31, 2: 199, 3: 67, 4: 137, 5: 50}, 26.7),
    "director": ((680, 163, 107), None, 41.1),
    "writer": ((769, 174, 168), {0: 261, 1: 70, 2: 117, 5: 95, 6: 90, 7: 62, 9: 74}, 5.4),
    "year": ((770, 165, 143), None, 8.4),
    "genre": ((3063, 597, 647), {0: 809, 1: 751, 2: 731, 3: 772}, 21.2),
    "view_count": ((577, 124, 126), None, None),
    "like_ratio": ((658, 142, 140), None, None),
}
SPLIT_FILES = {"train": "train", "validation": "val", "test": "test"}
HTML = "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture(scope="session")
def scene318(assets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene318")
    with tarfile.open(assets / "labels/movienet_scene318.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "movienet_scene318"


@pytest.mark.parametrize("task", LVU_TASKS)
def test_lvu_has_the_published_counts(assets, task):
    folder = assets / "labels/lvu_1.0"
    read = read_lvu(folder, task)
    sizes, train_counts, majority = LVU[task]
    assert tuple(len(read.of_split(split)) for split in SPLIT_FILES) == sizes
    for split, name in SPLIT_FILES.items():
        rows = [line.split() for line in (folder / task / f"{name}.csv").read_text().splitlines()[1:]]
        scenes = [read.scenes[number] for number in read.of_split(split)]
        assert [(scene.scene_id, scene.movie_id) for scene in scenes] == [(row[-2], row[-1]) for row in rows]
        if majority is not None:
            expected = [(int(row[0]), row[1]) for row in rows]
            assert [(label, read.classes[label]) for label in read.labels[read.of_split(split)]] == expected
    if train_counts is not None:
        assert Counter(read.labels[read.of_split("train")].tolist()) == train_counts
    if majority is not None:
        most_frequent = np.bincount(read.labels[read.of_split("train")]).argmax()
        assert round(100 * (read.labels[read.of_split("test")] == most_frequent).mean(), 1) == majority


def test_lvu_as_a_whole_and_its_constants(assets):
    read = {task: read_lvu(assets / "labels/lvu_1.0", task) for task in LVU_TASKS}
    scenes = [scene for task in read.values() for scene in task.scenes]
    assert len(scenes) == 11565
    assert len({scene.video for scene in scenes}) == 9996
    assert len({scene.movie_id for scene in scenes}) == 2797
    assert [len(read[task].classes) for task in LVU_TASKS] == [4, 5, 6, 10, 10, 9, 4, 0, 0]
    for task, unused in (("director", [2, 3]), ("writer", [3, 4, 8])):
        assert [index for index, name in enumerate(LVU_CLASSES[task]) if not name] == unused
        assert not np.isin(read[task].labels, unused).any()
    for task, error in (("view_count", 4.0895), ("like_ratio", 0.6056)):
        assert round((read[task].labels[read[task].of_split("test")] ** 2).mean(), 4) == error
    assert read["scene"].only(["1XqI8Lyp21A", "absent"]).labels.tolist() == [0]


def test_ma_lmm_labels_are_those_of_the_tables(assets):
    counts = {"relationship": 41, "way_speaking": 189, "scene": 82, "director": 107, "genre": 588, "writer": 168}
    for task, count in {**counts, "year": 141}.items():
        read = read_lvu(assets / "labels/lvu_malmm_json", task)
        assert len(read.of_split("test")) == count
        tables = read_lvu(assets / "labels/lvu_1.0", task).only([scene.scene_id for scene in read.scenes])
        expected = {
            (scene.scene_id, scene.split, label) for scene, label in zip(tables.scenes, tables.labels, strict=True)
        }
        assert {
            (scene.scene_id, scene.split, label) for scene, label in zip(read.scenes, read.labels, strict=True)
        } == (expected)


SCENE_CSV = "class_id class_name youtube_id imdb_id\n0 office {}1 tt0000001\n2 school {}2 tt0000002\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (SCENE_CSV.format("x", "x").replace(" ", ","), r"train\.csv, line 1: columns are separated by ','"),
        (HTML, r"train\.csv, line 1: a web page"),
        ("class_id youtube_id imdb_id\n0 x1 tt0000001\n", r"train\.csv, line 1: no column class_name"),
        ("0 office x1 tt0000001\n", r"train\.csv, line 1: no column .* Is the header missing"),
        (SCENE_CSV.format("x", "x") + "2 school x1\n", r"train\.csv, line 4: 3 cells"),
        (SCENE_CSV.format("x", "x") + "6 ship x3 tt0000001\n", r"line 4: no label .*'6 ship x3 tt0000001'.* 5 rest"),
        (SCENE_CSV.format("x", "x") + "2 hotel x3 tt0000001\n", r"line 4: .*unknown class"),
        (SCENE_CSV.format("x", "x") + "-1 hotel x3 tt0000001\n", r"line 4: .*unknown class"),
        (SCENE_CSV.format("x", "x") + "two school x3 tt0000001\n", r"line 4: no label of task scene"),
        (SCENE_CSV.format("x", "x") + "2 school x3 nm0000229\n", r"line 4: 'nm0000229' is no IMDb id"),
        (SCENE_CSV.format("x", "x") + "2 school x2 tt0000002\n", r"line 4: scene x2 is there twice.*csv, line 3;"),
        (SCENE_CSV.format("x", "v"), r"val\.csv, line 3: scene v2 is there twice, first in .*train\.csv, line 3"),
    ],
)
def test_lvu_tables_that_are_wrong(tmp_path, changed, message):
    for name in ("train", "val", "test"):
        write(tmp_path / f"scene/{name}.csv", SCENE_CSV.format(name[0], name[0]))
    write(tmp_path / "scene/train.csv", changed)
    with pytest.raises(LabelError, match=message):
        read_lvu(tmp_path, "scene")


def test_lvu_values_that_are_wrong(tmp_path):
    for name in ("train", "val", "test"):
        write(tmp_path / f"view_count/{name}.csv", f"view_count youtube_id imdb_id\n0 {name} tt0000001\n")
        rows = f"like_count dislike_count youtube_id imdb_id\n3 1 {name} tt0000001\n"
        write(tmp_path / f"like_ratio/{name}.csv", rows)
    assert read_lvu(tmp_path, "like_ratio").labels == pytest.approx([7.5 - 9.138220535629456] * 3)
    with pytest.raises(LabelError, match=r"train\.csv, line 2: no label of task view_count"):
        read_lvu(tmp_path, "view_count")
    write(tmp_path / "like_ratio/test.csv", "like_count dislike_count youtube_id imdb_id\n0 0 x tt0000001\n")
    with pytest.raises(LabelError, match=r"test\.csv, line 2: .*division"):
        read_lvu(tmp_path, "like_ratio")


def test_lvu_folders_and_json_that_are_wrong(tmp_path):
    with pytest.raises(LabelError, match=r"'place' is none of LVU's: relationship, .*scene"):
        read_lvu(tmp_path, "place")
    with pytest.raises(LabelError, match=r"holds neither scene/train\.csv nor"):
        read_lvu(tmp_path, "scene")
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.json", json.dumps({name: {"scene": "office", "scene_answer": "(a)"}, f"{name}2": {}}))
    with pytest.raises(LabelError, match=r"holds neither view_count/train\.csv"):
        read_lvu(tmp_path, "view_count")
    assert read_lvu(tmp_path, "scene").labels.tolist() == [0, 0, 0]
    for content, message in (
        ('{"x": {"scene_answer": "(g)"}}', r"val\.json, clip x: scene_answer '\(g\)' is none of \(a\) .* \(f\)"),
        ('{"train": {"scene_answer": "(a)"}}', r"val\.json, clip train: scene train is there twice"),
        ("[]", r"val\.json: expected a dict"),
        ('{"x":\n(}', r"val\.json, line 2: no JSON"),
    ):
        write(tmp_path / "val.json", content)
        with pytest.raises(LabelError, match=message):
            read_lvu(tmp_path, "scene")


def test_scene_boundaries_have_the_published_counts(scene318):
    films = read_scene_boundaries(scene318)
    found = Counter(film.split for film in films)
    assert found == {"train": 190, "validation": 64, "test": 64}
    totals = {"train": (298321, 25044), "validation": (102915, 8911), "test": (105976, 8110)}
    for split, expected in totals.items():
        labels = np.concatenate([film.labels_M for film in films if film.split == split])
        assert (len(labels), labels.sum()) == expected
    # A random scorer's average precision is the share of boundaries.
    test = np.concatenate([film.labels_M for film in films if film.split == "test"])
    assert round(100 * test.mean(), 2) == 7.65
    assert sum(len(film.labels_M) - film.labels_M.sum() for film in films) == 465147
    assert sum(film.labels_M.sum() for film in films) == 37614 + 4451
    unusual = {film.movie_id: film.num_shots - len(film.labels_M) for film in films}
    assert {name: gap for name, gap in unusual.items() if gap != 1} == {"tt0120755": 0, "tt1099212": 2}
    assert min(film.num_shots for film in films) == 330 and max(film.num_shots for film in films) == 4043
    for film in films[:3]:
        lines = (scene318 / f"shot_movie318/{film.movie_id}.txt").read_text().splitlines()
        assert film.frames_S2.tolist() == [list(map(int, line.split()[:2])) for line in lines]
        lines = (scene318 / f"label318/{film.movie_id}.txt").read_text().splitlines()
        assert film.labels_M.tolist() == [line.split()[1] != "0" for line in lines]


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("width", [2, 4, 6])
def test_windows_have_half_their_shots_before_the_boundary(missing, width):
    film = FilmBoundaries("tt0000001", "test", np.zeros(7 - missing, bool), np.zeros((7, 2), np.int64))
    expected = []
    for label in range(7 - missing):
        before = [max(label - step, 0) for step in reversed(range(width // 2))]
        after = [min(label + step, 6) for step in range(1, width // 2 + 1)]
        expected.append(before + after)
    assert film.windows(width).tolist() == expected


def write_scene318(folder: Path, labels: str = "0000 0\n0001 -1\n0002 1\n", shots: int = 4, **parts) -> Path:
    split = {"train": ["tt0000001"], "val": ["tt0000002"], "test": ["tt0000003"], "all": [], **parts}
    write(folder / "meta/split318.json", json.dumps(split))
    for number in (1, 2, 3):
        write(folder / f"label318/tt000000{number}.txt", labels if number == 2 else "0000 0\n0001 1\n")
        lines = [f"{9 * shot} {9 * shot + 8} {9 * shot} {9 * shot + 3} {9 * shot + 6}\n" for shot in range(shots)]
        write(folder / f"shot_movie318/tt000000{number}.txt", "".join(lines if number == 2 else lines[:3]))
    return folder


def test_uncertain_boundaries_are_boundaries(tmp_path):
    film = read_scene_boundaries(write_scene318(tmp_path))[1]
    assert (film.movie_id, film.split, film.num_shots) == ("tt0000002", "validation", 4)
    assert film.labels_M.tolist() == [False, True, True]
    assert film.frames_S2.tolist() == [[0, 8], [9, 17], [18, 26], [27, 35]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "0000 0\n0002 1\n"}, r"tt0000002\.txt, line 2: '0002 1\\n' is not the shot's number 0001"),
        ({"labels": "0000 2\n"}, r"tt0000002\.txt, line 1: '0000 2"),
        ({"labels": "0000,0\n"}, r"tt0000002\.txt, line 1: '0000,0"),
        ({"labels": HTML}, r"tt0000002\.txt, line 1: a web page"),
        ({"labels": ""}, r"tt0000002: 0 boundary labels for 4 shots"),
        ({"shots": 6}, r"tt0000002: 3 boundary labels for 6 shots"),
        ({"shots": 2}, r"tt0000002: 3 boundary labels for 2 shots"),
        ({"shots": 0}, r"shot_movie318/tt0000001\.txt, the shot list is empty"),
        ({"val": []}, r"label318: tt0000002 is labeled, but in no split"),
        ({"train": ["tt0000001", "tt0000009"]}, r"label318: tt0000009 and 0 more films of the split have no file"),
        ({"test": ["tt0000003", "tt0000001"]}, r"split318\.json: tt0000001 is in train and in test"),
        ({"test": ["0000003"]}, r"split318\.json: expected lists of IMDb ids under train, val and test"),
    ],
)
def test_scene_boundaries_that_are_wrong(tmp_path, changes, message):
    with pytest.raises(LabelError, match=message):
        read_scene_boundaries(write_scene318(tmp_path, **changes))


def test_movienet_splits(assets, scene318):
    splits = film_splits(assets / "labels/movienet_splits/movie1K.split.v1.json")
    assert Counter(splits.values()) == {"train": 660, "validation": 220, "test": 220}
    assert film_splits(scene318 / "meta/split318.json").items() < splits.items()


def write_annotations(folder: Path, last_is_inside: bool) -> tuple[dict, dict]:
    """Annotations after MovieNet's documentation: what they say of each scene's shots and places."""
    draw = random.Random(3)
    films = {f"tt000000{number}": part for number, part in enumerate(("train", "train", "val", "test", "test"), 1)}
    split = {part: [name for name, its in films.items() if its == part] for part in ("train", "val", "test")}
    write(folder / "split.json", json.dumps({**split, "full": list(films)}))
    shots, places = {}, {}
    for movie_id in films:
        scenes, start = [], 0
        for number in range(40):
            end, name = start + draw.randint(1, 9), f"{movie_id}_{number:04d}"
            tags = draw.sample(["bar", "car", "pier", "street"], draw.randint(0, 3))
            tags += ["moon"] * (number % 20 == 0)  # ten scenes in all
            form = None if not tags else tags[0] if len(tags) == 1 and number % 2 else tags
            pair = [start, end - last_is_inside]
            scenes.append({"id": name, "shot": pair, "frame": [0, 1], "place_tag": form, "action_tag": None})
            shots[name], places[name] = (start, end - start), set(tags)
            start = end + (number % 7 == 0)  # shots between scenes now and then
        annotation = {"imdb_id": movie_id, "cast": None, "story": None, "scene": scenes}
        write(folder / f"annotation/{movie_id}.json", json.dumps(annotation))
    write(folder / "annotation/tt0000009.json", json.dumps({"imdb_id": "tt0000009", "scene": None}))
    return shots, places


@pytest.mark.parametrize("last_is_inside", [False, True])
def test_place_tags(tmp_path, last_is_inside):
    shots, places = write_annotations(tmp_path, last_is_inside)
    read = read_place_tags(tmp_path / "annotation", tmp_path / "split.json", min_count=11)
    assert read.classes == ("bar", "car", "pier", "street")
    expected = {name: tags - {"moon"} for name, tags in places.items() if tags - {"moon"}}
    assert 100 < len(expected) < len(shots)
    assert {scene.scene_id: scene.shots for scene in read.scenes} == {name: shots[name] for name in expected}
    named = {
        scene.scene_id: {read.classes[index] for index in np.flatnonzero(label)}
        for scene, label in zip(read.scenes, read.labels, strict=True)
    }
    assert named == expected
    assert {(scene.movie_id, scene.split) for scene in read.scenes} == {
        *(("tt0000001", "train"), ("tt0000002", "train"), ("tt0000003", "validation")),
        *(("tt0000004", "test"), ("tt0000005", "test")),
    }
    assert "moon" in read_place_tags(tmp_path / "annotation", tmp_path / "split.json", min_count=10).classes


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ([{"id": "x", "shot": [5, 4], "place_tag": "bar"}], r"tt0000001\.json, scene x: there is no shot from 5 to 4"),
        ([{"id": "x", "shot": [5], "place_tag": "bar"}], r"tt0000001\.json, scene 0: expected id, shot"),
        ([{"id": "x", "shot": [5, 6]}], r"tt0000001\.json, scene 0: expected id, shot.*KeyError"),
        ([{"id": "x", "shot": [5, 6], "place_tag": [{"name": "bar"}]}], r"tt0000001\.json, scene 0: expected"),
        ([{"id": "tt0000002_0000", "shot": [5, 6], "place_tag": "bar"}], r"scene tt0000002_0000 is there twice"),
    ],
)
def test_place_tags_that_are_wrong(tmp_path, scenes, message):
    write_annotations(tmp_path, False)
    write(tmp_path / "annotation/tt0000001.json", json.dumps({"scene": scenes}))
    with pytest.raises(LabelError, match=message):
        read_place_tags(tmp_path / "annotation", tmp_path / "split.json", min_count=1)


def test_place_tags_of_films_outside_the_split(tmp_path):
    write_annotations(tmp_path, False)
    (tmp_path / "annotation/tt0000003.json").rename(tmp_path / "annotation/tt0000008.json")
    with pytest.raises(LabelError, match=r"annotation: tt0000008 is labeled, but in no split"):
        read_place_tags(tmp_path / "annotation", tmp_path / "split.json")
    (tmp_path / "annotation/tt0000008.json").unlink()
    with pytest.raises(LabelError, match=r"annotation: tt0000003 and 0 more films of the split have no file"):
        read_place_tags(tmp_path / "annotation", tmp_path / "split.json")


def test_bbc_has_the_published_counts(assets):
    folder = assets / "labels/bbc_planet_earth"
    films = read_bbc(folder)
    assert [film.movie_id for film in films] == [str(episode) for episode in range(1, 12)]
    assert sum(film.num_shots for film in films) == 4855
    for film in films:
        *starts, shots = map(int, (folder / film.movie_id / "scenes.txt").read_text().split(","))
        assert (film.split, film.num_shots, len(film.labels_M)) == ("test", shots, shots - 1)
        assert [0, *(np.flatnonzero(film.labels_M) + 1)] == starts


def test_bbc_as_published_by_annotator(tmp_path):
    for episode in ("02_Second", "10_Tenth", "1_First"):
        write(tmp_path / f"shots/{episode}.txt", "0\t9\n12\t20\n21\t30\n31\t31\n")
        write(tmp_path / f"scenes/annotator_0/{episode}.txt", "0,2,4")
        write(tmp_path / f"scenes/annotator_1/{episode}.txt", "0,1,3,4\n")
    films = read_bbc(tmp_path, "annotator_1")
    assert [film.movie_id for film in films] == ["1_First", "02_Second", "10_Tenth"]
    assert films[0].labels_M.tolist() == [True, False, True]
    assert films[0].frames_S2.tolist() == [[0, 9], [12, 20], [21, 30], [31, 31]]
    assert read_bbc(tmp_path, "annotator_0")[2].labels_M.tolist() == [False, True, False]
    for name, message in ((None, "holds no shots/"), ("annotator_9", r"annotator_9/.*\.txt: not there")):
        with pytest.raises(LabelError, match=message):
            read_bbc(tmp_path, name)
    for file, content, message in (
        ("scenes/annotator_0", "0,2", r"annotator_0/1_First\.txt: expected ascending numbers of shots from 0 to 4"),
        ("scenes/annotator_0", "1,2,4", "expected ascending numbers"),
        ("scenes/annotator_0", "0,2,2,4", "expected ascending numbers"),
        ("scenes/annotator_0", "0;2;4", r"expected whole numbers \(.*0;2;4"),
        ("scenes/annotator_0", "", "expected whole numbers"),
        ("shots", "0\t9\n8\t20\n21\t30\n31\t40\n", r"shots/1_First\.txt: expected first and last frame"),
        ("shots", "0\t9\n12\n21\t30\n31\t40\n", r"shots/1_First\.txt: expected first and last frame"),
    ):
        before = (tmp_path / file / "1_First.txt").read_text()
        write(tmp_path / file / "1_First.txt", content)
        with pytest.raises(LabelError, match=message):
            read_bbc(tmp_path, "annotator_0")
        write(tmp_path / file / "1_First.txt", before)


def test_movieclip_has_the_published_counts(assets, tmp_path):
    with tarfile.open(assets / "labels/movieclip.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "movieclip"
    read = read_movieclip(folder)
    assert [len(read.of_split(split)) for split in SPLIT_FILES] == [73859, 23216, 10345]
    assert (read.labels.shape[1], read.classes[:3]) == (150, ("courtroom", "police station", "mountain"))
    first, labels = read.scenes[0], [np.flatnonzero(row).tolist() for row in read.labels]
    assert (first.scene_id, first.movie_id, labels[0]) == ("rAchA32z2zM-Scene-009", "rAchA32z2zM", [63])
    lines = (folder / "val_multi_label_thresh_0_4_0_1_150_labels.txt").read_text().splitlines()
    numbers = read.of_split("validation")
    assert [labels[number] for number in numbers] == [sorted(map(int, line.split()[1:])) for line in lines]


def test_movieclip_files_that_are_wrong(tmp_path):
    label_map = write(tmp_path / "multi_label_thresh_0_4_0_1_label_map.json", '{"car": 1, "bar": 0}')
    for part in ("train", "val", "test"):
        name = f"{part}_multi_label_thresh_0_4_0_1_150_labels.txt"
        write(tmp_path / name, f"{part}/{part}-Scene-001.mp4 1\n")
    write(tmp_path / VERIFIED, "x/x-Scene-001.mp4 0 1\n")
    assert read_movieclip(tmp_path).labels.tolist() == [[False, True]] * 3
    verified = read_movieclip(tmp_path, verified_test=True)
    assert (verified.classes, verified.labels[2].tolist()) == (("bar", "car"), [True, True])
    for line, message in (
        ("a/a-1.mp4 2", "'a/a-1.mp4 2.n' is not .* indices below 2"),
        ("a-1.mp4 1", "'a-1.mp4 1.n' is not <clip>"),
        ("a/a-1.mp4", "'a/a-1.mp4.n' is not <clip>"),
        ("", "'.n' is not <clip>"),
        ("x/x-Scene-001.mp4 0", "scene x-Scene-001 is there twice"),
        ("train/train-Scene-001.mp4 0", "scene train-Scene-001 is there twice"),
    ):
        write(tmp_path / VERIFIED, f"x/x-Scene-001.mp4 0\n{line}\n")
        with pytest.raises(LabelError, match=rf"complete\.txt, line 2: {message}"):
            read_movieclip(tmp_path, verified_test=True)
    write(label_map, '{"bar": 0, "car": 2}')
    with pytest.raises(LabelError, match=r"label_map\.json: expected a dict of classes"):
        read_movieclip(tmp_path)


OWN = (
    "video,start,end,label,film,split\n"
    "films/heat.mp4,0:01:20,1:25.5,violence,tt0113277,train\n"
    "films/heat.mp4,95.5,1:00:00,none,tt0113277,Val\n"
    "Mr. Smith,,,none,,test\n"
)


def test_own_labels(tmp_path):
    read = read_own_labels(write(tmp_path / "moderation.csv", OWN))
    assert (read.task, read.problem, read.classes) == (
        *("moderation", "single_label_classification", ("none", "violence")),
    )
    assert read.labels.tolist() == [1, 0, 0]
    assert read.scenes == (
        LabeledScene("heat:80.000-85.500", "tt0113277", "heat", "train", (80.0, 85.5)),
        LabeledScene("heat:95.500-3600.000", "tt0113277", "heat", "validation", (95.5, 3600.0)),
        LabeledScene("Mr. Smith", "Mr. Smith", "Mr. Smith", "test"),
    )


def test_own_labels_as_excel_writes_them_on_windows(tmp_path):
    expected = read_own_labels(write(tmp_path / "own.csv", OWN))
    text = OWN.replace("video", "Video", 1).replace("label", "LABEL", 1).replace("films/", "films\\", 1)
    text = ("\ufeff" + text + ",,,,,\n ,,,,,\n").replace(",", ";").replace("\n", "\r\n")
    (tmp_path / "own.csv").write_bytes(text.encode())
    found = read_own_labels(tmp_path / "own.csv")
    assert (found.scenes, found.classes) == (expected.scenes, expected.classes)
    assert found.labels.tolist() == expected.labels.tolist()


def test_own_labels_of_several_classes_and_values(tmp_path):
    path = write(tmp_path / "own.csv", OWN.replace("violence", "violence | drug use|violence"))
    several = read_own_labels(path)
    assert (several.problem, several.classes) == ("multi_label_classification", ("drug use", "none", "violence"))
    assert several.labels.tolist() == [[True, False, True], [False, True, False], [False, True, False]]
    with pytest.raises(LabelError, match=r"own\.csv, line 2: 2 labels in a task of one"):
        read_own_labels(path, "single_label_classification")
    path = write(tmp_path / "values.csv", "video,label,split\na,1,train\nb,2.5,validation\nc,-1e3,test\n")
    assert read_own_labels(path).classes == ("-1e3", "1", "2.5")
    values = read_own_labels(path, "regression")
    assert (values.labels.tolist(), values.classes) == ([1, 2.5, -1000], ())
    for value, message in (
        ("high", r"line 2: 'high' is no number"),
        ("nan", r"line 2: a row needs a video and a label; .*nan"),
        ("inf", "line 2: 'inf' is no number"),
    ):
        with pytest.raises(LabelError, match=message):
            read_own_labels(write(path, f"video,label,split\na,{value},train\nb,1,test\n"), "regression")


def test_own_labels_are_split_by_film(tmp_path):
    draw = random.Random(0)
    rows = [f"v{number},{draw.choice('ab')},film {number % 60}\n" for number in range(200)]
    path = write(tmp_path / "own.csv", "video,label,film\n" + "".join(rows))
    read = read_own_labels(path)
    films = {split: {read.scenes[number].movie_id for number in read.of_split(split)} for split in SPLIT_FILES}
    assert {split: len(names) for split, names in films.items()} == {"train": 42, "validation": 6, "test": 12}
    assert len(set.union(*films.values())) == 60
    assert read_own_labels(path).scenes == read.scenes
    assert read_own_labels(path, seed=1).scenes != read.scenes
    by_video = read_own_labels(write(path, "video,label\n" + "".join(f"v{number},a\n" for number in range(10))))
    assert [len(by_video.of_split(split)) for split in SPLIT_FILES] == [7, 1, 2]
    with pytest.raises(LabelError, match=r"own\.csv: 2 films .*too few to draw validation and test.*column split"):
        read_own_labels(write(path, "video,label\na,x\nb,y\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OWN.replace(",", "|"), r"own\.csv, line 1: columns are separated by '\|'; expected ','"),
        (OWN + "\n,,,,,\na,0,1,NaN,f,train\n", r"own\.csv, line 7: a row needs a video and a label; .* label 'NaN'"),
        (HTML, r"own\.csv, line 1: a web page"),
        ("", r"own\.csv: empty"),
        ("video,start,end\na,0,1\n", r"own\.csv, line 1: no column label"),
        ("video,label\n", r"own\.csv: holds a header, but no row"),
        (OWN + "a,0,1,,f,train\n", r"own\.csv, line 5: a row needs a video and a label"),
        (OWN + "a,0,1,x|,f,train\n", r"own\.csv, line 5: a row needs a video and a label"),
        (OWN + ",0,1,x,f,train\n", r"own\.csv, line 5: a row needs a video"),
        (OWN + "a,9,1,x,f,train\n", r"own\.csv, line 5: start 9 is not before end 1"),
        (OWN + "a,1,,x,f,train\n", r"own\.csv, line 5: time '' is neither"),
        (OWN + "a,-1,2,x,f,train\n", r"own\.csv, line 5: time '-1' is neither"),
        (OWN + "a,nan,2,x,f,train\n", r"own\.csv, line 5: time 'nan' is neither"),
        (OWN + "a,0,1,x,f,dev\n", r"own\.csv, line 5: split 'dev' is none of train"),
        (OWN + "a,0,1,x,f\n", r"own\.csv, line 5: 5 cells"),
        (OWN + "series/heat.mp4,0,1,x,f,train\n", r"line 5: series/heat\.mp4 has the name of .*films/heat\.mp4"),
        (OWN + "films/heat.mp4,80,85.5,none,f,train\n", r"line 5: scene heat:80\.000-85\.500 is there twice.*line 2"),
        (OWN + "films/heat.mp4,85,90,none,f,test\n", r"line 5: heat is in split test here, but in train in .*line 2"),
        (OWN + "Mr. Smith,85,90,none,f,train\n", r"line 5: Mr\. Smith is in split train here, but in test in .*line 4"),
    ],
)
def test_own_labels_that_are_wrong(tmp_path, content, message):
    with pytest.raises(LabelError, match=message):
        read_own_labels(write(tmp_path / "own.csv", content))


def overlapping(scenes: list[tuple[str, tuple[float, float] | None, str]]) -> bool:
    """Whether two scenes of one video and of different splits have a moment in common, by comparing all pairs."""
    spans = [(video, *(part or (0, math.inf)), split) for video, part, split in scenes]
    return any(
        one[0] == other[0] and one[3] != other[3] and one[1] < other[2] and other[1] < one[2]
        for one in spans
        for other in spans
    )


@pytest.mark.parametrize("form", ["seconds", "shots"])
def test_overlap_of_splits_is_found_as_by_comparing_all_pairs(form):
    draw, verdicts = random.Random(1), Counter()
    for _ in range(300):
        scenes, rows = [], []
        for number in range(draw.randint(2, 6)):
            start = draw.randint(0, 20)
            part = (start, start + draw.randint(1, 6)) if draw.random() < 0.95 else None
            video, split = draw.choice("ab"), draw.choice(["train", "validation", "test"])
            rows.append((video, part, split))
            given = part and {form: part if form == "seconds" else (part[0], part[1] - part[0])}
            scenes.append(LabeledScene(str(number), "film", video, split, **(given or {})))
        labels = np.zeros(len(scenes), np.int64)
        if overlapping(rows):
            with pytest.raises(LabelError, match=r"take one of them out"):
                LabeledScenes("own", "single_label_classification", tuple(scenes), labels, ("x",))
        else:
            assert len(LabeledScenes("own", "single_label_classification", tuple(scenes), labels, ("x",))) == len(rows)
        verdicts[overlapping(rows)] += 1
    assert min(verdicts[True], verdicts[False]) > 50


@pytest.mark.parametrize(
    ("problem", "labels", "message"),
    [
        ("single_label_classification", np.array([0, 2]), "label 2 of scene b"),
        ("single_label_classification", np.array([-1, 1]), "label -1 of scene a"),
        ("single_label_classification", np.array([0.0, 1.0]), "labels are float64"),
        ("single_label_classification", np.array([0]), r"shape \(1,\), but .* 2 scenes"),
        ("multi_label_classification", np.zeros((2, 3), bool), r"shape \(2, 3\), but .* shape \(2, 2\)"),
        ("multi_label_classification", np.zeros((2, 2)), "labels are float64"),
        ("regression", np.array([0, 1]), "labels are int64"),
        ("regression", np.array([0.0, np.inf]), "label inf of scene b"),
    ],
)
def test_labels_that_do_not_fit_the_problem(problem, labels, message):
    scenes = (LabeledScene("a", "f", "a", "train"), LabeledScene("b", "f", "b", "test"))
    with pytest.raises(LabelError, match=message):
        LabeledScenes("own", problem, scenes, labels, ("x", "y"))


def test_pictures_and_unknown_splits_are_checked():
    scenes = [LabeledScene("a", "f", "a", "train", pictures=("a", "c")), LabeledScene("b", "f", "b", "test")]
    labels = np.zeros(2, np.int64)
    assert len(LabeledScenes("own", "single_label_classification", tuple(scenes), labels, ("x",))) == 2
    for wrong, message in (
        (scenes[1]._replace(pictures=("b", "c")), "scene b: c is in split test here, but in train in own, scene a"),
        (scenes[1]._replace(split="val"), "split 'val' is none of train"),
    ):
        with pytest.raises(LabelError, match=message):
            LabeledScenes("own", "single_label_classification", (scenes[0], wrong), labels, ("x",))


def test_photographs_of_the_assets(assets):
    scene15 = read_photographs(assets / "images/scene15")
    assert (len(scene15), len(scene15.classes), len(scene15.of_split("test"))) == (1050, 15, 525)
    for scene, label in zip(scene15.scenes, scene15.labels, strict=True):
        part, group, _ = scene.video.split("/")
        assert (part == "test", group) == (scene.split == "test", scene15.classes[label])
    miniplaces = read_photographs(assets / "images/photographs", "miniplaces")
    assert (len(miniplaces), len(miniplaces.classes), len(miniplaces.of_split("test"))) == (6130, 100, 2044)
    assert all((int(scene.video[11:16]) % 3 == 0) == (scene.split == "test") for scene in miniplaces.scenes)
    nine = read_photographs(assets / "images/photographs", "miniplaces", pictures_per_scene=9)
    assert {len(set(scene.pictures)) for scene in nine.scenes} == {9}
    assert (miniplaces.task, nine.task) == ("photographs/miniplaces", "photographs/miniplaces/9")


def write_folders(folder: Path, num_train: int = 8, num_test: int = 5) -> Path:
    for part, count in (("train", num_train), ("test", num_test)):
        for group in ("bar", "sea"):
            for number in range(count):
                write(folder / part / group / f"{number}.jpg", "")
    write(folder / "train/bar/notes.txt", "")
    return folder


def test_scenes_of_several_pictures(tmp_path):
    folder = write_folders(tmp_path)
    one, two, three = (read_photographs(folder, pictures_per_scene=count, validation_share=0.4) for count in (1, 2, 3))
    assert [len(one.of_split(split)) for split in SPLIT_FILES] == [10, 6, 10]
    split_of = {scene.video: scene.split for scene in one.scenes}
    for number, scene in enumerate(three.scenes):
        assert scene.pictures[:2] == two.scenes[number].pictures and scene.pictures[:1] == one.scenes[number].pictures
        assert len(set(scene.pictures)) == 3
        assert {split_of[path] for path in scene.pictures} == {scene.split}
        assert {path.split("/")[1] for path in scene.pictures} == {three.classes[three.labels[number]]}
    assert read_photographs(folder, pictures_per_scene=3, validation_share=0.4).scenes == three.scenes
    assert read_photographs(folder, pictures_per_scene=3, validation_share=0.4, seed=1).scenes != three.scenes
    with pytest.raises(LabelError, match=r"class bar has 3 pictures in validation, too few for scenes of 4"):
        read_photographs(folder, pictures_per_scene=4, validation_share=0.4)
    with pytest.raises(LabelError, match=r"pictures_per_scene=0"):
        read_photographs(folder, pictures_per_scene=0)


def test_photographs_that_are_wrong(tmp_path):
    with pytest.raises(LabelError, match=r"the files hold no labeled scene"):
        read_photographs(tmp_path)
    with pytest.raises(LabelError, match=r"class bar: 1 films or pictures are too few"):
        read_photographs(write_folders(tmp_path / "few", num_train=1))
    rows = "".join(f"places/{number}.jpg\tx/bar\n" for number in range(9))
    manifest = write(tmp_path / "manifest.tsv", "file\tgroup\n" + rows + "other/cat.jpg\tcat\n")
    assert len(read_photographs(tmp_path, "places").of_split("test")) == 3
    with pytest.raises(LabelError, match=r"manifest\.tsv, line 11: other/cat\.jpg has no number"):
        read_photographs(tmp_path)
    for content, message in (
        (manifest.read_text().replace("\t", ","), r"manifest\.tsv, line 1: columns are separated by ','"),
        ("file\tgroup\n" + rows + rows[:19], r"manifest\.tsv, line 11: scene places/0\.jpg is there twice"),
    ):
        write(manifest, content)
        with pytest.raises(LabelError, match=message):
            read_photographs(tmp_path, "places")
