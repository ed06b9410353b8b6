"""The same function gives the same outcomes in processes of this machine and on a Ray cluster that loses a node."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from make_videos import make_video
from test_detect_shots import outputs, write_catalog

from data_scripts.stages.runner import run_films
from data_scripts.stages.runner_arguments import RunnerArguments
from m2s.commands import run_command
from modeling_m2s.shot_store_m2s import ShotStore
from modeling_m2s.storage_m2s import FilmDataset

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", [1, 2, 3, 7, 11])
def test_jobs_share_the_films(number, tmp_path):
    films = {f"tt{n}": tmp_path for n in (3, 1, 4, 15, 9, 2, 6)}
    store, jobs = ShotStore(tmp_path / "shots", {}), []
    for index in range(number):
        store.plan(films, job=RunnerArguments(job=f"{index}/{number}").job_of)
        jobs.append(list(store.missing))
    assert [name for turn in itertools.zip_longest(*jobs) for name in turn if name] == sorted(films)


@pytest.mark.parametrize("job", ["", "1", "1/", "/2", "2/2", "0/0", "-1/2", "1/2/3", "a/b", "1.0/2", "²/3"])
def test_what_is_no_job_is_refused(job):
    with pytest.raises(ValueError, match="is not i/N with i from 0 to N-1"):
        RunnerArguments(job=job)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "-1"], "workers=-1 must be at least 1, or 0"),
        (["--job", "3/3"], "job='3/3' is not i/N"),
    ],
)
def test_bad_flags_end_in_one_line(flags, words):
    with pytest.raises(SystemExit, match=f"^package.stage: error: {words}"):
        run_command("python -m package.stage", RunnerArguments, print, flags)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"--runner ray needs Ray: pip install 'movies2scenes\[ray\]'"):
        list(run_films(print, [], RunnerArguments(runner="ray")))


def behave(how: str, report) -> str:
    report(0.5)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "raise":
        raise ValueError("two\n   lines")
    return how * 2


BEHAVIORS = ["fine", "crash", "raise", "well", "raise", "good"]


def outcomes(arguments: RunnerArguments) -> list[tuple]:
    inputs = [(str(n), (how,)) for n, how in enumerate(BEHAVIORS)]
    found = list(run_films(behave, inputs, arguments, preload=("modeling_m2s.shot_store_m2s",)))
    return sorted((outcome.key, outcome.value, outcome.error, outcome.error_type) for outcome in found)


EXPECTED = [
    ("0", "finefine", None, None),
    ("1", None, "the worker process was killed by SIGSEGV", None),
    ("2", None, "two lines", "ValueError"),
    ("3", "wellwell", None, None),
    ("4", None, "two lines", "ValueError"),
    ("5", "goodgood", None, None),
]


@pytest.mark.parametrize("workers", [0, 1, 9])
def test_local_outcomes(workers):
    assert outcomes(RunnerArguments(workers=workers)) == EXPECTED


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each on this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Workers import this file, too: what they run is defined here.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    node = cluster.add_node(**size)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, node
    cluster.shutdown()


@pytest.mark.slow
def test_ray_outcomes_are_those_of_the_local_runner(cluster):
    assert outcomes(RunnerArguments(runner="ray")) == EXPECTED
    assert outcomes(RunnerArguments(runner="ray", workers=1)) == EXPECTED


def wait_to_go(folder: str, name: str, report) -> str:
    """Leave a file each time it is started, end when there is one named "go"."""
    (Path(folder) / f"{name}-{os.getpid()}").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)
    return name


@pytest.mark.slow
def test_a_node_that_is_lost_with_a_film_in_work_costs_time_only(cluster, tmp_path):
    def lose_a_node() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        cluster[0].remove_node(cluster[1], allow_graceful=False)
        time.sleep(10)  # until its worker has ended, too
        (tmp_path / "go").touch()

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    inputs = [(name, (str(tmp_path), name)) for name in "abc"]
    found = run_films(wait_to_go, inputs, RunnerArguments(runner="ray"), preload=("modeling_m2s.shot_store_m2s",))
    assert sorted((outcome.key, outcome.value, outcome.error) for outcome in found) == [(n, n, None) for n in "abc"]
    thread.join()
    assert len(list(tmp_path.iterdir())) == 5  # one of three films was started twice


@pytest.mark.slow
def test_ray_is_started_here_where_no_cluster_is(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert outcomes(RunnerArguments(runner="ray", workers=2)) == EXPECTED


def command(folder: Path, *flags: str) -> list[str]:
    paths = ["--movies", f"{folder}/movies", "--output", f"{folder}/shots"]
    return [sys.executable, "-m", "data_scripts.detect_shots", *paths, *flags]


def wait_for_a_film(process: subprocess.Popen, folder: Path) -> None:
    """Return when the first film is stored and the run goes on."""
    deadline = time.monotonic() + 300
    while not list(folder.glob("shots/parts/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("lose_a_node", [False, True])
def test_bytes_from_a_cluster_are_those_from_here(lose_a_node, cluster, tmp_path, monkeypatch):
    """Long films, so that the lost node has one in work; one film fails, with the same words."""
    videos = {
        f"tt000000{n}": make_video(tmp_path / f"{n}.mp4", [30 + n] * 40, size=(640, 360), seed=n, grain=8)
        for n in range(6)
    }
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    here, there = (write_catalog(tmp_path / name, {**videos, "tt0000009": tmp_path / "broken.mp4"}) for name in "ab")
    # From the checkout alone: no help to find the code.
    monkeypatch.delenv("PYTHONPATH")
    assert subprocess.run(command(here, "--workers", "2"), cwd=ROOT, capture_output=True).returncode == 1
    process = subprocess.Popen(
        command(there, "--runner", "ray"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if lose_a_node:
        wait_for_a_film(process, there)
        cluster[0].remove_node(cluster[1], allow_graceful=False)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "(6 done now, 1 failed" in said, said
    assert outputs(there) == outputs(here)
    assert FilmDataset(there / "shots", "shots").check() == []
    assert not list(there.rglob(".m2s-*"))


@pytest.mark.slow
def test_ctrl_c_ends_ray_tasks(cluster, tmp_path):
    video = make_video(tmp_path / "film.mp4", [50] * 20, size=(640, 360), grain=8)
    folder = write_catalog(tmp_path, {f"tt000000{n}": video for n in range(9)})
    process = subprocess.Popen(
        command(folder, "--runner", "ray"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_a_film(process, folder)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    done = sorted(folder.glob("shots/parts/*.parquet"))
    time.sleep(10)  # in which tasks that went on would end
    assert sorted(folder.glob("shots/parts/*.parquet")) == done and len(done) < 9
