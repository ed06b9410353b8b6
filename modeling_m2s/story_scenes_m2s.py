"""Story scenes: a film's runs of alike shots, found in vectors of single shots without labels or training (ours).

    >>> axes = SceneAxes.fit(films)                     each film an array (shots, dim), the encoder on single shots
    >>> story_scenes(films[0], axes)                    [(0, 7), (7, 12), …]: first shot, number of shots

The model: the shots of a scene scatter around the scene's mean, and the means of scenes scatter around the mean of all
films. Neighboring shots are mostly of one scene, so half the mean square of their differences estimates the scatter
within scenes. The axes are those along which all shots scatter most in units of it. Along them, the evidence of a run
of shots, with its unknown mean integrated out, has a closed form. The best division of a film is the one with the
shortest description: the runs' negative log evidence, and the bits that say after which shots a scene ends, at the rate
of ends that the film itself shows. Dynamic programming finds it exactly.

A row of zeros stands for a shot without a keyframe, as in `shot_features`; it belongs to the scene of the shot before.

Shapes: `T` shots of a film, `D` features, `K` axes, `L` the length of the longest scene in shots.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .whitening_m2s import Moments, Whitening

# Chosen in the film world of seed 0, which the evaluation does not report.
PRINCIPAL_AXES, SCENE_AXES = 128, 32
LONGEST_SCENE = 256


@dataclass(frozen=True)
class SceneAxes:
    """The axes along which scenes differ.

    Attributes:
        mean_D: mean of all shots.
        axes_DK: columns, the one along which scenes differ most first. Shots of a scene have variance 1 along each.
        spreads_K: variances of the means of scenes.
    """

    mean_D: np.ndarray
    axes_DK: np.ndarray
    spreads_K: np.ndarray

    @classmethod
    def fit(cls, films: Iterable[np.ndarray]) -> "SceneAxes":
        """The axes of a catalog, or of one film; each film (T, D) is read once.

        Covariances of few shots are drawn toward equal variances, with the weight of as many shots as they have rows.
        There are no axes, and so every film is one scene, if no neighboring shots are more alike than others.

        Raises:
            ValueError: no films, films of different widths, or a value that is not finite.
        """
        moments, num_steps = None, 0
        for film in films:
            shots_TD = with_keyframe(film)
            if moments is None:
                moments, steps_DD = Moments(shots_TD.shape[1]), np.zeros(2 * shots_TD.shape[1:])
            if shots_TD.shape[1] != moments.dim:
                raise ValueError(f"a film has vectors of width {shots_TD.shape[1]}, another of {moments.dim}")
            moments.add(shots_TD)
            differences_TD = np.diff(shots_TD, axis=0)
            steps_DD += differences_TD.T @ differences_TD / 2
            num_steps += len(differences_TD)
        if moments is None:
            raise ValueError("no films: there are no scenes to find axes for")
        mean_D = moments.mean() if moments.count else np.zeros(moments.dim)
        return cls(mean_D, *_axes(moments, steps_DD, num_steps))

    def apply(self, shots_TD: np.ndarray) -> np.ndarray:
        """Shots along the axes, float64 (T, K)."""
        return (np.asarray(shots_TD, np.float64) - self.mean_D) @ self.axes_DK


def story_scenes(film: np.ndarray, axes: SceneAxes, longest: int = LONGEST_SCENE) -> list[tuple[int, int]]:
    """The scenes of a film (T, D) as (first shot, number of shots), in order; every shot is in one of them.

    Args:
        longest: length in shots that no scene exceeds, not counting shots without a keyframe. Time and memory grow with
            it, and with the film's length.

    Raises:
        ValueError: a value is not finite, or `longest` is below 1.
    """
    if longest < 1:
        raise ValueError(f"longest={longest} must be at least 1")
    shots_TD = with_keyframe(film)
    places_T = np.flatnonzero(np.asarray(film).any(axis=1))
    starts = [0]
    if len(axes.spreads_K) and len(shots_TD):
        costs_TL = run_costs(axes.apply(shots_TD), axes.spreads_K, longest)
        starts = [0, *(int(places_T[start]) for start in shortest_description(costs_TL)[1:])]
    ends = [*starts[1:], len(film)]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start]


def with_keyframe(film: np.ndarray) -> np.ndarray:
    """The shots of a film (T, D) that have a keyframe, float64.

    Raises:
        ValueError: the film is not (T, D), or a value is not finite.
    """
    film = np.asarray(film, np.float64)
    if film.ndim != 2:
        raise ValueError(f"a film has vectors of shape {film.shape}; expected (shots, dim)")
    if not np.isfinite(film).all():
        raise ValueError(f"shot {(~np.isfinite(film)).any(axis=1).argmax()}: a value is infinite or not a number")
    return film[film.any(axis=1)]


def run_costs(shots_TK: np.ndarray, spreads_K: np.ndarray, longest: int) -> np.ndarray:
    """Negative log evidence (T, L) that shots are a scene; in row t, column l, the run of l + 1 shots that ends with t.

    The evidence is relative to that of the same shots around a known mean of 0: a run's cost depends on its sum and its
    length alone. Along an axis, with spread b and the sum s of n shots, it is (log(1 + nb) - s²b / (1 + nb)) / 2. Runs
    that would begin before the film cost infinity.
    """
    sums_TK = np.concatenate([np.zeros((1, shots_TK.shape[1])), np.cumsum(shots_TK, axis=0)])
    costs_TL = np.full((len(shots_TK), min(longest, len(shots_TK))), np.inf)
    for length in range(1, costs_TL.shape[1] + 1):
        squares_K = 1 + length * spreads_K
        gains_T = (sums_TK[length:] - sums_TK[:-length]) ** 2 @ (spreads_K / squares_K)
        costs_TL[length - 1 :, length - 1] = (np.log(squares_K).sum() - gains_T) / 2
    return costs_TL


def shortest_description(costs_TL: np.ndarray) -> list[int]:
    """First shots of the runs of a film whose costs, with those of telling where runs end, sum to the least.

    The rate of ends is estimated from the runs, and the runs are found again with this rate, until nothing changes. The
    first rate is one half, which costs nothing; each next one is lower, so this comes to an end.
    """
    starts = cheapest_runs(costs_TL)
    while (rate := len(starts) / (len(costs_TL) + 1)) < 0.5:  # as if there were two more shots, and one ended a run
        found = cheapest_runs(costs_TL, np.log((1 - rate) / rate))
        if found == starts:
            break
        starts = found
    return starts


def cheapest_runs(costs_TL: np.ndarray, end_cost: float = 0.0) -> list[int]:
    """First shots of the runs into which T shots fall at the least cost: the sum of runs' costs, and `end_cost` each.

    Args:
        costs_TL: as `run_costs` gives them.
    """
    T, L = costs_TL.shape
    backward_TL = costs_TL[:, ::-1]  # a row's costs in the order of the runs' first shots
    least_T, lengths_T = np.zeros(T + 1), np.zeros(T, np.int64)
    for shot in range(T):
        first = max(0, shot + 1 - L)
        sums = least_T[first : shot + 1] + backward_TL[shot, L - (shot + 1 - first) :]
        best = int(sums.argmin())
        lengths_T[shot], least_T[shot + 1] = shot + 1 - first - best, sums[best] + end_cost
    starts, end = [], T
    while end:
        end -= int(lengths_T[end - 1])
        starts.append(end)
    return starts[::-1]


def _axes(moments: Moments, steps_DD: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """`axes_DK` and `spreads_K` from the moments of shots, and the sum of outer products of steps between shots."""
    if num_steps < 1 or not np.trace(steps_DD) > 0:
        return np.zeros((moments.dim, 0)), np.zeros(0)
    # The factor leaves the mean variance as it is, as in `_shrunk`.
    factor = np.sqrt(1 + moments.dim / (moments.count - 1))
    principal_DP = Whitening.fit(moments, PRINCIPAL_AXES, shrinkage=None).axes_DK * factor
    within_PP = _shrunk(principal_DP.T @ _shrunk(steps_DD, num_steps) @ principal_DP * num_steps, num_steps)
    within_P, vectors_PP = np.linalg.eigh(within_PP)
    kept = np.flatnonzero(within_P < 1 - 1e-9)[:SCENE_AXES]  # 1, but for rounding, if neighbors are no more alike
    axes_DK = principal_DP @ vectors_PP[:, kept] / np.sqrt(within_P[kept])
    return np.ascontiguousarray(axes_DK), 1 / within_P[kept] - 1


def _shrunk(products_DD: np.ndarray, count: int) -> np.ndarray:
    """A covariance from the sum of `count` outer products and, with the weight of D of them, equal variances."""
    dim = len(products_DD)
    return (products_DD + np.trace(products_DD) / count * np.eye(dim)) / (count + dim)
