"""Time and memory to count films watched next, and films watched by the same persons, in 10 million ratings.

    python -m benchmarks.co_watch        about 3 minutes

The ratings are generated: 70,000 persons rate films drawn from 30,000 by Zipf's law, flattened at its top. A sixth of
the ratings have the same second as the one before. First the pairs of 200,000 ratings must equal those of a pandas
self-merge, and both ways are timed. Then a process of its own counts 10 million ratings. Its peak memory is its
largest resident set.

Expected for 10 million (one core): 250 MB to parse, two sorts of 10 million keys (2 · 10⁷ · log₂ 10⁷ = 5·10⁸
comparisons), 1.2·10⁷ pairs to add up in order: some 20 s, and 1 GB for five columns of 8 bytes and their copies.
Films watched by the same persons take some 30 s more: the squared number of films, summed over persons, gives 3·10⁹
additions in random places.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.harness import alternate, write_result
from data_scripts.similarity.co_watch import Watches, read_watches, watched_both, watched_next
from data_scripts.similarity.neighbors import best_neighbors
from m2s.commands import run_command

NUM_FILMS = 30_000
FLATTENED = 50  # added to the rank: nobody watches a film ten times
FILMS_OF_A_PERSON = 143  # on average, about as in MovieLens
MAX_BURST, MAX_FILMS, TOP_K = 20, 2000, 3
SMALL, LARGE = 200_000, 10_000_000


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    count: Path | None = field(
        default=None, metadata={"help": "only count this file of ratings, in this process, and print the figures"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.co_watch", Options, run, argv)


def run(options: Options) -> None:
    if options.count:
        print(json.dumps(count(options.count)))
        return
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small.csv", Path(name) / "large.csv"
        generate(small, SMALL)
        generate(large, LARGE)
        compared = compare(small)
        command = [sys.executable, "-m", "benchmarks.co_watch", "--count", str(large)]
        counted = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    write_result("co_watch", "float64", {"ratings": LARGE, **counted, f"of_{SMALL}_ratings": compared})


def generate(path: Path, num_ratings: int) -> None:
    """A file like MovieLens' ratings.csv: a few persons rate very many films; each person's rows are sorted by film."""
    random = np.random.default_rng(0)
    share = random.lognormal(size=num_ratings // FILMS_OF_A_PERSON)
    person = np.sort(random.choice(len(share), num_ratings, p=share / share.sum()))
    share = 1 / (FLATTENED + np.arange(NUM_FILMS))
    film = random.choice(NUM_FILMS, num_ratings, p=share / share.sum())
    pause = np.where(random.random(num_ratings) < 1 / 6, 0, random.integers(1, 1000, num_ratings))
    columns = {"userId": person, "movieId": film, "rating": 4.0, "timestamp": 10**9 + np.cumsum(pause)}
    pd.DataFrame(columns).sort_values(["userId", "movieId"]).to_csv(path, index=False)


def read(path: Path) -> Watches:
    return read_watches(path, {str(film): film for film in range(NUM_FILMS)}, NUM_FILMS)


def count(path: Path) -> dict[str, Any]:
    """Seconds of each step, and the process's peak memory after it."""
    steps: dict[str, dict[str, float]] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        value = call()
        steps[name] = {"wall_seconds": round(time.perf_counter() - started, 2), "peak_mib": peak_mib()}
        return value

    steps["imports"] = {"wall_seconds": 0.0, "peak_mib": peak_mib()}
    watches = step("read and sort", lambda: read(path))
    following = step("watched next", lambda: best_neighbors(watched_next(watches, MAX_BURST)[0], TOP_K))
    both = step("watched both", lambda: best_neighbors(watched_both(watches, MAX_FILMS)[0], TOP_K))
    return {"steps": steps, **watches.counts, "pairs_next": len(following), "pairs_both": len(both)}


def peak_mib() -> int:
    """Peak memory of this process since it began; `getrusage` would add its parent's memory at the fork."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(fields["VmHWM"].split()[0]) / 1024)


def compare(path: Path) -> dict[str, Any]:
    """Times of both ways on a small file, after asserting that their pairs are equal."""
    watches = read(path)
    candidates: dict[str, Callable[[], Any]] = {
        "watched next": lambda: sparse.vstack(list(watched_next(read(path), MAX_BURST)[0])),
        "watched next, pandas": lambda: next_by_merging(first_ratings(path)),
        "watched both": lambda: sparse.vstack(list(watched_both(read(path), MAX_FILMS)[0])),
        "watched both, pandas": lambda: both_by_merging(first_ratings(path)),
    }
    for name in ("watched next", "watched both"):
        found, expected = candidates[name](), candidates[f"{name}, pandas"]()
        found.eliminate_zeros()
        places = (expected.index.get_level_values(0), expected.index.get_level_values(1))
        reference = sparse.coo_array((expected.to_numpy(), places), shape=found.shape).tocsr()
        assert found.nnz == reference.nnz > len(watches.movie) / 2
        assert abs(found - reference).max() < 1e-5
    return alternate(candidates, runs=3)


def first_ratings(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, usecols=["userId", "movieId", "timestamp"]).sort_values(["userId", "timestamp"])
    return frame.drop_duplicates(["userId", "movieId"])


def next_by_merging(frame: pd.DataFrame) -> pd.Series:
    frame["burst"] = frame.groupby("userId")["timestamp"].rank("dense").astype(int)
    frame["length"] = frame.groupby(["userId", "burst"])["movieId"].transform("size")
    steps = frame.merge(frame.assign(burst=frame["burst"] - 1), on=["userId", "burst"])
    steps["weight"] = 1 / (steps["length_x"] * steps["length_y"])
    inside = frame.merge(frame, on=["userId", "burst"])
    inside = inside[inside["movieId_x"] != inside["movieId_y"]]
    pairs = pd.concat([steps, inside.assign(weight=1 / inside["length_x"])])
    return pairs.groupby(["movieId_x", "movieId_y"])["weight"].sum()


def both_by_merging(frame: pd.DataFrame) -> pd.Series:
    pairs = frame[["userId", "movieId"]].merge(frame[["userId", "movieId"]], on="userId")
    return pairs[pairs["movieId_x"] != pairs["movieId_y"]].groupby(["movieId_x", "movieId_y"]).size()


if __name__ == "__main__":
    main()
