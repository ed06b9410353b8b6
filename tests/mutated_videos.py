"""Small films of ten containers, changed at random, and what becomes of each.

    python tests/mutated_videos.py --files 200 --seed 0        about five minutes on two cores

A file must be read whole, or in part with its damage told, or be refused in one line. Each is read in a process of its
own, so that a crash or a decoder that hangs costs one file.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from make_videos import make_video

from modeling_m2s.shots_m2s import detect_shots
from modeling_m2s.video_m2s import VideoError
from modeling_m2s.workers_m2s import Outcome, run_isolated

LENGTHS = (40, 30, 50)
FILMS = {
    "mp4": ("libx264", {"audio": True}),
    "mkv": ("libx264", {"audio": True}),
    "ts": ("libx264", {"audio": True}),
    "flv": ("libx264", {"audio": True}),
    "avi": ("mpeg4", {}),
    "mpg": ("mpeg2video", {}),
    "webm": ("libvpx", {}),
    "wmv": ("wmv2", {}),
    "mov": ("mjpeg", {"pixel_format": "yuvj420p"}),
    "mxf": ("mpeg2video", {"rate": 25}),
}
MAX_SILENCE = 120.0


def cut(data: bytearray, random: np.random.Generator, _: bytes) -> bytes:
    """The file ends, or begins, somewhere."""
    place = int(random.integers(1, len(data)))
    return data[:place] if random.random() < 0.7 else data[place:]


def flip(data: bytearray, random: np.random.Generator, _: bytes) -> bytes:
    """Some bytes anywhere have other values."""
    for place in random.integers(0, len(data), int(random.integers(1, 200))):
        data[place] ^= int(random.integers(1, 256))
    return data


def splice(data: bytearray, random: np.random.Generator, other: bytes) -> bytes:
    """The beginning of one file goes on as another."""
    first, second = int(random.integers(1, len(data))), int(random.integers(0, len(other)))
    return data[:first] + other[second:]


def zero(data: bytearray, random: np.random.Generator, _: bytes) -> bytes:
    """A stretch is zero, as in a download that never finished."""
    start = int(random.integers(0, len(data)))
    length = int(random.integers(1, 1 + len(data) // 3))
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def misplace(data: bytearray, random: np.random.Generator, _: bytes) -> bytes:
    """Numbers in the first or last 2 KiB, where headers and indexes are, have other values."""
    start = 0 if random.random() < 0.5 else max(0, len(data) - 2048)
    for place in random.integers(start, min(len(data), start + 2048), int(random.integers(1, 12))):
        data[place] = int(random.integers(0, 256))
    return data


def rename(data: bytearray, random: np.random.Generator, other: bytes) -> bytes:
    """Only the name is another container's."""
    return data


MUTATIONS: dict[str, Callable[[bytearray, np.random.Generator, bytes], bytes]] = {
    function.__name__: function for function in (cut, flip, splice, zero, misplace, rename)
}


def mutated_files(folder: Path, num_files: int, seed: int) -> Iterator[Path]:
    """Write the changed files one after another; their names say from what and how they were made."""
    whole = {}
    for suffix, (codec, options) in FILMS.items():
        whole[suffix] = make_video(folder / f"whole.{suffix}", LENGTHS, codec=codec, **options).read_bytes()
    random, suffixes, mutations = np.random.default_rng(seed), list(FILMS), list(MUTATIONS)
    for number in range(num_files):
        suffix, mutation = suffixes[number % len(suffixes)], mutations[number // len(suffixes) % len(mutations)]
        other = suffixes[int(random.integers(len(suffixes)))]
        data = MUTATIONS[mutation](bytearray(whole[suffix]), random, whole[other])
        path = folder / f"{number:04d}_{suffix}_{mutation}.{other if mutation == 'rename' else suffix}"
        path.write_bytes(data)
        yield path


def read(path: str, report: Callable[[float], None]) -> tuple[str, str]:
    """What became of a file, and the words for it."""
    try:
        film = detect_shots(path, report=report, min_readable=0.0)
    except VideoError as error:
        assert "\n" not in str(error) and str(error).startswith(path), error
        return "refused", error.reason
    assert film.shots and film.num_frames == film.shots[-1].end_frame
    ends = [shot.end_seconds for shot in film.shots]
    assert all(shot.end_seconds > shot.start_seconds >= 0 for shot in film.shots), film.shots
    assert all(shot.start_seconds >= end for shot, end in zip(film.shots[1:], ends, strict=False)), film.shots
    assert all(shot.keyframes for shot in film.shots)
    if film.damage:
        return "told", film.damage
    return ("whole" if film.num_frames >= sum(LENGTHS) else "shorter"), f"{film.num_frames} frames"


def read_all(paths: Iterator[Path], num_workers: int = 2) -> Iterator[Outcome]:
    """The outcome of each file; its `value` is that of `read`."""
    inputs = ((path.name, (str(path),)) for path in paths)
    yield from run_isolated(read, inputs, num_workers, preload=("modeling_m2s.shots_m2s",), max_silence=MAX_SILENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in read_all(mutated_files(Path(folder), options.files, options.seed)):
            mutation = Path(outcome.key).stem.split("_")[2]
            result, words = outcome.value or ("FAILED", outcome.traceback or outcome.error)
            counts[mutation, result] += 1
            print(f"{outcome.key}: {result}: {words}")
    for (mutation, result), count in sorted(counts.items()):
        print(f"{mutation:10} {result:8} {count}")
    sys.exit(any(result == "FAILED" for _, result in counts))


if __name__ == "__main__":
    main()
