"""The main job on a real film: Big Buck Bunny, whole, with CLIP's weights."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import load_dataset
from make_videos import concatenate

from m2s.main import main
from modeling_m2s.pipeline_m2s import scene_windows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def film(videos) -> Path:
    return next(path for path in videos if "full" in path.name)


@pytest.fixture(scope="module")
def index(film, clip_folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("real") / "index"
    assert main(["embed", str(film), "--model", str(clip_folder), "--output", str(output)]) == 0
    return output


def test_the_whole_film_is_embedded(index):
    shots = load_dataset(str(index / "shots"), split="train")
    assert len(shots) == 129 and shots[-1]["end_frame"] == 14315
    assert shots["start_frame"][1:] == shots["end_frame"][:-1]
    scenes = load_dataset(str(index / "scene_embeddings"), split="train")
    assert list(zip(scenes["first_shot"], scenes["num_shots"], strict=True)) == scene_windows(129)
    assert np.shape(scenes["embedding"]) == (15, 768)
    assert main(["info", str(index), "--check"]) == 0


@pytest.mark.parametrize(
    "time, begin, end",
    [
        ("00:03:10", 71, 243),  # the meadow: its neighbors are other scenes of the meadow, before the forest
        ("00:07:20", 379, 429),  # the squirrel before the sky: on the branch and gliding, just before
    ],
)
def test_search_finds_scenes_of_the_same_place(index, capsys, time, begin, end):
    capsys.readouterr()
    assert main(["search", str(index), "--film", "bunny", "--at", time, "--top", "2", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) == 2
    for hit in hits:
        assert begin - 1 <= hit["start_seconds"] < hit["end_seconds"] <= end + 1, hit


def peak_memory(command: list[str]) -> dict[bool, int]:
    """Largest resident sets while a command runs: of its process (True) and of those below it (False)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    parent, peaks = psutil.Process(process.pid), {True: 0, False: 0}
    while process.poll() is None:
        try:
            for member in (parent, *parent.children(recursive=True)):
                peaks[member == parent] = max(peaks[member == parent], member.memory_info().rss)
        except psutil.Error:
            pass
        time.sleep(0.02)
    assert process.returncode == 0
    return peaks


def test_memory_does_not_grow_with_the_film(film, clip_folder, tmp_path):
    peaks = {}
    for times in (1, 5):
        path = concatenate(film, times, tmp_path / f"film_{times}.mp4")
        command = [sys.executable, "-m", "m2s", "embed", path, "--model", clip_folder]
        peaks[times] = peak_memory([*map(str, command), "--output", str(tmp_path / f"index_{times}")])
    assert peaks[5][True] < 1.15 * peaks[1][True]
    assert peaks[5][False] < 1.15 * peaks[1][False]
