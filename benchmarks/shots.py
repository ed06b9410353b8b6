"""Shots and keyframes from one decoding pass, against PySceneDetect followed by reading the keyframes with decord.

    python -m benchmarks.shots --assets ASSETS                     about 5 minutes on two cores
    python -m benchmarks.shots --assets ASSETS --before COMMIT     against an earlier commit instead, about 5 minutes

All sides find the same shots (asserted) and end with the same keyframes as JPEG bytes. The films are Big Buck Bunny
(448×252) and generated, grainy films of 1920×1080 and 3840×2160 pixels. The generated films have an intra frame every
300 frames, so that seeking decodes many frames in vain. The earlier commit and this checkout each have a process of
their own, which answer in turn. `memory.py` shows that memory does not grow with the length of a film.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import ROOT, alternate, earlier_checkout, write_result
from m2s.commands import run_command
from tests.make_videos import make_video

# Reads names of films and answers with their shots and what these cost, in the checkout where it is started.
SERVER = """
import json, sys, time
from modeling_m2s.shots_m2s import detect_shots
for line in sys.stdin:
    started, started_cpu = time.perf_counter(), time.process_time()
    shots = [(shot.start_frame, shot.end_frame) for shot in detect_shots(line.rstrip()).shots]
    wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    print(json.dumps({"shots": shots, "wall_seconds": wall, "cpu_seconds": cpu}), flush=True)
"""


def one_pass(path: Path) -> list[tuple[int, int]]:
    from modeling_m2s.shots_m2s import detect_shots

    return [(shot.start_frame, shot.end_frame) for shot in detect_shots(path).shots]


def two_steps(path: Path) -> list[tuple[int, int]]:
    import cv2
    import scenedetect

    from modeling_m2s.decoding_m2s import read_frames

    scenes = scenedetect.detect(str(path), scenedetect.AdaptiveDetector(), start_in_scene=True, backend="pyav")
    shots = [(start.frame_num, end.frame_num) for start, end in scenes]
    for image in read_frames(path, [(start + end - 1) // 2 for start, end in shots], 224, "decord"):
        cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return shots


def detection_only(path: Path) -> None:
    import scenedetect

    scenedetect.detect(str(path), scenedetect.AdaptiveDetector(), backend="pyav")


def bare_decoding(path: Path) -> None:
    from modeling_m2s.decoding_m2s import VideoFrames

    with VideoFrames(path) as frames:
        for _ in frames:
            pass


@contextmanager
def server(checkout: Path) -> Iterator[subprocess.Popen]:
    command, environment = [sys.executable, "-c", SERVER], {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout, env=environment
    )
    with process:
        yield process
        process.stdin.close()


def ask(process: subprocess.Popen, film: Path) -> dict[str, Any]:
    process.stdin.write(f"{film}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def compare(checkouts: dict[str, Path], film: Path, runs: int) -> dict[str, Any]:
    """Medians of each checkout, which find the shots of a film in turn, `runs` times after a warm-up.

    Raises:
        AssertionError: they find different shots.
    """
    with ExitStack() as stack:
        servers = {side: stack.enter_context(server(checkout)) for side, checkout in checkouts.items()}
        rounds = [{side: ask(process, film) for side, process in servers.items()} for _ in range(runs + 1)]
    assert all(answers["before"]["shots"] == answers["after"]["shots"] for answers in rounds)
    figures = ("wall_seconds", "cpu_seconds")
    sides = {
        side: {figure: round(median(answers[side][figure] for answers in rounds[1:]), 3) for figure in figures}
        for side in checkouts
    }
    return {
        **sides,
        "times_the_time_before": round(sides["after"]["wall_seconds"] / sides["before"]["wall_seconds"], 3),
    }


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    assets: Path = field(metadata={"help": "folder of the assets, with videos/ in it"})
    before: str | None = field(default=None, metadata={"help": "an earlier commit to compare with"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.shots", Options, run, argv)


def run(options: Options) -> None:
    bunny = options.assets.absolute() / "videos/big_buck_bunny_full_448x252.mp4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = {
            "big_buck_bunny": bunny,
            "1920x1080": make_video(folder / "hd.mp4", [60] * 10, size=(1920, 1080), keyframe_interval=300, grain=40),
        }
        if options.before:
            large = make_video(folder / "4k.mp4", [40] * 4, size=(3840, 2160), keyframe_interval=300, grain=40)
            films["3840x2160"] = large
            with earlier_checkout(options.before, folder / "before") as before:
                sides = {"before": before, "after": ROOT}
                content = {film: compare(sides, path, options.runs) for film, path in films.items()}
            write_result("shots_against_before", "uint8", {"before": options.before, **content})
        else:
            write_result("shots", "uint8", {film: rivals(path, options.runs) for film, path in films.items()})


def rivals(path: Path, runs: int) -> dict[str, Any]:
    assert one_pass(path) == two_steps(path)
    candidates = {
        "one pass": lambda: one_pass(path),
        "PySceneDetect, then decord": lambda: two_steps(path),
        "PySceneDetect alone": lambda: detection_only(path),
        "bare decoding": lambda: bare_decoding(path),
    }
    times = alternate(candidates, runs)
    ratio = times["PySceneDetect, then decord"]["wall_seconds"] / times["one pass"]["wall_seconds"]
    return {**times, "times_faster": round(ratio, 2)}


if __name__ == "__main__":
    main()
