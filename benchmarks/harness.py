"""Shared by all benchmarks: alternating runs, medians, and a result file that names hardware and versions."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeling_m2s.storage_m2s import FilmDataset

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("torch", "transformers", "scenedetect-headless", "opencv-python-headless", "decord", "av", "numpy"),
    *("onnxruntime", "openvino"),
)


def alternate(candidates: dict[str, Callable[[], Any]], runs: int = 5) -> dict[str, dict[str, float]]:
    """Call the candidates in turn, `runs` times after a warm-up.

    Returns:
        For each candidate, its median, shortest and longest wall seconds, and its median processor seconds.
    """
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(runs + 1):
        for name, call in candidates.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            call()
            if run:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - started_cpu)
    return {
        name: {
            "wall_seconds": round(statistics.median(wall[name]), 3),
            "wall_min": round(min(wall[name]), 3),
            "wall_max": round(max(wall[name]), 3),
            "cpu_seconds": round(statistics.median(cpu[name]), 3),
        }
        for name in candidates
    }


@contextmanager
def earlier_checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The files of an earlier commit, in `folder` for the time of the context."""
    subprocess.run(["git", "worktree", "add", "--detach", folder, commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def write_shots(folder: Path, films: Mapping[str, Sequence[bytes]]) -> "FilmDataset":
    """A `shots` dataset of films by id; every shot is one frame long and has a JPEG keyframe."""
    from modeling_m2s import shot_store_m2s
    from modeling_m2s.shots_m2s import Shot
    from modeling_m2s.storage_m2s import FilmDataset

    dataset = FilmDataset(folder, "shots")
    dataset.begin({})
    for movie_id, keyframes in films.items():
        shots = [Shot(n, n, n + 1, float(n), n + 1.0, [n], [jpeg]) for n, jpeg in enumerate(keyframes)]
        shot_store_m2s.write_shots(dataset, movie_id, shots, {})
    dataset.finish(films, {})
    return dataset


def hardware() -> str:
    """Number of cores and name of the processor."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} × {model}"


def write_result(name: str, dtype: str, content: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write `FOLDER/NAME-CORES-DTYPE-torchVERSION.json` and print it; missing packages are left out of `versions`."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "modeling_m2s"], capture_output=True, text=True).stdout
    facts = {
        "hardware": hardware(),
        "dtype": dtype,
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
        "commit": commit + ("+changes" if dirty.strip() else ""),
    }
    path = folder / f"{name}-{os.cpu_count()}cpu-{dtype}-torch{version('torch')}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({**facts, **content}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n")
    print(text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
