"""Mining scene pairs in films of 1,088 shots (the paper's mean), against the obvious way; cost of growth and rounding.

    python -m benchmarks.mining                   about two minutes on two cores
    python -m benchmarks.mining --device cuda     on a GPU

The obvious way computes the shot adjacency A and its sums over 9×9 windows, sorts all windows, and keeps the highest
ones that do not overlap. On films of 128 shots, a Python loop over all windows is timed as well. All pairs are asserted
equal before anything is timed.

Counted beforehand, for a film pair with embeddings of 512 columns, held in memory as window sums:

    product        2 · 1080² · 512 = 1.19 GFLOP in float64    two AVX-512 cores, 87 GFLOP/s:  14 ms    H200: 0.04 ms
    row maxima     8 · 1080² = 9.3 MB to read                                                  1 ms          0.003 ms
    60 steps       about 20 small operations a step, for a batch of 4 (CPU) or 64 (GPU)        3 ms          0.2 ms
    together                                                                          18 ms: 55/s    0.25 ms: 4,000/s

To embed a film takes 2 · 1088 · 512² = 0.57 GFLOP in float64 and ten passes over 4.5 MB: 11 ms and 0.03 ms. The H200's
figures suppose half of its 67 TFLOP/s and 6 µs an operation; they are to be measured there. The obvious way computes
the same product, and has 9.3 MB to pool and to sort. The loop makes 81 additions for each of 14,400 windows.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.harness import alternate, write_result
from data_scripts.features.shot_features import ShotFeatures
from data_scripts.mine_scene_pairs import main as mine
from data_scripts.mining.scenes import (
    WINDOW,
    FilmWindows,
    exact_embedder,
    film_windows,
    mine_scene_pairs,
    num_scene_pairs,
    take_best,
)
from m2s.commands import run_command
from modeling_m2s.configuration_m2s import M2SMovieSimilarityConfig
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset

DIM = 512


def similarity_model() -> M2SMovieSimilarityModel:
    torch.manual_seed(0)
    return M2SMovieSimilarityModel(M2SMovieSimilarityConfig())


def film(num_shots: int, seed: int) -> Tensor:
    """Shot features like CLIP's: norm 11, a large common part, a film's look, recurring places."""
    world, generator = np.random.default_rng(0), np.random.default_rng(seed + 1)
    common, places = world.normal(0, 0.35, DIM), world.normal(0, 0.2, (200, DIM))
    look = generator.normal(0, 0.15, DIM)
    place = np.repeat(generator.integers(200, size=num_shots), generator.integers(3, 30, size=num_shots))[:num_shots]
    return torch.from_numpy((common + look + places[place] + generator.normal(0, 0.2, (num_shots, DIM))).astype("f2"))


def obvious(rounded_a: Tensor, rounded_b: Tensor) -> list[tuple[int, int]]:
    """Pairs by the obvious way: A is pooled over all windows, and the windows are sorted by score."""
    A = (rounded_a @ rounded_b.T)[None, None]
    sums = torch.nn.functional.avg_pool2d(A, WINDOW, 1, divisor_override=1)[0, 0]
    order = sums.flatten().sort(descending=True, stable=True).indices
    return disjoint(((int(k) // sums.shape[1], int(k) % sums.shape[1]) for k in order), len(rounded_a), len(rounded_b))


def loop(rounded_a: Tensor, rounded_b: Tensor) -> list[tuple[int, int]]:
    """Pairs by a Python loop over all windows."""
    A = (rounded_a @ rounded_b.T).cpu().numpy()
    windows = [(i, j) for i in range(len(A) - WINDOW + 1) for j in range(A.shape[1] - WINDOW + 1)]
    scores = {(i, j): A[i : i + WINDOW, j : j + WINDOW].sum() for i, j in windows}
    return disjoint(sorted(scores, key=lambda window: (-scores[window], window)), *A.shape)


def disjoint(windows: Iterable[tuple[int, int]], num_shots_a: int, num_shots_b: int) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for i, j in windows:
        if all(abs(i - row) >= WINDOW and abs(j - column) >= WINDOW for row, column in kept):
            kept.append((i, j))
            if len(kept) == num_scene_pairs(num_shots_a, num_shots_b):
                break
    return kept


def rounded(windows: FilmWindows, features: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """The integers behind a film's window sums."""
    return (embed(features.double()) / windows.scale).round()


def firsts(pairs: Sequence) -> list[tuple[int, int]]:
    return [pair[:2] for pair in pairs]


def against_others(
    num_shots: int, others: dict[str, Callable], device: torch.device, batch: int, runs: int
) -> dict[str, dict]:
    """Film pairs a second, from window sums in memory and with films embedded anew, beside the other ways."""
    embed = exact_embedder(similarity_model().to(device))
    films = [film(num_shots, seed).to(device) for seed in range(2 * batch)]

    def pairs_of_windows() -> list[tuple[FilmWindows, FilmWindows]]:
        windows = [film_windows(features, embed) for features in films]
        return list(zip(windows[::2], windows[1::2], strict=True))

    pairs = pairs_of_windows()
    integers = [rounded(*each, embed) for each in zip(pairs[0], films[:2], strict=True)]
    candidates: dict[str, Callable] = {
        f"mining {batch} pairs": lambda: mine_scene_pairs(pairs),
        f"embedding and mining {batch} pairs": lambda: mine_scene_pairs(pairs_of_windows()),
    }
    for name, other in others.items():
        assert other(*integers) == firsts(mine_scene_pairs(pairs)[0])
        candidates[f"{name}, one pair"] = functools.partial(other, *integers)
    times = alternate(candidates, runs)
    sizes = {name: 1 if name.endswith("one pair") else batch for name in candidates}
    return {
        "film_pairs_a_second": {name: round(sizes[name] / times[name]["wall_seconds"], 1) for name in candidates},
        "times": times,
    }


def growing_films(device: torch.device, batch: int) -> dict[str, float]:
    """Milliseconds a film pair, from window sums, by film length; the product grows with its square."""
    embed, found = exact_embedder(similarity_model().to(device)), {}
    for num_shots in (256, 512, 1024, 2048, 4096):
        pair = [film_windows(film(num_shots, seed).to(device), embed) for seed in range(2)]
        times = alternate({"mining": lambda pair=pair: mine_scene_pairs([tuple(pair)] * batch)}, runs=3)
        found[f"{num_shots} shots"] = round(1000 * times["mining"]["wall_seconds"] / batch, 2)
    return found


def growing_catalog(device: torch.device) -> dict[str, float]:
    """Milliseconds a film pair of the whole command, with reading and writing, by the number of films of 256 shots."""
    found = {}
    for num_films in (16, 64, 256):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ids = [f"tt{number:07d}" for number in range(num_films)]
            content = {"num_shots": 256, "dim": DIM, "dtype": "float16"}
            features = FilmDataset(folder / "shot_features", "shot_features")
            features.begin({"encoder": "none", "revision": None})
            features.write_all(
                [
                    {"movie_id": movie_id, **content, "features": film(256, seed).numpy().tobytes()}
                    for seed, movie_id in enumerate(ids)
                ]
            )
            pairs = {tuple(sorted((a, (a + step) % num_films))) for a in range(num_films) for step in (1, 5, 7)}
            similar = FilmDataset(folder / "similar_movies", "similar_movies")
            similar.begin({})
            similar.write_all(
                [
                    {"movie_id": ids[a], "similar_movie_id": ids[b], "rank": b, "score": 1.0, "source": "genre"}
                    for a, b in sorted(pairs)
                ]
            )
            ShotFeatures(folder / "shot_features")  # makes the Arrow copy, which is not timed
            inputs = ["--features", str(folder / "shot_features"), "--similar", str(folder / "similar_movies")]
            started = time.perf_counter()
            mine([*inputs, "--space", "features", "--device", device.type, "--output", str(folder / "scene_pairs")])
            found[f"{num_films} films, {len(pairs)} film pairs"] = round(
                1000 * (time.perf_counter() - started) / len(pairs), 2
            )
    return found


def cost_of_rounding() -> dict[str, float]:
    """Mined pairs and scores, compared with float64 without rounding, on ten pairs of films."""
    model = similarity_model().double()
    same, total, correlation, difference = 0, 0, 1.0, 0.0
    for seed in range(10):
        films = [film(400, 2 * seed + side) for side in range(2)]
        with torch.no_grad():
            embeddings = [model.shot_embeddings(features.double()) for features in films]
        sums = [each.unfold(0, WINDOW, 1).sum(-1) for each in embeddings]
        scores = sums[0] @ sums[1].T / WINDOW**2
        expected = take_best(scores[None], num_scene_pairs(400, 400))[0]
        windows = [film_windows(features, exact_embedder(similarity_model())) for features in films]
        (mined,) = mine_scene_pairs([tuple(windows)])
        exact = (windows[0].sums_PD.double() @ windows[1].sums_PD.double().T).numpy()
        exact *= windows[0].scale * windows[1].scale / WINDOW**2
        same += len({(i, j) for _, i, j in expected} & set(firsts(mined)))
        total += len(mined)
        correlation = min(correlation, float(spearmanr(exact.flat, scores.numpy().flat).statistic))
        difference = max(difference, float(abs(exact / scores.numpy() - 1).max()))
    return {
        "scene_pairs": total,
        "the_same_without_rounding": same,
        "lowest_rank_correlation": round(correlation, 10),
        "largest_relative_difference_of_scores": float(f"{difference:.1e}"),
    }


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.mining", Options, run, argv)


def run(options: Options) -> None:
    device = torch.device(options.device)
    batch = 64 if device.type == "cuda" else 4
    common = (device, batch, options.runs)
    content = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "128 shots": against_others(128, {"loop over windows": loop, "sorted windows": obvious}, *common),
        "1088 shots": against_others(1088, {"sorted windows": obvious}, *common),
        "milliseconds_a_film_pair_by_length": growing_films(device, batch),
        "milliseconds_a_film_pair_by_catalog": growing_catalog(device),
        "rounding": cost_of_rounding(),
    }
    write_result("mining" if device.type == "cpu" else f"mining-{device.type}", "float64", content)


if __name__ == "__main__":
    main()
