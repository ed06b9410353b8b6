"""Metrics of the paper's tasks at full size: average precision against scikit-learn, exact search against faiss.

    OMP_NUM_THREADS=1 python -m benchmarks.metrics          about four minutes and 5 GB on one core

Average precision is timed on a million scores of one class (scene boundaries in a catalog's shots), on 100 classes with
10,000 scenes each, and on a thousand resamples by film. Search finds the 10 nearest of 256 queries among a million
vectors of 512 numbers, without an index. It is compared with faiss, if installed (`pip install faiss-cpu`), on as many
threads. scikit-learn's search computes in float64 and needs no bound on rounding errors; it is compared on a quarter of
the vectors.

Counted beforehand, on a core with 75 GFLOP/s in float32:

    search, product          2 · 256 · 10⁶ · 512 = 262 GFLOP           3.5 s; faiss needs it as well
    search, other passes     subtraction, comparison, lengths          0.3 s
    average precision        a sort of 10⁶ numbers, not of indices     0.06 s; scikit-learn sorts indices, 0.1 s or more

All results are asserted equal before anything is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from benchmarks.harness import alternate, write_result
from eval.metrics.classification import average_precisions
from eval.metrics.intervals import average_precision_interval
from eval.metrics.neighbors import nearest_neighbors
from m2s.commands import run_command

try:
    import faiss
except ImportError:
    faiss = None

DIM, QUERIES, K = 512, 256, 10


def scores(scenes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels (scenes, classes); a twelfth of the scenes have a class, as a twelfth of shots end a scene."""
    random = np.random.default_rng(0)
    labels = random.random((scenes, classes)) < 1 / 12
    return random.normal(size=(scenes, classes)) + labels, labels


def average_precision(scenes: int, classes: int, runs: int) -> dict[str, Any]:
    scores_NC, labels_NC = scores(scenes, classes)
    candidates: dict[str, Callable] = {
        "ours": lambda: average_precisions(scores_NC, labels_NC),
        "scikit-learn": lambda: average_precision_score(labels_NC, scores_NC, average=None),
    }
    np.testing.assert_allclose(*(np.ravel(call()) for call in candidates.values()), rtol=1e-9)
    return compared(alternate(candidates, runs), "scikit-learn")


def resamples(shots: int, films: int, runs: int) -> dict[str, Any]:
    """Times of an interval of AP by film: ours draws a thousand resamples, scikit-learn ten of them."""
    scores_NC, labels_NC = scores(shots, 1)
    films_N = np.arange(shots) * films // shots
    random = np.random.default_rng(0)

    def one_by_one() -> None:
        for _ in range(10):
            counts = np.bincount(random.integers(films, size=films), minlength=films)
            average_precision_score(labels_NC[:, 0], scores_NC[:, 0], sample_weight=counts[films_N])

    times = alternate(
        {
            "1,000 resamples": lambda: average_precision_interval(scores_NC, labels_NC, films_N),
            "scikit-learn, 10 resamples": one_by_one,
        },
        runs,
    )
    ratio = 100 * times["scikit-learn, 10 resamples"]["wall_seconds"] / times["1,000 resamples"]["wall_seconds"]
    return {"times_faster_a_resample": round(ratio, 1), "times": times}


def vectors(count: int, seed: int) -> np.ndarray:
    """Float32 vectors like CLIP's: norm 11, a large common part, recurring places."""
    world, random = np.random.default_rng(0), np.random.default_rng(seed)
    common, places = world.normal(0, 0.35, DIM), world.normal(0, 0.2, (2000, DIM))
    found = np.empty((count, DIM), np.float32)
    for start in range(0, count, 10_000):
        rows = found[start : start + 10_000]
        random.standard_normal(out=rows, dtype=np.float32)
        rows *= 0.2
        rows += (common + places[random.integers(2000, size=len(rows))]).astype(np.float32)
    return found


def search_against_faiss(gallery_GD: np.ndarray, queries_QD: np.ndarray, threads: int, runs: int) -> dict[str, Any]:
    candidates: dict[str, Callable] = {"ours": lambda: nearest_neighbors(queries_QD, gallery_GD, K)}
    if faiss is None:
        return {"times": alternate(candidates, runs), "faiss": "not installed"}
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(DIM)
    index.add(gallery_GD)
    candidates["faiss"] = lambda: index.search(queries_QD, K)[1]
    same = float((candidates["ours"]() == candidates["faiss"]()).mean())
    assert same > 0.999, (
        f"{same:.2%} of the neighbors are the same"
    )  # faiss may swap two that float32 cannot tell apart
    times = compared(alternate(candidates, runs), "faiss")
    return {"faiss": faiss.__version__, "same_neighbors": same, **times}


def search_against_scikit_learn(gallery_GD: np.ndarray, queries_QD: np.ndarray, runs: int) -> dict[str, Any]:
    other = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(gallery_GD)
    candidates: dict[str, Callable] = {
        "ours": lambda: nearest_neighbors(queries_QD, gallery_GD, K),
        "scikit-learn": lambda: other.kneighbors(queries_QD, return_distance=False),
    }
    assert (candidates["ours"]() == candidates["scikit-learn"]()).mean() > 0.999
    return compared(alternate(candidates, runs), "scikit-learn")


def compared(times: dict[str, dict[str, float]], other: str) -> dict[str, Any]:
    """Times, and ours as a share of the other's, in wall and processor time; other programs disturb the latter less."""
    ours, theirs = times["ours"], times[other]
    return {
        f"share_of_{other}": round(ours["wall_seconds"] / theirs["wall_seconds"], 3),
        f"share_of_{other}_processor": round(ours["cpu_seconds"] / theirs["cpu_seconds"], 3),
        "times": times,
    }


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    vectors: int = field(default=1_000_000, metadata={"help": "number of vectors to search"})
    threads: int = field(default=1, metadata={"help": "number of threads"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.metrics", Options, run, argv)


def run(options: Options) -> None:
    with threadpool_limits(options.threads):
        gallery_GD, queries_QD = vectors(options.vectors, 1), vectors(QUERIES, 2)
        part = len(gallery_GD) // 4
        content = {
            "threads": options.threads,
            "average precision of a million scores, one class": average_precision(1_000_000, 1, options.runs),
            "average precision of a million scores, 100 classes": average_precision(10_000, 100, options.runs),
            "interval of average precision, 106,000 shots of 64 films": resamples(106_000, 64, min(options.runs, 3)),
            f"{K} nearest of {QUERIES} among {len(gallery_GD):,}": search_against_faiss(
                gallery_GD, queries_QD, options.threads, options.runs
            ),
            f"{K} nearest of {QUERIES} among {part:,}": search_against_scikit_learn(
                gallery_GD[:part], queries_QD, min(options.runs, 3)
            ),
        }
    write_result("metrics", "float32", content)


if __name__ == "__main__":
    main()
