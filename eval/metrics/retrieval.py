"""How well embeddings find scenes with the same label in other films.

    >>> hits = precision_at_k(embeddings_ND, places_N, films_N, k=(1, 5))
    >>> hits[1].mean(), clustered_standard_error(hits[1], films_N)
    (0.61, 0.02)

Every scene is a query against all others; `eval.metrics.neighbors` separates queries and gallery. Scenes of the query's
own group (film) are left out because they look similar whatever they show. All functions return one value per query, so
standard errors can be clustered by film.

Shapes: N scenes, D dimensions, B scenes of a block, k neighbors.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from eval.metrics.neighbors import Metric, RetrievalError, checked_squares, gallery_chance, gallery_precision_at_k


def precision_at_k(
    embeddings_ND: np.ndarray,
    labels_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray,
    k: Sequence[int] = (1, 5),
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> dict[int, np.ndarray]:
    """For each query, the share of its `k` nearest scenes of other groups that have its label.

    Ties are in order of the scenes. If other groups have fewer than `k` scenes, all of them are neighbors.

    Args:
        labels_N: label of each scene, such as its place.
        groups_N: group of each scene, such as its film.
        block_size: queries that are compared at a time, to limit memory.

    Returns:
        For each `k`, shares (N,).

    Raises:
        RetrievalError: all scenes are in one group; an embedding is infinite, NaN or (for cosine) zero; lengths differ.
        ValueError: a `k` below 1, or an unknown metric.
    """
    _check_groups(groups_N, {"embeddings": embeddings_ND, "labels": labels_N})
    return gallery_precision_at_k(
        embeddings_ND, labels_N, embeddings_ND, labels_N, k, metric, groups_N, groups_N, block_size
    )


def average_precision(
    embeddings_ND: np.ndarray,
    labels_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray,
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> np.ndarray:
    """Average precision (N,) of each query's ranking of all scenes of other groups; its mean is the mAP.

    Ties are in order of the scenes. If no other group has the query's label, its value is 0, as in scikit-learn.

    Raises:
        RetrievalError, ValueError: as `precision_at_k`.
    """
    _check_groups(groups_N, {"embeddings": embeddings_ND, "labels": labels_N})
    points_ND = np.asarray(embeddings_ND, np.float64)
    checked_squares(points_ND, metric)
    if metric == "cosine":
        points_ND = points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)
    labels_N, groups_N = _numbered(labels_N), _numbered(groups_N)
    found = []
    for start in range(0, len(points_ND), block_size):
        block = slice(start, start + block_size)
        distance_BN = -points_ND[block] @ points_ND.T if metric == "cosine" else cdist(points_ND[block], points_ND)
        # Rounding to float32 makes distances equal that differ by rounding errors only.
        distance_BN = distance_BN.astype(np.float32)
        other_BN = groups_N[block, None] != groups_N
        distance_BN[~other_BN] = np.inf
        match_BN = (labels_N[block, None] == labels_N) & other_BN
        match_BN = np.take_along_axis(match_BN, distance_BN.argsort(1, kind="stable"), 1)
        precision_BN = match_BN.cumsum(1) / np.arange(1, len(points_ND) + 1)
        found.append((precision_BN * match_BN).sum(1) / np.maximum(match_BN.sum(1), 1))
    return np.concatenate(found)


def chance(labels_N: Sequence | np.ndarray, groups_N: Sequence | np.ndarray) -> np.ndarray:
    """Precision (N,) of a random neighbor: the share of scenes of other groups that have the query's label.

    Raises:
        RetrievalError: all scenes are in one group, or lengths differ.
    """
    _check_groups(groups_N, {"labels": labels_N})
    return gallery_chance(labels_N, labels_N, groups_N, groups_N)


def clustered_standard_error(values_N: np.ndarray, groups_N: Sequence | np.ndarray) -> float:
    """Standard error of the mean of values that are independent between groups, but not within them.

    With one value per group, it is the usual standard error.

    Raises:
        RetrievalError: fewer than two groups, or lengths differ.
    """
    _check_groups(groups_N, {"values": values_N})
    values_N, groups_N = np.asarray(values_N, np.float64), _numbered(groups_N)
    return standard_error_of_sums(np.bincount(groups_N, values_N), np.bincount(groups_N))[1]


def standard_error_of_sums(sums_G: np.ndarray, counts_G: np.ndarray) -> tuple[float, float]:
    """Mean of all values, and its standard error clustered by group, from each group's sum and number of values."""
    groups, total = len(sums_G), counts_G.sum()
    mean = sums_G.sum() / total
    deviations_G = sums_G - mean * counts_G
    return float(mean), float(np.sqrt(groups / (groups - 1) * (deviations_G**2).sum()) / total)


def _numbered(values_N: Sequence | np.ndarray) -> np.ndarray:
    """The values replaced by numbers from 0 on, equal ones by the same number."""
    return np.unique(np.asarray(values_N), return_inverse=True)[1].reshape(-1)


def _check_groups(groups_N: Sequence | np.ndarray, others: dict[str, Sequence | np.ndarray]) -> None:
    for name, others_N in others.items():
        if len(others_N) != len(groups_N):
            raise RetrievalError(f"{len(others_N)} {name}, but {len(groups_N)} groups")
    if len(np.unique(np.asarray(groups_N))) < 2:
        raise RetrievalError(
            f"all {len(groups_N)} scenes are of one film (group): there is no other film to find scenes in"
        )
