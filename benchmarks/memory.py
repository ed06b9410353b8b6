"""Peak memory of `m2s embed` on a film and on a film five times as long.

    python -m benchmarks.memory --assets ASSETS --model CLIP_FOLDER        about 7 minutes on two cores

The long film is Big Buck Bunny five times over, its packets joined without recoding. Peak memory is the largest
resident set, sampled every 50 ms, separately for the process that runs the model and for the processes that decode.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.harness import ROOT, write_result
from m2s.commands import run_command
from tests.make_videos import concatenate


def peak_memory(films: Path, model: str, output: Path, checkout: Path = ROOT, *flags: str) -> dict[str, float]:
    """Largest resident sets in MiB of a checkout's `m2s embed` on a film or a folder, and its wall and CPU seconds."""
    command = [sys.executable, "-m", "m2s", "embed", films, "--model", model, "--output", output, *flags]
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, cwd=checkout, env=environment)
    parent = psutil.Process(process.pid)
    peaks = {"model_process": 0.0, "decoding_process": 0.0}
    busy: dict[int, float] = {}
    while process.poll() is None:
        try:
            rows = [("model_process", parent), *(("decoding_process", p) for p in parent.children(recursive=True))]
            for role, member in rows:
                peaks[role] = max(peaks[role], member.memory_info().rss / 2**20)
                busy[member.pid] = sum(member.cpu_times()[:2])
        except psutil.Error:
            pass
        time.sleep(0.05)
    assert process.returncode == 0
    seconds = {"seconds": time.monotonic() - started, "cpu_seconds": sum(busy.values())}
    return {name: round(value, 1) for name, value in {**peaks, **seconds}.items()}


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    assets: Path = field(metadata={"help": "folder of the assets, with videos/ in it"})
    model: str = field(metadata={"help": "folder of CLIP ViT-B/16"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.memory", Options, run, argv)


def run(options: Options) -> None:
    film = options.assets / "videos/big_buck_bunny_full_448x252.mp4"
    with tempfile.TemporaryDirectory() as folder:
        long = concatenate(film, 5, Path(folder) / "long.mp4")
        rows = {
            "film": peak_memory(film, options.model, Path(folder) / "short"),
            "film five times over": peak_memory(long, options.model, Path(folder) / "long"),
        }
    growth = {
        role: round(rows["film five times over"][role] / rows["film"][role] - 1, 4)
        for role in ("model_process", "decoding_process")
    }
    write_result("memory", "float32", {"peak_mib": rows, "growth": growth})


if __name__ == "__main__":
    main()
