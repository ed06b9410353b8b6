"""Scenes a second and peak memory of `m2s embed`: this checkout against an earlier commit, in turn, as commands.

    python -m benchmarks.embed --assets ASSETS --before COMMIT        about 10 minutes on two cores

Both read the same films with m2s-clip-tiny, each run into a new index: all videos of the assets, several times under
other names. This checkout reads scenes jointly, as the commits before `--scene-vector` did. The scenes of both must be
the same; the largest difference of their embeddings is recorded.
Memory is compared on Big Buck Bunny five times over, its packets joined without recoding.

Prediction. Big Buck Bunny has 14,315 frames and 15 scenes of 129 shots. Processor seconds before, on a busy machine:
7.5 for decoding (4.0) and finding shots (3.5), 1.1 for the model on one thread, 0.25 for its pixels, 0.3 for the
contact sheet, 0.04 for JPEG, together 9.2. Two cores that are never idle need 4.6 s for that. Taking turns they need
about 6.1: 5.1 for the shots (`shots.py`, OpenCV), which keep one core and a half busy, 0.5 for the model on two
threads, and 0.5 for the rest, on one core. Overlap can therefore give 1.3 times the scenes a second. Films decoded
one at a time give at most 1.2 times, so as many are decoded as there are cores. The model's threads must sleep while
they wait for each other: they spin by default, and 15 scenes beside other work took 7 to 9 processor seconds instead
of 1.2.
"""

import os
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, ROOT, earlier_checkout, write_result
from benchmarks.memory import peak_memory
from m2s.commands import run_command
from m2s.shared import TINY_MODEL
from tests.make_videos import concatenate

FLAGS = {"before": (), "after": ("--scene-vector", "joint")}


@dataclass
class Options:
    """Inputs of the comparison, and its repetitions."""

    assets: Path = field(metadata={"help": "folder of the assets, with videos/ in it"})
    before: str = field(metadata={"help": "the commit to compare with"})
    copies: int = field(default=4, metadata={"help": "how often each film is embedded, under other names"})
    runs: int = field(default=3, metadata={"help": "number of timed runs of each side"})
    output: Path = field(default=RESULTS, metadata={"help": "folder of the result"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.embed", Options, run, argv)


def run(options: Options) -> None:
    load, videos = os.getloadavg()[0], sorted((options.assets / "videos").absolute().iterdir())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with earlier_checkout(options.before, folder / "before"):
            content = compare(folder, videos, options.copies, options.runs)
    facts = {"before": options.before, "load_average_at_start": round(load, 2)}
    write_result("embed", "float32", {**facts, **content}, options.output)


def compare(folder: Path, videos: list[Path], copies: int, runs: int) -> dict[str, Any]:
    """Scenes a second of `ROOT` and of the checkout in `folder`, and their memory on a long film."""
    checkouts = {"before": folder / "before", "after": ROOT}
    for copy in range(copies):
        (folder / f"films/{copy}").mkdir(parents=True)
        for video in videos:
            (folder / f"films/{copy}" / video.name).symlink_to(video)
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
    scenes: dict[str, dict[str, np.ndarray]] = {}
    for run in range(runs):
        for side, checkout in checkouts.items():
            output = folder / f"{side}_{run}"
            rows[side].append(peak_memory(folder / "films", TINY_MODEL, output, checkout, *FLAGS[side]))
            scenes[side] = embeddings(output)
            print(f"{side}: {rows[side][-1]}, load {os.getloadavg()[0]:.1f}", flush=True)
    assert scenes["before"].keys() == scenes["after"].keys()
    differences = [np.abs(scenes["after"][name] - vector).max() for name, vector in scenes["before"].items()]
    seconds = {side: statistics.median(row["seconds"] for row in rows[side]) for side in checkouts}
    film = next(video for video in videos if video.name.startswith("big_buck_bunny_full"))
    long = concatenate(film, 5, folder / "long.mp4")
    memory = {
        side: peak_memory(long, TINY_MODEL, folder / f"{side}_long", checkout, *FLAGS[side])
        for side, checkout in checkouts.items()
    }
    return {
        "scenes": len(scenes["after"]),
        "scenes_per_second": {side: round(len(scenes[side]) / seconds[side], 3) for side in checkouts},
        "times_faster": round(seconds["before"] / seconds["after"], 3),
        "largest_difference_of_embeddings": float(max(differences)),
        "runs": rows,
        "film_five_times_over": memory,
    }


def embeddings(index: Path) -> dict[str, np.ndarray]:
    from modeling_m2s.storage_m2s import FilmDataset

    rows = FilmDataset(index / "scene_embeddings", "scene_embeddings").read(["scene_id", "embedding"]).to_pylist()
    return {row["scene_id"]: np.array(row["embedding"], np.float32) for row in rows}


if __name__ == "__main__":
    main()
