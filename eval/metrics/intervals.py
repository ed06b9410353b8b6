"""Percentile bootstrap intervals that draw whole films, since scenes of one film are not independent.

    >>> mean_interval(hits_N, films_N)
    Interval(low=0.41, high=0.55)
    >>> average_precision_interval(scores_NC, tags_NC, films_N)
    Interval(low=0.108, high=0.135)
    >>> bootstrap_interval(lambda weights_NB: 2 * right_N @ weights_NB / (size_N @ weights_NB), films_N)  # a ratio
    Interval(low=0.44, high=0.49)

Every function draws as many films as there are, with replacement, and computes the metric on their scenes. If each
scene is from a film of its own, give no groups. A single film says nothing about others, so the ends of its interval
are NaN.

Shapes: N scenes, C classes, G groups (films), R resamples, B resamples at a time, P scenes that have a class.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

MOST_WEIGHTS = 2**22  # most weights in memory at a time


class Interval(NamedTuple):
    """Ends of a confidence interval; NaN if it cannot be computed."""

    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups_N: Sequence | np.ndarray,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of any metric that can be computed with weights.

    Args:
        statistic: function from weights (N, B) to the metric's B values. A weight is how often one of N scenes counts
            in one of B resamples. Resamples whose value is NaN, such as AP without positives, are left out.
        groups_N: group (film) of each scene; its scenes are drawn together.
        confidence: share of the resamples within the interval.

    Raises:
        ValueError: no scenes.
    """
    groups, groups_N = np.unique(np.asarray(groups_N), return_inverse=True)
    if len(groups) == 1:
        return UNKNOWN
    most = max(1, MOST_WEIGHTS // max(len(groups_N), 1))
    draws = _draws(len(groups), resamples, most, seed)
    return _interval(np.concatenate([statistic(weights_GB[groups_N]) for weights_GB in draws]), confidence)


def mean_interval(
    values_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of one value a scene: precision at k, hits of a classifier, squared errors.

    Args:
        groups_N, resamples, confidence: as for `bootstrap_interval`; without groups, single scenes are drawn.

    Raises:
        ValueError: no values, or numbers of values and groups differ.
    """
    values_N = np.asarray(values_N, np.float64)
    groups_N = np.arange(len(values_N)) if groups_N is None else np.unique(np.asarray(groups_N), return_inverse=True)[1]
    if len(values_N) != len(groups_N):
        raise ValueError(f"{len(values_N)} values, but {len(groups_N)} groups")
    sums_G, counts_G = np.bincount(groups_N, values_N), np.bincount(groups_N)
    if len(counts_G) == 1:
        return UNKNOWN
    draws = _draws(len(counts_G), resamples, max(1, MOST_WEIGHTS // max(len(counts_G), 1)), seed)
    means = [(sums_G @ weights_GB) / (counts_G @ weights_GB) for weights_GB in draws]
    return _interval(np.concatenate(means), confidence)


def average_precision_interval(
    scores_NC: np.ndarray,
    labels_NC: np.ndarray,
    groups_N: Sequence | np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of mean average precision, over the classes that a resample's scenes have.

    Args:
        scores_NC, labels_NC: as for `average_precisions`; one column for the AP of a single class.
        groups_N, resamples, confidence: as for `mean_interval`.

    Raises:
        ValueError: no scenes.
    """
    scores_NC, labels_NC = np.asarray(scores_NC), np.asarray(labels_NC).astype(bool)
    columns = [_Ranking.of(*column) for column in zip(scores_NC.T, labels_NC.T, strict=True)]

    def statistic(weights_NB: np.ndarray) -> np.ndarray:
        found_CB = np.stack([column.average_precision(weights_NB) for column in columns])
        there_CB = ~np.isnan(found_CB)
        return np.where(there_CB, found_CB, 0).sum(0) / np.where(there_CB.any(0), there_CB.sum(0), np.nan)

    groups_N = np.arange(len(scores_NC)) if groups_N is None else groups_N
    return bootstrap_interval(statistic, groups_N, resamples, confidence, seed)


class _Ranking(NamedTuple):
    """All scenes from a class's highest score down, sorted once for all resamples.

    Attributes:
        order_N: the scenes in this order.
        place_P: positions in this order of the P scenes that have the class.
        end_P: for each of the P scenes, the position of the last scene with the same score.
        last_P: for each of the P scenes, the last of the P scenes at or before that position.
    """

    order_N: np.ndarray
    place_P: np.ndarray
    end_P: np.ndarray
    last_P: np.ndarray

    @classmethod
    def of(cls, scores_N: np.ndarray, labels_N: np.ndarray) -> "_Ranking":
        order_N = np.argsort(scores_N, kind="stable")[::-1]
        place_P = np.flatnonzero(labels_N[order_N])
        falling_N = -scores_N[order_N]
        end_P = np.searchsorted(falling_N, falling_N[place_P], side="right") - 1
        return cls(order_N, place_P, end_P, np.searchsorted(place_P, end_P, side="right") - 1)

    def average_precision(self, weights_NB: np.ndarray) -> np.ndarray:
        """Average precision (B,) of scenes with weights (N, B); NaN without positives."""
        ranked_NB = weights_NB[self.order_N]
        weights_PB = ranked_NB[self.place_P]
        hits_PB = weights_PB.cumsum(0)[self.last_P]
        above_PB = ranked_NB.cumsum(0)[self.end_P]
        total_B = weights_PB.sum(0)
        sums_B = (weights_PB * hits_PB / np.maximum(above_PB, 1)).sum(0)
        return np.where(total_B > 0, sums_B / np.maximum(total_B, 1), np.nan)


def _draws(groups: int, resamples: int, most: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, (G, B), for at most `most` resamples at a time."""
    if not groups:
        raise ValueError("no scenes: there is nothing to draw an interval from")
    random = np.random.default_rng(seed)
    for start in range(0, resamples, most):
        drawn_BG = random.integers(groups, size=(min(most, resamples - start), groups))
        drawn_BG += groups * np.arange(len(drawn_BG))[:, None]
        counts = np.bincount(drawn_BG.ravel(), minlength=drawn_BG.size)
        yield np.ascontiguousarray(counts.reshape(-1, groups).T, np.float64)


def _interval(values_R: np.ndarray, confidence: float) -> Interval:
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return UNKNOWN
    low, high = np.quantile(values_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
