"""A stage that is killed at random moments, and finished, ends with the bytes of a run that nobody disturbed.

Also a disk that is full, and the locks of jobs.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from make_videos import make_video
from test_detect_shots import outputs, run, write_catalog
from test_storage_crashes import hold, start

from data_scripts.make_film_world import main as make_film_world
from modeling_m2s.storage_m2s import StorageError, exclusive

ROOT = Path(__file__).parents[1]


def command(folder: Path) -> list[str]:
    paths = ["--movies", f"{folder}/movies", "--output", f"{folder}/shots"]
    return [sys.executable, "-m", "data_scripts.detect_shots", *paths, "--short_side", "48", "--workers", "2"]


def wait_until_it_writes(process: subprocess.Popen, folder: Path) -> None:
    """From here on the run does films; before, it loads libraries for seconds."""
    deadline = time.monotonic() + 300
    before = sorted((folder / "shots").rglob("*"))
    while process.poll() is None and sorted((folder / "shots").rglob("*")) == before and time.monotonic() < deadline:
        time.sleep(0.02)


def kill_often(folder: Path, kills: int, longest: float, seed: int) -> None:
    """Start the command and kill it, alone or with its process group, at a random moment of `longest` seconds.

    A run that ends before is started anew on empty folders, until so many were killed.
    """
    generator, killed = random.Random(seed), 0
    while killed < kills:
        process = subprocess.Popen(
            command(folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until_it_writes(process, folder)
        time.sleep(generator.uniform(0, longest))
        if process.poll() is not None:
            for name in ("shots", "films"):
                shutil.rmtree(folder / name)
        elif killed % 2:
            process.kill()  # its workers end by themselves
        else:
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL


def test_three_kills_cost_nothing(tmp_path):
    videos = {f"tt000000{n}": make_video(tmp_path / f"{n}.mp4", [20, 25] * (1 + n), seed=n) for n in range(6)}
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    whole, killed = (write_catalog(tmp_path / name, {**videos, "tt0000009": tmp_path / "broken.mp4"}) for name in "ab")
    run(whole, status=1)
    kill_often(killed, 3, 3.0, seed=0)
    run(killed, status=1)
    assert outputs(killed) == outputs(whole)
    assert not list(killed.rglob(".m2s-*")) and not (killed / "shots/parts").exists()


@pytest.mark.slow
def test_twenty_kills_of_a_run_over_thirty_films_cost_nothing(tmp_path):
    size = ["--num_films", "30", "--film_seconds", "8", "--width", "128", "--height", "72", "--workers", "2"]
    make_film_world([*size, "--output", str(tmp_path / "world")])
    videos = {path.stem: path for path in (tmp_path / "world/videos").iterdir()}
    whole, killed = (write_catalog(tmp_path / name, videos) for name in "ab")
    started = time.monotonic()
    run(whole)
    kill_often(killed, 20, (time.monotonic() - started) / 4, seed=1)
    run(killed)
    assert outputs(killed) == outputs(whole)
    assert not list(killed.rglob(".m2s-*")) and not (killed / "shots/parts").exists()


@pytest.mark.parametrize(("num_bytes", "where"), [(5000, "parts/tt000000"), (50000, "data/train-00000")])
def test_a_full_disk_ends_the_run_in_one_line_and_costs_nothing(num_bytes, where, tmp_path):
    """Files of the run and of its workers cannot grow beyond a size."""
    videos = {f"tt000000{n}": make_video(tmp_path / f"{n}.mp4", [20, 25] * 5, seed=n) for n in range(3)}
    whole, full = (write_catalog(tmp_path / name, videos) for name in "ab")
    run(whole)
    within = ["prlimit", f"--fsize={num_bytes}", *command(full)]
    ended = subprocess.run(within, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("data_scripts.detect_shots: error:")]
    assert f"{full}/shots/{where}" in message and message.endswith("cannot be written (File too large)")
    assert not list(full.rglob(".m2s-*"))
    run(full)
    assert outputs(full) == outputs(whole)


def hold_job(folder: Path, connection) -> None:
    with exclusive(folder, (0, 2)):
        hold(folder / "other", connection)


def test_a_killed_job_lets_go_and_its_lock_file_goes(tmp_path):
    process, connection = start(hold_job, tmp_path)
    assert connection.recv() == "held"
    lock = tmp_path / ".m2s-job-0-of-2.tmp"
    with pytest.raises(StorageError, match="doing job 0/2"):
        exclusive(tmp_path, (0, 2)).__enter__()
    with pytest.raises(StorageError, match="another run is writing here"):
        exclusive(tmp_path).__enter__()
    with exclusive(tmp_path, (1, 2)):
        assert lock.exists()
    process.kill()
    process.join()
    with exclusive(tmp_path, (0, 2)):
        assert lock.exists()
    assert not lock.exists()
    lock.touch()
    with exclusive(tmp_path):
        assert not lock.exists()
        with pytest.raises(StorageError, match="doing job 1/2 of the work or all of it"):
            exclusive(tmp_path, (1, 2)).__enter__()


@pytest.mark.slow
def test_kills_of_every_stage_cost_nothing():
    """As many as `M2S_KILLS` says; `tests/kill_stages.py` alone makes as many as it is asked for."""
    command = [sys.executable, "-m", "tests.kill_stages", "--kills", os.environ.get("M2S_KILLS", "27")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
