"""How well embeddings find scenes of the same label in other films.

    >>> hits = precision_at_k(embeddings_ND, places_N, films_N, k=(1, 5))
    >>> hits[1].mean(), clustered_standard_error(hits[1], films_N)
    (0.61, 0.02)

Every scene is a query. Scenes of its own group (film) are left out: they look alike whatever they show. All functions
return one value a query, so that standard errors can be clustered by film.

Shapes: N scenes, D dimensions, B scenes of a block, k neighbors.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

Metric = Literal["cosine", "euclidean"]


class RetrievalError(ValueError):
    """Scenes on which retrieval cannot be measured; the message says which and why."""


def precision_at_k(
    embeddings_ND: np.ndarray,
    labels_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray,
    k: Sequence[int] = (1, 5),
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> dict[int, np.ndarray]:
    """Share of the `k` nearest scenes of other groups that have the query's label, for each query.

    Equally near scenes count in their order. A query with fewer than `k` scenes in other groups has all of them for
    neighbors.

    Args:
        labels_N: label of each scene, such as its place.
        groups_N: group of each scene, such as its film.
        block_size: queries that are compared at a time, for memory.

    Returns:
        For each `k`, shares (N,).

    Raises:
        RetrievalError: all scenes are of one group; an embedding is infinite, NaN or (for cosine) zero; lengths differ.
        ValueError: a `k` below 1, or an unknown metric.
    """
    if not k or min(k) < 1:
        raise ValueError(f"k={tuple(k)}: numbers of neighbors must be at least 1")
    found: dict[int, list[np.ndarray]] = {each: [] for each in k}
    for match_BN, others_B in _ranked(embeddings_ND, labels_N, groups_N, metric, block_size):
        hits_BN = match_BN.cumsum(1)
        for each in k:
            read_B = np.minimum(each, others_B)
            found[each].append(np.take_along_axis(hits_BN, read_B[:, None] - 1, 1)[:, 0] / read_B)
    return {each: np.concatenate(shares) for each, shares in found.items()}


def average_precision(
    embeddings_ND: np.ndarray,
    labels_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray,
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> np.ndarray:
    """Average precision of the ranking of all scenes of other groups, (N,); its mean is the mean average precision.

    Equally near scenes count in their order. A query whose label no other group has gets 0, as in scikit-learn.

    Raises:
        RetrievalError, ValueError: as `precision_at_k`.
    """
    found = []
    for match_BN, _ in _ranked(embeddings_ND, labels_N, groups_N, metric, block_size):
        precision_BN = match_BN.cumsum(1) / np.arange(1, match_BN.shape[1] + 1)
        found.append((precision_BN * match_BN).sum(1) / np.maximum(match_BN.sum(1), 1))
    return np.concatenate(found)


def chance(labels_N: Sequence | np.ndarray, groups_N: Sequence | np.ndarray) -> np.ndarray:
    """Share of the scenes of other groups that have the query's label, (N,): the precision of a random neighbor.

    Raises:
        RetrievalError: all scenes are of one group, or lengths differ.
    """
    labels_N, groups_N = _numbered(labels_N), _numbered(groups_N)
    _check_groups(labels_N, groups_N)
    table = np.zeros((labels_N.max() + 1, groups_N.max() + 1), np.int64)
    np.add.at(table, (labels_N, groups_N), 1)
    same_N = table.sum(1)[labels_N] - table[labels_N, groups_N]
    return same_N / (len(labels_N) - table.sum(0)[groups_N])


def clustered_standard_error(values_N: np.ndarray, groups_N: Sequence | np.ndarray) -> float:
    """Standard error of the mean of values that are independent between groups, but not within them.

    With one value a group it is the usual standard error.

    Raises:
        RetrievalError: fewer than two groups, or lengths differ.
    """
    values_N, groups_N = np.asarray(values_N, np.float64), _numbered(groups_N)
    _check_groups(values_N, groups_N)
    sums_G = np.bincount(groups_N, values_N - values_N.mean())
    groups = len(sums_G)
    return float(np.sqrt(groups / (groups - 1) * (sums_G**2).sum()) / len(values_N))


def _ranked(
    embeddings_ND: np.ndarray,
    labels_N: Sequence | np.ndarray,
    groups_N: Sequence | np.ndarray,
    metric: Metric,
    block_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For a block of queries: whether the scenes of other groups have their label, the nearest first, and how many.

    Rows are (B, N): after the scenes of other groups come False.
    """
    points_ND = _checked(embeddings_ND, metric)
    labels_N, groups_N = _numbered(labels_N), _numbered(groups_N)
    if len(points_ND) != len(labels_N):
        raise RetrievalError(f"{len(points_ND)} embeddings, but {len(labels_N)} labels")
    _check_groups(labels_N, groups_N)
    for start in range(0, len(points_ND), block_size):
        block = slice(start, start + block_size)
        distance_BN = -points_ND[block] @ points_ND.T if metric == "cosine" else cdist(points_ND[block], points_ND)
        # Compared as float32, so that distances that differ by rounding alone are equal.
        distance_BN = distance_BN.astype(np.float32)
        other_BN = groups_N[block, None] != groups_N
        distance_BN[~other_BN] = np.inf
        order_BN = distance_BN.argsort(1, kind="stable")
        match_BN = (labels_N[block, None] == labels_N) & other_BN
        yield np.take_along_axis(match_BN, order_BN, 1), other_BN.sum(1)


def _checked(embeddings_ND: np.ndarray, metric: Metric) -> np.ndarray:
    """Embeddings in float64, for cosine of length 1."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric={metric!r} must be cosine or euclidean")
    points_ND = np.asarray(embeddings_ND, np.float64)
    if points_ND.ndim != 2:
        raise RetrievalError(f"embeddings of shape {points_ND.shape}; expected (scenes, dimensions)")
    bad_N = ~np.isfinite(points_ND).all(1)
    if bad_N.any():
        raise RetrievalError(
            f"{bad_N.sum()} embeddings hold NaN or infinite values, that of scene {bad_N.argmax()} first"
        )
    if metric == "euclidean":
        return points_ND
    length_N = np.linalg.norm(points_ND, axis=1)
    if not length_N.all():
        raise RetrievalError(f"the embedding of scene {length_N.argmin()} is zero: it has no cosine")
    return points_ND / length_N[:, None]


def _numbered(values_N: Sequence | np.ndarray) -> np.ndarray:
    """Numbers from 0 on in place of any values."""
    return np.unique(np.asarray(values_N), return_inverse=True)[1].reshape(-1)


def _check_groups(labels_N: np.ndarray, groups_N: np.ndarray) -> None:
    if len(labels_N) != len(groups_N):
        raise RetrievalError(f"{len(labels_N)} labels or values, but {len(groups_N)} groups")
    if not len(groups_N) or groups_N.min() == groups_N.max():
        raise RetrievalError(
            f"all {len(groups_N)} scenes are of one film (group): there is no other film to find scenes in"
        )
