"""The space in which scenes are compared: the map from a film's features to it, and the statistics that this needs.

    model                the learned space [3.2], the paper's; with center, window means minus their mean over all films
    features, random     the features as they are
    whitened             features minus their mean, on 256 whitened principal axes; nothing is learned (ours)
    both                 the centered learned space and the whitened features, side by side (ours)

All but the features and the plain learned space need statistics of the films that are mined. One process measures them
and stores them beside the pairs; every other process, and a run that continues, reads them. All of them therefore use
the same numbers to the last bit.

Shapes: `n` shots and `D` features of a film; `K` principal axes; `H` columns of the learned space.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from data_scripts.mining.scenes import (
    WINDOW,
    Embed,
    centered,
    exact_weights,
    exact_whitener,
    film_windows,
    side_by_side,
    window_scores,
)
from modeling_m2s.storage_m2s import StorageError, atomic_write
from modeling_m2s.whitening_m2s import Moments, Whitening

LEARNED, WHITENED = ("model", "both"), ("whitened", "both")
NUM_DIRECTIONS, SHRINKAGE = 256, 0.02
SAMPLED_FILM_PAIRS = 200  # pairs from which the spread of scores between dissimilar films is measured
Statistics = dict[str, np.ndarray]


class MiningSpace:
    """A space in which scenes are compared; `--space` of `data_scripts.mine_scene_pairs` names it.

    Args:
        name: which one.
        center: whether the learned space is centered.
        learned: the learned space, if it is part of this one.
        device: to compute on.

    Attributes:
        embed: maps features to this space; None if features are compared as they are. Spaces that need statistics have
            it only after `use`.
    """

    def __init__(self, name: str, center: bool, learned: Embed | None, device: torch.device):
        self.name, self.center, self.learned, self.device = name, center or name == "both", learned, device
        self.needs_statistics = self.center or name in WHITENED
        self.embed = None if self.needs_statistics else learned

    def settings(self, seed: int) -> dict[str, object]:
        """Settings of the space for the record of mined pairs, beside its name."""
        settings: dict[str, object] = {}
        if self.center:
            settings["center"] = True
        if self.name in WHITENED:
            settings |= {"num_directions": NUM_DIRECTIONS, "shrinkage": SHRINKAGE}
        if self.name in ("random", "both"):
            settings["seed"] = seed
        return settings

    def measure(
        self, movie_ids: Sequence[str], read: Callable[[str], Tensor], film_pairs: Sequence[tuple[str, str]]
    ) -> Statistics:
        """Statistics of the films that are mined, the same on every device except for the last bits of LAPACK.

        Args:
            movie_ids: ids of these films.
            read: gives the features (n, D) of a film, on the device.
            film_pairs: a sample of pairs of films that are not similar; their scores get standard deviation 1.

        Raises:
            ValueError: the features of all shots are equal.
        """
        statistics: Statistics = {}
        if self.name in WHITENED:
            statistics |= shot_statistics(map(read, movie_ids))
        if self.learned and self.center:
            statistics["center"] = mean_window(map(read, movie_ids), self.learned)
        if self.name == "both":
            factors = [score_factor(part, film_pairs, read) for part in self._parts(statistics)]
            statistics["factors"] = np.array(factors)
        return statistics

    def use(self, statistics: Statistics) -> None:
        """Compare scenes with these statistics."""
        parts = self._parts(statistics)
        self.embed = side_by_side(parts, statistics["factors"].tolist()) if self.name == "both" else parts[0]

    def _parts(self, statistics: Statistics) -> list[Embed]:
        on_device = {name: torch.from_numpy(values).to(self.device) for name, values in statistics.items()}
        parts = []
        if self.learned:
            parts.append(centered(self.learned, on_device["center"]))
        if self.name in WHITENED:
            parts.append(exact_whitener(on_device["mean"], on_device["axes"]))
        return parts


def shot_statistics(films: Iterable[Tensor], num_directions: int = NUM_DIRECTIONS) -> Statistics:
    """The whitening of all shots that have a keyframe: `mean` (D,) and `axes` (D, K), rounded for exact products."""
    moments = None
    for features_nD in films:
        moments = moments or Moments(features_nD.shape[1])
        moments.add(features_nD[(features_nD != 0).any(1)])
    if moments is None:
        raise ValueError("no films to take statistics of")
    whitening = Whitening.fit(moments, num_directions, SHRINKAGE)
    axes_DK = torch.from_numpy(whitening.axes_DK)
    return {
        "mean": whitening.mean_D,
        "axes": exact_weights(axes_DK, float(axes_DK.abs().amax()), len(axes_DK)).numpy(),
    }


def mean_window(films: Iterable[Tensor], embed: Embed) -> np.ndarray:
    """Mean of all usable windows' mean embeddings, float64 (H,); zeros if no window is usable."""
    sums_H: np.ndarray | float = 0.0
    count = 0
    for features_nD in films:
        windows = film_windows(features_nD, embed)
        # A film's sum is exact, and films are added in order, so the result is the same on every device.
        sums_H = sums_H + windows.sums_PD[windows.usable_P].sum(0).cpu().numpy() * windows.scale
        count += int(windows.usable_P.sum())
    return np.asarray(sums_H / (WINDOW * max(count, 1)), np.float64)


def dissimilar_films(
    movie_ids: Sequence[str], similar: Iterable[tuple[str, str]], seed: int, count: int = SAMPLED_FILM_PAIRS
) -> list[tuple[str, str]]:
    """Up to `count` different pairs of films that are not similar, drawn at random; none if all pairs are similar."""
    ruled_out, drawn = set(similar), {}
    films = sorted(movie_ids)
    for places in np.random.default_rng(seed).integers(len(films), size=(50 * count, 2)):
        first, second = sorted(films[place] for place in places)
        if first != second and (first, second) not in ruled_out and len(drawn) < count:
            drawn[first, second] = None
    return list(drawn)


def score_factor(embed: Embed, film_pairs: Sequence[tuple[str, str]], read: Callable[[str], Tensor]) -> float:
    """The factor for embeddings with which all scores of all these film pairs have standard deviation 1."""
    count, total, squares = 0, 0.0, 0.0
    for films in film_pairs:
        scores = window_scores(*(film_windows(read(movie_id), embed) for movie_id in films))
        count += scores.numel()
        total += float(scores.sum())
        squares += float((scores * scores).sum())
    mean_square = squares / max(count, 1)
    variance = mean_square - (total / max(count, 1)) ** 2
    # Scores without spread (except for rounding) distinguish nothing, so their scale does not matter.
    factor = variance**-0.25 if variance > 1e-12 * mean_square else 1.0
    # These sums do round. The factor keeps 16 bits, which rounding errors in float64 hardly ever change.
    mantissa, exponent = math.frexp(factor)
    return math.ldexp(round(mantissa * 2**16), exponent - 16)


def digest(statistics: Statistics) -> str:
    """A digest of statistics: 12 hexadecimal digits."""
    return hashlib.sha256(_bytes(statistics)).hexdigest()[:12]


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Store statistics as safetensors.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(_bytes(statistics))


def read_statistics(path: Path) -> Statistics:
    """Read stored statistics.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); remove {path.parent} and mine again") from error


def _bytes(statistics: Statistics) -> bytes:
    # safetensors writes the memory of an array as it is, so an array that is not C-contiguous would be transposed.
    return save({name: np.ascontiguousarray(values) for name, values in sorted(statistics.items())})
