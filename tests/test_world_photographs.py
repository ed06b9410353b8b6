"""A film world of photographs: which pictures its films show, that parts share none, and the stages behind it.

Most tests make a little folder of photographs in the layout of the assets, without anybody's pictures.
"""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_film_world import ROOT
from trees import tree

from data_scripts.check_film_world import main as check
from data_scripts.extract_features import main as extract_features
from data_scripts.film_world.photographs import PhotographPainter, PhotographSettings, plan_films, read_groups
from data_scripts.film_world.plan import Photograph, PlannedShot, WorldSettings
from data_scripts.make_catalog import main as make_catalog
from data_scripts.make_film_world import main
from data_scripts.mine_scene_pairs import main as mine_scene_pairs
from data_scripts.similar_movies import main as similar_movies
from eval.scene_retrieval import main as scene_retrieval
from modeling_m2s.shots_m2s import detect_shots
from modeling_m2s.storage_m2s import FilmDataset
from train.train_mil import main as train_mil

GROUPS = ["a/abbey", "b/bakery/shop", "c/coast", "d/dam", "h/hot_spring"]
PLACES = ["abbey", "bakery shop", "coast", "dam", "hot spring"]
SIZE = ["--width", "64", "--height", "36", "--film_seconds", "24", "--num_places", "5", "--num_themes", "2"]
SMALL = [*SIZE, "--num_films", "6", "--test_share", "0.34"]
KEYFRAMES = ["--keyframes_only", "true"]
PARTS = ("training", "test")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """45 pictures of each of five groups; a world leaves out a group without test pictures, and another data set."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    rows = [(f"miniplaces/{n:05}.jpg", GROUPS[n % 5]) for n in range(225)]
    rows += [("miniplaces/00301.jpg", "y/yard"), ("nips17/00000.jpg", "a/abbey")]
    for name, _ in rows:
        (folder / name).parent.mkdir(exist_ok=True)
        blocks = random.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(blocks).resize((48, 48), Image.Resampling.NEAREST).save(folder / name)
    lines = ["file\torigin\tgroup", *(f"{name}\ttest\t{group}" for name, group in rows)]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def make(photographs: Path, output: Path, *words: str) -> None:
    main([*SMALL, "--photographs", str(photographs), "--output", str(output), *words])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_gives_the_same_bytes_from_any_folder(photographs, tmp_path):
    """Also after a loss; nothing written names the folder of photographs."""
    make(photographs, tmp_path / "a", *KEYFRAMES)
    moved = shutil.copytree(photographs, tmp_path / "moved")
    make(moved, tmp_path / "b", *KEYFRAMES)
    whole = tree(tmp_path / "a")
    assert whole == tree(tmp_path / "b")
    assert not any(str(folder).encode() in content for folder in (photographs, moved) for content in whole.values())
    (tmp_path / "b/truth/test_films.txt").unlink()
    make(moved, tmp_path / "b", *KEYFRAMES)
    assert tree(tmp_path / "b") == whole
    make(moved, tmp_path / "c", *KEYFRAMES, "--seed", "1")
    assert tree(tmp_path / "c")["truth/shots.csv"] != whole["truth/shots.csv"]


def test_a_killed_world_is_finished_the_same(photographs, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fewer = ["--num_films", "4", "--test_share", "0.5"]
    make(photographs, whole, *fewer)
    command = [sys.executable, "-m", "data_scripts.make_film_world", *SMALL, *fewer, "--output", str(killed)]
    process = subprocess.Popen([*command, "--photographs", str(photographs)], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("videos/*.mp4")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(killed.glob("videos/*.mp4"))) < 4
    make(photographs, killed, *fewer)
    assert tree(killed) == tree(whole)


def test_every_shot_shows_another_picture_of_its_scenes_group_from_its_films_part(photographs, tmp_path):
    """The rule as a loop over the manifest: a number that divides by three is of the test part."""
    make(photographs, tmp_path, *KEYFRAMES)
    groups, parts = {}, {}
    for line in (photographs / "manifest.tsv").read_text().splitlines()[1:]:
        name, _, group = line.split("\t")
        groups[name] = group
        number = int(name.split("/")[1].removesuffix(".jpg"))
        parts[name] = "test" if number in range(0, 1000, 3) else "training"
    films = {row["movie_id"]: row["part"] for row in read_csv(tmp_path / "truth/films.csv")}
    shown = defaultdict(list)
    for row in read_csv(tmp_path / "truth/shots.csv"):
        name = row["photograph"]
        assert parts[name] == films[row["movie_id"]]
        assert PLACES[GROUPS.index(groups[name])] == row["place"]
        shown[row["movie_id"], row["scene"]].append(name)
    for names in shown.values():
        assert len(set(names)) == len(names) or len(names) > 15
    by_part = [{name for (film, _), names in shown.items() if films[film] == part for name in names} for part in PARTS]
    assert all(by_part) and not by_part[0] & by_part[1]
    for part in PARTS:
        listed = (tmp_path / f"truth/{part}_films.txt").read_text().split()
        assert listed == sorted(movie_id for movie_id, found in films.items() if found == part)
    assert list(films.values()).count("test") == 2


def test_synopses_name_the_groups(photographs):
    settings = WorldSettings(num_films=20, num_places=5)
    films, _ = plan_films(settings, PhotographSettings(photographs))
    for film in films:
        assert {shot.photograph.place for shot in film.shots} <= set(PLACES)
        named = {name for name in PLACES if f" at the {name}" in film.synopsis}
        assert named and named <= {shot.photograph.place for shot in film.shots}


def test_a_world_of_other_pictures_is_refused(photographs, tmp_path):
    make(photographs, tmp_path / "world", *KEYFRAMES)
    other = shutil.copytree(photographs, tmp_path / "other")
    name = read_csv(tmp_path / "world/truth/shots.csv")[0]["photograph"]
    Image.new("RGB", (48, 48)).save(other / name)
    with pytest.raises(SystemExit, match=r"make_film_world: error: .*photographs is '\w+' there, '\w+' now"):
        make(other, tmp_path / "world", *KEYFRAMES)
    with pytest.raises(SystemExit, match=r"photographs is '\w+' there, None now"):
        main([*SIZE, "--num_films", "6", *KEYFRAMES, "--output", str(tmp_path / "world")])


def test_a_world_of_drawings_says_nothing_of_photographs(tmp_path):
    main([*SIZE, "--num_films", "2", *KEYFRAMES, "--output", str(tmp_path)])
    record = json.loads((tmp_path / "world.json").read_text())
    assert record.keys() == {field.name for field in dataclasses.fields(WorldSettings)} | {"keyframes_only"}
    assert "part" not in read_csv(tmp_path / "truth/films.csv")[0]
    assert "photograph" not in read_csv(tmp_path / "truth/shots.csv")[0]
    assert sorted(path.name for path in (tmp_path / "truth").iterdir()) == ["films.csv", "shots.csv"]


@pytest.mark.parametrize(
    ("manifest", "more", "words"),
    [
        (None, [], "has no manifest.tsv; give the folder that holds it and miniplaces/"),
        ("file\torigin\nminiplaces/00000.jpg\tx\n", [], "line 1: needs the columns file and group"),
        ("file\torigin\tgroup\nnips17/00000.jpg\tx\tdataset\n", [], "names no picture of miniplaces/"),
        ("file\torigin\tgroup\nminiplaces/front.jpg\tx\ta/abbey\n", [], "line 2: needs miniplaces/NUMBER.jpg"),
        ("whole", ["--num_places", "6"], "num_places=6 is more than the 5 groups of photographs"),
        ("whole", ["--test_share", "1"], "test_share=1.0 must lie between 0 and 1"),
        ("whole", ["--test_share", "0.1"], "makes 1 test films; at least two are needed"),
        ("whole", ["--test_share", "0.99"], "makes 6 test films; at least two are needed, and a training film"),
        ("lost", [], "miniplaces.*: No such file or directory"),
    ],
)
def test_what_makes_no_world_of_photographs_is_one_line(manifest, more, words, photographs, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    if manifest in ("whole", "lost"):
        shutil.copy(photographs / "manifest.tsv", folder)
        if manifest == "whole":
            shutil.copytree(photographs / "miniplaces", folder / "miniplaces")
    elif manifest:
        (folder / "manifest.tsv").write_text(manifest)
    with pytest.raises(SystemExit, match=f"data_scripts.make_film_world: error: .*{words}"):
        make(folder, tmp_path / "world", *more)
    assert not (tmp_path / "world").exists()


def ramp(folder: Path) -> PhotographPainter:
    """A painter without a look, of a picture that grows lighter from left to right and from top to bottom."""
    (folder / "miniplaces").mkdir()
    across = np.linspace(0, 250, 100)
    pixels = np.stack(np.broadcast_arrays(across, across[:, None], 100), -1)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "miniplaces/00001.png")
    return PhotographPainter(WorldSettings(), None, folder)


def shot(*types: str) -> PlannedShot:
    return PlannedShot(0, 0, 0, types, 24, 0, Photograph("coast", "miniplaces/00001.png"))


def seen(frame: np.ndarray) -> tuple[float, float]:
    """Which shares of the picture's width and height a frame of `ramp` shows."""
    frame = frame.astype(float)
    return float(np.ptp(frame[90, :, 0]) / 250), float(np.ptp(frame[:, 160, 1]) / 250)


def test_a_close_up_is_a_tighter_crop_and_the_camera_is_slow(tmp_path):
    painter = ramp(tmp_path)
    for number in range(20):
        wide, close = (painter.frame(each, number, 0) for each in (shot(), shot("close_up")))
        assert 0.72 < seen(wide)[0] < 1.01 and 0.37 < seen(close)[0] < 0.58
        # A 16:9 window on a 4:3 scene that was squeezed to a square.
        assert seen(wide)[1] == pytest.approx(0.75 * seen(wide)[0], abs=0.03)
        frames = np.stack(list(painter.frames(shot(), number))).astype(float)
        moved = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        assert 0 < np.abs(frames[-1] - frames[0]).mean() < 40 and moved.max() < 3


def test_appearance_types_are_those_of_drawings(tmp_path):
    painter = ramp(tmp_path)
    plain, gray, night, rain, framed = (
        painter.frame(shot(*types), 3, 5).astype(int) for types in ([], ["monochrome"], ["night"], ["rain"], ["framed"])
    )
    assert np.ptp(gray, axis=2).max() == 0 and np.ptp(plain, axis=2).max() > 50
    assert night.mean() < 0.75 * plain.mean() and 0.01 < (rain != plain).any(2).mean() < 0.2
    assert (framed[:30] == 8).all() and (framed[150:] == 8).all() and (framed[30:150] == plain[30:150]).all()


def test_a_tall_frame_lies_within_the_picture(tmp_path):
    painter = ramp(tmp_path)
    painter = PhotographPainter(WorldSettings(width=90, height=160), None, painter.folder)
    assert painter.frame(shot(), 0, 0).shape == (160, 90, 3)


def test_cuts_in_videos_are_true_ones(photographs, tmp_path):
    """The slow camera is no cut to the detector. It misses some cuts: blocks of color are as light in all pictures."""
    make(photographs, tmp_path, "--num_films", "3", "--test_share", "0.67")
    truth = [
        int(row["start_frame"]) for row in read_csv(tmp_path / "truth/shots.csv") if row["movie_id"] == "tt9000000"
    ]
    found = [each.start_frame for each in detect_shots(tmp_path / "videos/tt9000000.mp4").shots]
    assert set(found) <= set(truth) and len(found) > len(truth) / 2


@pytest.mark.slow
def test_test_films_are_left_out_of_every_stage_and_measured(photographs, tmp_path, capsys):
    world, test, training = (
        tmp_path / name for name in ("world", "world/truth/test_films.txt", "world/truth/training_films.txt")
    )
    make(photographs, world, *KEYFRAMES, "--num_films", "24", "--test_share", "0.25")
    left_out, kept = (set(path.read_text().split()) for path in (test, training))
    assert len(left_out) == 6 and len(kept) == 18
    make_catalog(["--metadata", str(world / "metadata"), "--exclude", str(test), "--output", str(tmp_path / "movies")])
    extract_features(["--shots", str(world / "shots"), "--output", str(tmp_path / "features")])

    words = ["--movies", str(tmp_path / "movies"), "--sources", "synopsis"]
    similar_movies([*words, "--output", str(tmp_path / "similar")])
    pairs = FilmDataset(tmp_path / "similar", "similar_movies").read(["movie_id", "similar_movie_id"])
    assert {movie_id for row in pairs.to_pylist() for movie_id in row.values()} <= kept

    inputs = ["--features", str(tmp_path / "features"), "--similar", str(tmp_path / "similar")]
    mine_scene_pairs([*inputs, "--space", "whitened", "--output", str(tmp_path / "pairs")])
    mined = FilmDataset(tmp_path / "pairs", "scene_pairs").read(["movie_id_a", "movie_id_b"]).to_pylist()
    assert mined and {movie_id for row in mined for movie_id in row.values()} <= kept

    size = (
        "--max_shots 32 --average_kernel 4 --average_stride 2 --max_kernel 4 --max_stride 2 --epochs 1 --held_out 0.5"
    )
    train_mil([*inputs, *size.split(), "--output", str(tmp_path / "mil")])
    results = json.loads((tmp_path / "mil/results.json").read_text())
    assert results["counts"]["films"] == 18 and results["counts"]["films_left_out"] == 6
    assert set(results["held_out_films"]) < kept

    measured = ["--features", str(tmp_path / "features"), "--output", str(tmp_path / "measured.json")]
    scene_retrieval(["--world", str(world), "--held_out", str(test), *measured])
    assert set(json.loads((tmp_path / "measured.json").read_text())["queries"]["movie_id"]) == left_out


def test_a_world_of_photographs_is_checked_with_its_pictures(photographs, tmp_path):
    make(photographs, tmp_path / "world", *KEYFRAMES)
    words = ["--world", str(tmp_path / "world"), "--output", str(tmp_path / "figures.json")]
    check([*words, "--photographs", str(photographs), "--sheet", str(tmp_path / "sheet.png")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["clean"].keys() == {"place"} and "event" not in figures["shots"] | figures["scenes"]
    assert 0 <= figures["scenes"]["place"]["neighbor"] <= 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 32, 2 * 18)
    with pytest.raises(SystemExit, match="is a world of photographs; name their folder by --photographs"):
        check(words)
    other = shutil.copytree(photographs, tmp_path / "other")
    name = read_csv(tmp_path / "world/truth/shots.csv")[0]["photograph"]
    Image.new("RGB", (48, 48)).save(other / name)
    with pytest.raises(SystemExit, match="was made of other photographs than"):
        check([*words, "--photographs", str(other)])
    main([*SIZE, "--num_films", "2", *KEYFRAMES, "--output", str(tmp_path / "drawings")])
    with pytest.raises(SystemExit, match="is a world of drawings; leave out --photographs"):
        check(["--world", str(tmp_path / "drawings"), "--photographs", str(photographs)])


def test_the_assets_photographs(assets, tmp_path):
    """All hundred groups have pictures in both parts; the test part is as large as its source says."""
    groups = read_groups(assets / "images/photographs")
    assert len(groups) == 100 and sum(len(parts["test"]) for parts in groups.values()) == 2044
    assert min(len(pictures) for parts in groups.values() for pictures in parts.values()) >= 15
    make(assets / "images/photographs", tmp_path, *KEYFRAMES, "--num_places", "100")
    with pytest.raises(SystemExit, match="num_places=101 is more than the 100 groups"):
        make(assets / "images/photographs", tmp_path, *KEYFRAMES, "--num_places", "101")
