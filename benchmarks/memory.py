"""Peak memory of `m2s embed` on a film and on a film five times as long.

    python -m benchmarks.memory --assets ASSETS --model CLIP_FOLDER        about 7 minutes on two cores

The long film is Big Buck Bunny five times over, its packets joined without recoding. Peak memory is the largest
resident set, sampled every 50 ms, separately for the process that runs the model and for the processes that decode.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.harness import write_result
from m2s.commands import run_command

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from make_videos import concatenate


def peak_memory(film: Path, model: str, output: Path) -> dict[str, float]:
    """Largest resident sets in MiB while `m2s embed` runs on a film."""
    command = [sys.executable, "-m", "m2s", "embed", film, "--model", model, "--output", output]
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    peaks = {"model_process": 0.0, "decoding_process": 0.0}
    while process.poll() is None:
        try:
            rows = [("model_process", parent), *(("decoding_process", p) for p in parent.children(recursive=True))]
            for role, member in rows:
                peaks[role] = max(peaks[role], member.memory_info().rss / 2**20)
        except psutil.Error:
            pass
        time.sleep(0.05)
    assert process.returncode == 0
    return {**{role: round(peak, 1) for role, peak in peaks.items()}, "seconds": round(time.monotonic() - started, 1)}


@dataclass
class Options:
    """What is measured, and how often."""

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
