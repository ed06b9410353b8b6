"""`m2s` as users run it: on good films, on bad ones, interrupted, killed, and run again."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import load_dataset
from make_videos import damage, make_audio, make_video, truncate
from PIL import Image
from trees import tree

from m2s.main import main
from modeling_m2s.decoding_m2s import read_frames
from modeling_m2s.find_films_m2s import find_films
from modeling_m2s.pipeline_m2s import scene_windows
from modeling_m2s.scene_space_m2s import SceneSpace

M2S = [sys.executable, "-m", "m2s"]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A folder of four films of 21, 10, 1 and 3 shots, one of them below another folder."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    make_video(folder / "alpha.mp4", [20] * 21, seed=1)
    make_video(folder / "beta.mkv", [25] * 10, seed=2)
    make_video(folder / "gamma.mp4", [40], seed=3)
    make_video(folder / "more" / "delta.avi", [30, 20, 25], seed=4, codec="mpeg4")
    (folder / "notes.txt").write_text("not a film")
    return folder


@pytest.fixture(scope="module")
def index(films, tiny_folder, tmp_path_factory) -> Path:
    """What `m2s embed` makes of them."""
    output = tmp_path_factory.mktemp("index") / "out"
    assert main(["embed", str(films), "--model", str(tiny_folder), "--output", str(output)]) == 0
    return output


def embed(films, model, output, *more) -> int:
    paths = films if isinstance(films, list) else [films]
    return main(["embed", *map(str, paths), "--model", str(model), "--output", str(output), *map(str, more)])


def errors(capsys) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


def test_embed_writes_datasets_and_pictures(index):
    shots = load_dataset(str(index / "shots"), split="train")
    assert {name: shots["movie_id"].count(name) for name in set(shots["movie_id"])} == {
        "alpha": 21,
        "beta": 10,
        "gamma": 1,
        "more/delta": 3,
    }
    assert shots[0]["keyframes"][0].size == (128, 96)
    films = load_dataset(str(index / "films"), split="train")
    for film in films:
        rows = shots.select(range(film["first_row"], film["first_row"] + film["num_shots"]))
        assert set(rows["movie_id"]) == {film["movie_id"]} and film["shard"] == 0
    scenes = load_dataset(str(index / "scene_embeddings"), split="train")
    assert len(scenes) == sum(len(scene_windows(n)) for n in (21, 10, 1, 3))
    assert np.isfinite(scenes["embedding"]).all() and np.shape(scenes["embedding"]) == (len(scenes), 32)
    assert scenes["scene_id"][:3] == ["alpha:0-8", "alpha:9-17", "alpha:18-20"]
    assert len(list((index / "contact_sheets").glob("*.jpg"))) == 4
    assert not list(index.rglob("*.tmp")) and not list(index.rglob("parts"))


def test_records_say_how_it_was_made(index, tiny_folder):
    shots = json.loads((index / "shots" / "m2s.json").read_text())
    assert shots["settings"]["detector"] == "adaptive" and shots["settings"]["threshold"] == 3.0
    assert (shots["num_films"], shots["num_rows"], shots["failed"]) == (4, 35, {})
    scenes = json.loads((index / "scene_embeddings" / "m2s.json").read_text())
    assert scenes["model"] == str(tiny_folder) and scenes["settings"]["stride"] == 9


def test_a_second_run_does_nothing_and_changes_nothing(index, films, tiny_folder, tmp_path, capsys):
    output = shutil.copytree(index, tmp_path / "index")
    before = tree(output)
    assert embed(films, tiny_folder, output) == 0
    assert tree(output) == before
    assert "0 embedded now" in capsys.readouterr().out


def test_films_added_later_give_the_same_bytes(index, films, tiny_folder, tmp_path):
    output = tmp_path / "index"
    for part in (["beta.mkv"], ["gamma.mp4", "alpha.mp4"]):
        assert embed([films / name for name in part], tiny_folder, output) == 0
    assert embed(films, tiny_folder, output) == 0
    assert tree(output) == tree(index)


def test_a_replaced_film_is_embedded_again(films, tiny_folder, tmp_path, capsys):
    mine = shutil.copytree(films, tmp_path / "films")
    assert embed(mine, tiny_folder, tmp_path / "grown") == 0
    make_video(mine / "gamma.mp4", [20, 30], seed=9)
    assert embed(mine, tiny_folder, tmp_path / "grown") == 0
    assert "1 embedded now" in capsys.readouterr().out
    assert embed(mine, tiny_folder, tmp_path / "fresh") == 0
    assert tree(tmp_path / "grown") == tree(tmp_path / "fresh")


def test_a_film_that_was_replaced_by_a_broken_one_leaves_the_index(films, tiny_folder, tmp_path, capsys):
    mine = shutil.copytree(films, tmp_path / "films")
    assert embed(mine, tiny_folder, tmp_path / "index") == 0
    for output in ("index", "fresh"):
        (mine / "gamma.mp4").write_bytes(b"no film")
        assert embed(mine, tiny_folder, tmp_path / output) == 1
    assert "of 3 films (3 embedded now, 1 failed" in capsys.readouterr().out
    assert tree(tmp_path / "index") == tree(tmp_path / "fresh")


def test_another_film_of_the_same_name_is_refused(films, tiny_folder, tmp_path, capsys):
    output = tmp_path / "index"
    assert embed(films / "gamma.mp4", tiny_folder, output) == 0
    other = make_video(tmp_path / "gamma.mp4", [25])
    capsys.readouterr()
    assert embed(other, tiny_folder, output) == 1
    (line,) = errors(capsys)
    assert "'gamma'" in line and str(films / "gamma.mp4") in line and str(other) in line


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--detector", "content"], ["detector is 'adaptive' there, 'content' now", "threshold"]),
        (["--stride", "3"], ["stride is 9 there, 3 now"]),
    ],
)
def test_other_settings_are_refused_with_both_values(index, films, tiny_folder, capsys, flags, named):
    before = tree(index)
    assert embed(films, tiny_folder, index, *flags) == 1
    (line,) = errors(capsys)
    assert all(part in line for part in named)
    assert tree(index) == before


def test_keyframes_stride_and_detector_are_obeyed(films, tiny_folder, tmp_path):
    flags = ["--keyframes-per-shot", 2, "--shots-per-scene", 4, "--stride", 3, "--detector", "content"]
    assert embed(films / "beta.mkv", tiny_folder, tmp_path / "index", *flags, "--short-side", 48) == 0
    shots = load_dataset(str(tmp_path / "index/shots"), split="train")
    assert {len(row) for row in shots["keyframe_frames"]} == {2}
    assert shots[0]["keyframes"][1].size == (64, 48)
    scenes = load_dataset(str(tmp_path / "index/scene_embeddings"), split="train")
    assert list(zip(scenes["first_shot"], scenes["num_shots"], strict=True)) == scene_windows(10, 4, 3)


def bad_files(folder: Path) -> dict[Path, str]:
    """Files that are no films, each with a part of the reason that users are told."""
    folder.mkdir()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    make_audio(folder / "sound.mp4")
    make_video(folder / "nothing.mp4", [])
    truncate(make_video(folder / "cut.mp4", [300, 300], movflags="faststart"), 0.6)
    reasons = {
        "empty": "is empty",
        "text": "not a readable video",
        "sound": "no video stream",
        "nothing": "no frames|not a readable video|no video stream",
        "cut": "damaged",
    }
    return {folder / f"{name}.mp4": reason for name, reason in reasons.items()}


def test_each_bad_file_is_one_line_and_nothing_stays(tiny_folder, tmp_path, capsys):
    import re

    bad = bad_files(tmp_path / "bad")
    for path, reason in {tmp_path / "missing.mp4": "No such file", **bad}.items():
        output = tmp_path / f"index_{path.stem}"
        assert embed(path, tiny_folder, output) == 1
        (line,) = errors(capsys)
        assert str(path) in line and re.search(reason, line) and line.startswith("m2s: error: ")
        assert not list((output / "shots").rglob("*.parquet"))
        recorded = json.loads((output / "shots/m2s.json").read_text())["failed"]
        assert list(recorded) == ([path.stem] if path.exists() else [])


def test_films_whose_pictures_begin_late_are_found_at_zero(tiny_folder, tmp_path, capsys):
    times = [500 + 40 * n for n in range(60)]
    film = make_video(tmp_path / "film.mkv", [30, 30], times=times, audio=True)
    assert embed(film, tiny_folder, tmp_path / "index", "--shots-per-scene", 1) == 0
    assert "--at 00:00:00" in capsys.readouterr().out
    for place in ("00:00:00", "00:00:01"):
        assert main(["search", str(tmp_path / "index"), "--film", "film", "--at", place]) == 0
    assert main(["search", str(tmp_path / "index"), "--film", "film", "--at", "00:00:09"]) == 1


def test_films_with_a_hole_are_kept_and_the_hole_is_told(tiny_folder, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    damage(make_video(folder / "flipped.mp4", [300, 300]), 0.5, 3000)
    assert embed(folder, tiny_folder, tmp_path / "index") == 0
    (film,) = load_dataset(str(tmp_path / "index/films"), split="train")
    assert 550 < film["num_frames"] < 600 and film["damage"].startswith("damaged: 0.")


def test_good_films_among_bad_ones_are_done(films, tiny_folder, tmp_path, capsys):
    folder = tmp_path / "films"
    bad = bad_files(folder)
    for name in ("beta.mkv", "gamma.mp4"):
        shutil.copy(films / name, folder)
    os.rename(shutil.copy(films / "more/delta.avi", folder), os.fsencode(folder) + b"/d\xe9lta.avi")
    make_video(folder / "frame.mp4", [1])
    output = tmp_path / "index"
    assert embed(folder, tiny_folder, output, "--workers", 2) == 1
    captured = capsys.readouterr()
    assert sorted(line.split(": ")[2] for line in captured.err.strip().splitlines()) == sorted(map(str, bad))
    assert f"5 scenes of 4 films (4 embedded now, {len(bad)} failed" in captured.out
    record = json.loads((output / "shots/m2s.json").read_text())
    assert record["num_films"] == 4 and len(record["failed"]) == len(bad)
    assert load_dataset(str(output / "films"), split="train")["movie_id"] == ["beta", "d�lta", "frame", "gamma"]
    assert main(["info", str(output), "--check"]) == 0
    # Repaired files and a smaller `--min-readable` bring films in later.
    shutil.copy(films / "alpha.mp4", folder / "text.mp4")
    assert embed([folder / "text.mp4", folder / "cut.mp4"], tiny_folder, output, "--min-readable", 0.3) == 0
    record = json.loads((output / "shots/m2s.json").read_text())
    assert record["num_films"] == 6 and not {"text", "cut"} & record["failed"].keys()
    damage = {film["movie_id"]: film["damage"] for film in load_dataset(str(output / "films"), split="train")}
    assert "damaged" in damage.pop("cut") and not any(damage.values())


def test_unreadable_and_empty_folders(tiny_folder, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "films"
    folder.mkdir()
    assert embed(folder, tiny_folder, tmp_path / "index") == 1
    assert errors(capsys)[0].startswith(f"m2s: error: {folder}: no video files")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert embed(folder, tiny_folder, tmp_path / "index") == 1
    assert errors(capsys) == [f"m2s: error: {folder}: Permission denied"]
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "/nowhere/model"], "--model /nowhere/model cannot be loaded"),
        (["--stride", "10"], "stride=10 must be between 1 and shots_per_scene=9"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
        (["--detector", "magic"], "detector='magic' is unknown; choose one of adaptive"),
        (["--keyframes-per-shot", "99"], "keyframes_per_shot=99 is not in 1…31"),
    ],
)
def test_bad_requests_are_one_line(films, tiny_folder, tmp_path, capsys, arguments, message):
    command = ["embed", str(films), "--model", str(tiny_folder), "--output", str(tmp_path / "index"), *arguments]
    assert main(command) == 1
    (line,) = errors(capsys)
    assert message in line
    assert not (tmp_path / "index").exists()


def test_search_finds_what_a_loop_over_all_scenes_finds(index, capsys):
    scenes = load_dataset(str(index / "scene_embeddings"), split="train").to_list()
    vectors = np.array([scene["embedding"] for scene in scenes], np.float32)
    points = dict(
        zip([scene["scene_id"] for scene in scenes], SceneSpace.fit(vectors, "whitened").apply(vectors), strict=True)
    )
    query = points.pop("alpha:9-17")
    distances = {scene_id: np.linalg.norm(point - query) for scene_id, point in points.items()}
    capsys.readouterr()
    # Shots of 20 frames at 24 a second: shot 9 begins at 7.5 s.
    for flags, wanted in (
        ([], lambda name: True),
        (["--within"], lambda name: name.startswith("alpha")),
        (["--across"], lambda name: not name.startswith("alpha")),
    ):
        command = ["search", str(index), "--film", "alpha", "--at", "00:00:08", "--top", "3", "--keep-duplicates"]
        assert main([*command, *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("query   alpha  00:00:07.5-00:00:15.0  shots 9-17   (distances in the whitened")
        found = [line.split() for line in lines[1:-1:2]]
        expected = sorted((name for name in distances if wanted(name)), key=distances.get)[:3]
        assert [f"{row[1]}:{row[4]}" for row in found] == expected
        assert [float(row[-1]) for row in found] == [round(distances[name], 2) for name in expected]
    assert Image.open(index / "search.png").size[0] > 9 * 160
    (index / "search.png").unlink()


def test_overlapping_scenes_are_not_found_twice(films, tiny_folder, tmp_path, capsys):
    assert embed(films / "alpha.mp4", tiny_folder, tmp_path / "index", "--stride", 2) == 0
    capsys.readouterr()
    picture = tmp_path / "out" / "found.png"
    command = ["search", str(tmp_path / "index"), "--film", "alp", "--at", "1.5", "--top", "9"]
    assert main([*command, "--picture", str(picture)]) == 0
    rows = [line.split()[4] for line in capsys.readouterr().out.splitlines() if "shots" in line]
    spans = [range(int(row.split("-")[0]), int(row.split("-")[1]) + 1) for row in rows]
    assert len(spans) == 2 and not set(spans[0]) & set(spans[1])
    assert picture.exists()


def test_search_by_image(index, tmp_path, tiny_folder, capsys):
    shot = next(row for row in load_dataset(str(index / "shots"), split="train") if row["movie_id"] == "gamma")
    shot["keyframes"][0].save(tmp_path / "still.png")
    capsys.readouterr()
    command = ["search", str(index), "--image", str(tmp_path / "still.png"), "--picture", str(tmp_path / "found.png")]
    assert main([*command, "--top", "1"]) == 0
    # The film of a single shot is that very picture. Vectors of shots are stored in float16, so the distance is not 0.
    found = capsys.readouterr().out.splitlines()[1]
    assert "gamma  00:00:00.0-00:00:01.7  shots 0-0   distance 0.0" in found
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert main([*command, "--model", str(other)]) == 1
    assert "revision is" in errors(capsys)[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--film", "omega", "--at", "3"], "no films match 'omega'; there are: alpha, beta, gamma, more/delta"),
        (["--film", "a", "--at", "3"], "4 films match 'a'"),
        (["--film", "alpha", "--at", "1:00:00"], "alpha has no scene at 01:00:00.0; it ends at 00:00:17"),
        (["--film", "alpha", "--at", "soon"], "'soon' is not a time"),
        (["--film", "alpha"], "--film and --at go together"),
        (["--film", "alpha", "--at", "3", "--top", "0"], "--top 0 must be at least 1"),
        (["--image", "missing.png"], "missing.png"),
        (["--image", __file__], "not an image"),
    ],
)
def test_bad_searches_are_one_line(index, capsys, arguments, message):
    assert main(["search", str(index), *arguments]) == 1
    (line,) = errors(capsys)
    assert message in line


def test_info_tells_and_checks(index, tmp_path, capsys):
    assert main(["info", str(index), "--check"]) == 0
    out = capsys.readouterr().out
    assert "shots: 35 rows of 4 films" in out and "checked: all there" in out and "more/delta" in out
    broken = shutil.copytree(index, tmp_path / "broken")
    truncate(broken / "scene_embeddings/data/train-00000.parquet", 0.7)
    assert main(["info", str(broken), "--check"]) == 1
    assert any("scene_embeddings" in line and "holds no films" in line for line in errors(capsys))
    for command in (["info"], ["search", "--film", "a", "--at", "1"]):
        assert main([command[0], str(tmp_path / "nowhere"), *command[1:]]) == 1
        assert "index here" in errors(capsys)[0]


def test_debug_shows_the_traceback(tmp_path):
    from modeling_m2s.storage_m2s import StorageError

    with pytest.raises(StorageError):
        main(["info", str(tmp_path), "--debug"])


def start(films, model, output, *more, **options) -> subprocess.Popen:
    command = [*M2S, "embed", *map(str, films), "--model", str(model), "--output", str(output), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def wait_for(condition, process: subprocess.Popen):
    """Poll until the condition is something; the process must not end before."""
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return found


def test_no_space_is_one_line_and_the_next_run_completes(index, films, tiny_folder, tmp_path):
    limit = len((index / "shots/data/train-00000.parquet").read_bytes()) // 2
    process = start(
        [films],
        tiny_folder,
        tmp_path / "index",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = err.strip().splitlines()
    assert line.startswith("m2s: error: ") and "cannot be written (File too large)" in line
    assert not list(tmp_path.rglob("*.tmp"))
    assert embed(films, tiny_folder, tmp_path / "index") == 0
    assert tree(tmp_path / "index") == tree(index)


def test_ctrl_c_is_one_line_and_the_next_run_completes(index, films, tiny_folder, tmp_path):
    output = tmp_path / "index"
    process = start([films], tiny_folder, output)
    wait_for(lambda: (output / "shots/m2s.json").exists(), process)  # before its films, which it may soon have done
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.strip() == "m2s: interrupted; run the same command again to continue"
    assert embed(films, tiny_folder, output) == 0
    assert tree(output) == tree(index)


@pytest.mark.parametrize("seconds", [0.6, 1.0, 1.5])
def test_ctrl_c_while_the_command_loads_is_quiet(seconds, tmp_path):
    command = [Path(sys.executable).with_name("m2s"), "info", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err


def test_two_runs_do_not_share_an_output(films, tiny_folder, tmp_path, capsys):
    long = make_video(tmp_path / "long.mp4", [40] * 60, size=(480, 360))
    process = start([long], tiny_folder, tmp_path / "index")
    wait_for(lambda: (tmp_path / "index/shots/m2s.json").exists(), process)
    assert embed(films, tiny_folder, tmp_path / "index") == 1
    assert "another run is writing here" in errors(capsys)[0]
    process.communicate()
    assert process.returncode == 0


def test_a_crash_in_the_decoder_costs_one_film(films, tiny_folder, tmp_path):
    long = make_video(tmp_path / "long.mp4", [40] * 60, size=(480, 360))
    process = start([films, long], tiny_folder, tmp_path / "index")

    def worker_on_long():
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if any(file.path == str(long) for file in child.open_files()):
                    return child
            except psutil.Error:
                pass
        return None

    wait_for(worker_on_long, process).send_signal(signal.SIGSEGV)
    out, err = process.communicate()
    assert process.returncode == 1
    assert err.strip() == f"m2s: error: {long}: the worker process was killed by SIGSEGV"
    assert "of 4 films (4 embedded now, 1 failed" in out


@pytest.mark.slow
def test_killed_at_any_moment_and_finished_gives_the_same_bytes(index, films, tiny_folder, tmp_path):
    def begun(output: Path, process: subprocess.Popen) -> float:
        wait_for(lambda: (output / "scene_embeddings/m2s.json").exists(), process)
        return time.monotonic()

    process = start([films], tiny_folder, tmp_path / "timed")
    since = begun(tmp_path / "timed", process)
    process.communicate()
    active = time.monotonic() - since
    moments, unfinished = random.Random(0), 0
    for kill in range(10):
        output = tmp_path / f"killed_{kill}"
        process = start([films], tiny_folder, output)
        begun(output, process)
        time.sleep(active * (kill + moments.random()) / 10)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        unfinished += main(["info", str(output), "--check"])
        assert embed(films, tiny_folder, output) == 0
        assert tree(output) == tree(index), kill
    assert unfinished >= 3  # the end of the process, when all is written, is a part of its time


def test_films_are_known_by_their_files(films, tiny_folder, tmp_path, capsys, monkeypatch):
    """One film stays one film, however its path is written and whatever else is asked for."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    shutil.copy(films / "beta.mkv", tmp_path / "one/a.mkv")
    shutil.copy(films / "gamma.mp4", tmp_path / "two/a.mp4")
    output = tmp_path / "index"
    monkeypatch.chdir(tmp_path)
    assert embed(["one"], tiny_folder, output) == 0
    monkeypatch.chdir(tmp_path / "one")
    assert embed(["../one/a.mkv", "../two"], tiny_folder, output) == 0
    assert "2 films (1 embedded now" in capsys.readouterr().out
    stored = load_dataset(str(output / "films"), split="train")
    assert sorted(stored["video"]) == [str(tmp_path / "one/a.mkv"), str(tmp_path / "two/a.mp4")]


def test_films_that_are_away_stay_in_the_index(films, tiny_folder, tmp_path, capsys):
    path = shutil.copy(films / "gamma.mp4", tmp_path)
    assert embed(path, tiny_folder, tmp_path / "index") == 0
    before = tree(tmp_path / "index")
    os.rename(path, f"{path}.away")
    assert embed(path, tiny_folder, tmp_path / "index") == 1
    assert "1 scenes of 1 film (0 embedded now, 1 failed" in capsys.readouterr().out
    assert tree(tmp_path / "index") == before


def test_copies_of_films_in_an_index_are_no_films(films, tiny_folder, tmp_path):
    folder, index = tmp_path / "some films", tmp_path / "some films/index"
    folder.mkdir()
    shutil.copy(films / "gamma.mp4", folder)
    assert embed(folder, tiny_folder, index) == 0
    assert main(["export", str(index), "--format", "chapters", "--embed"]) == 0
    assert len(list(index.rglob("*.mp4"))) == 1
    shutil.copytree(films, folder / "more/exports")  # a folder of this name elsewhere has films
    assert list(find_films([folder])) == ["gamma", *(f"more/exports/{name}" for name in find_films([films]))]


def test_every_file_becomes_a_film(films, tmp_path):
    names = [b"a.mp4", b"a.avi", b"a.mp4.mkv", b"d\xe9.mp4", b"d\xe8.mp4", b"http:x.mp4", b"one\nline.mp4"]
    for name in names:
        shutil.copy(films / "gamma.mp4", os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    found = find_films([tmp_path])
    assert len(found) == len(names)
    assert all(read_frames(path, [0])[0].shape[1] == 128 for path in found.values())
