"""Nearest neighbors of queries in a gallery: exact search without an index, precision, chance.

    >>> hits = gallery_precision_at_k(val_QD, val_places_Q, train_GD, train_places_G, k=(1, 5, 10))
    >>> hits[1].mean(), class_means(hits[1], val_places_Q)["airport"]
    (0.482, 0.25)

The paper's place retrieval (section 4.3.1, table 2) takes validation scenes as queries, training scenes as gallery,
Euclidean distance, and the mean over all queries. LVU's validation and training scenes share films. If the films are
given as groups, no query finds a scene of its own film; the paper does not exclude them.

Shapes: Q queries, G scenes of the gallery, D dimensions, B queries of a block, C gallery scenes of a block,
k neighbors, L labels, P pairs of a query and a gallery scene.
"""

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from modeling_m2s.errors_m2s import UserError

Metric = Literal["cosine", "euclidean"]
Values = Sequence | np.ndarray

# A small first block gives every query a bound; the larger blocks after it fit the processor's cache.
FIRST_BLOCK, BLOCK = 256, 2048
MOST_PAIRS = 4_000_000  # in memory; with more, e.g. if all scenes are equally near, exact distances decide early
ROUNDING = 2.0**-24  # largest relative error of a float32 operation


class RetrievalError(UserError, ValueError):
    """Retrieval cannot be measured on these scenes; the message says which and why."""


def nearest_neighbors(
    queries_QD: np.ndarray,
    gallery_GD: np.ndarray,
    k: int,
    metric: Metric = "euclidean",
    query_groups_Q: Values | None = None,
    gallery_groups_G: Values | None = None,
    block_size: int = 1024,
) -> np.ndarray:
    """Indices in the gallery of each query's `k` nearest scenes.

    The result is exact. Matrix products in float32 rule out scenes that no rounding error could bring among the
    nearest. Float64 distances of the others, rounded to float32, decide. Ties are in order of the gallery.

    Args:
        query_groups_Q, gallery_groups_G: groups (films); a query does not find scenes of its own group. Give both or
            neither.
        block_size: queries that are compared at a time, to limit memory.

    Returns:
        int64 (Q, k), the nearest first; padded with -1 if other groups have fewer than `k` scenes.

    Raises:
        RetrievalError: an embedding is infinite, NaN or (for cosine) zero; sizes differ; a query has no scene to find.
        ValueError: a `k` below 1, or an unknown metric.
    """
    if k < 1:
        raise ValueError(f"k={k}: numbers of neighbors must be at least 1")
    queries_QD, gallery_GD = np.asarray(queries_QD), np.asarray(gallery_GD)
    squares_Q = checked_squares(queries_QD, metric, "query")
    squares_G = checked_squares(gallery_GD, metric, "gallery scene")
    if queries_QD.shape[1] != gallery_GD.shape[1]:
        raise RetrievalError(f"queries have {queries_QD.shape[1]} dimensions, but the gallery {gallery_GD.shape[1]}")
    groups_Q, groups_G = _numbered_groups(len(queries_QD), len(gallery_GD), query_groups_Q, gallery_groups_G)
    _others(groups_Q, groups_G)
    # Twice the largest error of a float32 score, plus the rounding of distances to float32.
    slack_Q = (queries_QD.shape[1] + 8) * ROUNDING * (np.sqrt(squares_Q) + np.sqrt(squares_G.max())) ** 2
    slack_Q += np.finfo(np.float32).tiny
    found_Qk = np.full((len(queries_QD), k), -1)
    size = max(1, min(block_size, MOST_PAIRS // (4 * k)))
    for start in range(0, len(queries_QD), size):
        block = slice(start, start + size)
        groups_B = None if query_groups_Q is None else groups_Q[block]
        pairs = _search(queries_QD[block], gallery_GD, k, metric, groups_B, groups_G, slack_Q[block], squares_G / 2)
        found_Qk[start + pairs.query_P, _ranks(pairs.query_P)] = pairs.place_P
    return found_Qk


def gallery_precision_at_k(
    queries_QD: np.ndarray,
    query_labels_Q: Values,
    gallery_GD: np.ndarray,
    gallery_labels_G: Values,
    k: Sequence[int] = (1, 5, 10),
    metric: Metric = "euclidean",
    query_groups_Q: Values | None = None,
    gallery_groups_G: Values | None = None,
    block_size: int = 1024,
) -> dict[int, np.ndarray]:
    """For each query, the share of its `k` nearest gallery scenes that have its label.

    If a query can find fewer than `k` scenes, all of them are its neighbors.

    Args:
        query_groups_Q, gallery_groups_G, block_size: as for `nearest_neighbors`.

    Returns:
        For each `k`, shares (Q,). Their mean is the paper's "all queries"; `class_means` gives its other columns.

    Raises:
        RetrievalError, ValueError: as `nearest_neighbors`, or numbers of labels that differ.
    """
    if not k or min(k) < 1:
        raise ValueError(f"k={tuple(k)}: numbers of neighbors must be at least 1")
    labels_Q, labels_G = _jointly_numbered(query_labels_Q, gallery_labels_G)
    _check_lengths(len(queries_QD), len(labels_Q), "queries", "labels")
    _check_lengths(len(gallery_GD), len(labels_G), "gallery scenes", "labels")
    neighbors_Qk = nearest_neighbors(
        queries_QD, gallery_GD, max(k), metric, query_groups_Q, gallery_groups_G, block_size
    )
    hits_Qk = ((labels_G[neighbors_Qk] == labels_Q[:, None]) & (neighbors_Qk >= 0)).cumsum(1)
    there_Q = (neighbors_Qk >= 0).sum(1)
    shares = {}
    for each in k:
        read_Q = np.minimum(each, there_Q)
        shares[each] = np.take_along_axis(hits_Qk, read_Q[:, None] - 1, 1)[:, 0] / read_Q
    return shares


def gallery_chance(
    query_labels_Q: Values,
    gallery_labels_G: Values,
    query_groups_Q: Values | None = None,
    gallery_groups_G: Values | None = None,
) -> np.ndarray:
    """Precision (Q,) of a random neighbor: the share of gallery scenes of other groups that have the query's label.

    Raises:
        RetrievalError: a query has no scene to find, or numbers of labels and groups differ.
    """
    labels_Q, labels_G = _jointly_numbered(query_labels_Q, gallery_labels_G)
    groups_Q, groups_G = _numbered_groups(len(labels_Q), len(labels_G), query_groups_Q, gallery_groups_G)
    others_Q = _others(groups_Q, groups_G)
    labels, groups = (int(max(a.max(), b.max())) + 1 for a, b in ((labels_Q, labels_G), (groups_Q, groups_G)))
    table = np.zeros((labels, groups), np.int64)
    np.add.at(table, (labels_G, groups_G), 1)
    return (table.sum(1)[labels_Q] - table[labels_Q, groups_Q]) / others_Q


def class_means(values_Q: np.ndarray, labels_Q: Values) -> dict[Hashable, float]:
    """Mean of the values of each label's queries; for a classifier's hits, this is the recall by class."""
    labels, labels_Q = np.unique(np.asarray(labels_Q), return_inverse=True)
    return dict(zip(labels.tolist(), (np.bincount(labels_Q, values_Q) / np.bincount(labels_Q)).tolist(), strict=True))


def checked_squares(embeddings_ND: np.ndarray, metric: Metric, name: str = "scene") -> np.ndarray:
    """Squared lengths, float32 (N,), of the embeddings after checking them; 1 for cosine, which compares directions.

    Raises:
        RetrievalError: not a matrix, or an embedding is infinite, NaN, beyond float32 or (for cosine) zero.
        ValueError: an unknown metric.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric={metric!r} must be cosine or euclidean")
    if embeddings_ND.ndim != 2:
        raise RetrievalError(f"embeddings of shape {embeddings_ND.shape}; expected (scenes, dimensions)")
    squares_N = np.empty(len(embeddings_ND), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(embeddings_ND), BLOCK):
            block_CD = np.asarray(embeddings_ND[start : start + BLOCK], np.float32)
            squares_N[start : start + BLOCK] = np.einsum("cd,cd->c", block_CD, block_CD)
    if not np.isfinite(squares_N).all():
        bad_N = ~np.isfinite(squares_N)
        raise RetrievalError(
            f"{bad_N.sum()} embeddings hold NaN, infinite or huge values, that of {name} {bad_N.argmax()} first; leave "
            "these scenes out, or embed them again"
        )
    if metric == "euclidean":
        return squares_N
    for number in np.flatnonzero(squares_N == 0):  # zero, or too short for float32
        if not embeddings_ND[number].any():
            raise RetrievalError(f"the embedding of {name} {number} is zero: it has no cosine; leave this scene out")
    return np.ones_like(squares_N)


class _Pairs(NamedTuple):
    """Pairs of a query and a gallery scene that may be among its nearest, with a score: higher is nearer."""

    query_P: np.ndarray
    place_P: np.ndarray
    score_P: np.ndarray

    def take(self, chosen: np.ndarray) -> "_Pairs":
        return _Pairs(*(values_P[chosen] for values_P in self))


def _search(
    queries_BD: np.ndarray,
    gallery_GD: np.ndarray,
    k: int,
    metric: Metric,
    groups_B: np.ndarray | None,
    groups_G: np.ndarray,
    slack_B: np.ndarray,
    half_squares_G: np.ndarray,
) -> _Pairs:
    """The `k` nearest scenes of each query, in order. A score is (|q|² - |q - g|²) / 2, with float32's error."""
    queries_DB = _float32(queries_BD, metric).T
    floor_B = np.full(len(queries_BD), np.finfo(np.float32).min)
    found, enough = _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)), 0
    for start, end in pairwise(_bounds(len(gallery_GD))):
        scores_CB = _float32(gallery_GD[start:end], metric) @ queries_DB
        scores_CB -= half_squares_G[start:end, None]
        if groups_B is not None:
            scores_CB[groups_G[start:end, None] == groups_B] = -np.inf
        near_P = np.flatnonzero(scores_CB >= floor_B)
        place_P, query_P = np.divmod(near_P, len(queries_BD))
        near = _Pairs(query_P, start + place_P, scores_CB.ravel()[near_P])
        found = _Pairs(*(np.concatenate(both) for both in zip(found, near, strict=True)))
        if len(found.query_P) > enough:
            found = _pruned(found, k, floor_B, slack_B)
            if len(found.query_P) > MOST_PAIRS:
                found = _nearest(found, queries_BD, gallery_GD, k, metric)
            enough = 2 * len(found.query_P)
    return _nearest(_pruned(found, k, floor_B, slack_B), queries_BD, gallery_GD, k, metric)


def _bounds(count: int) -> list[int]:
    return [0, *range(min(FIRST_BLOCK, count), count, BLOCK), count]


def _float32(points_CD: np.ndarray, metric: Metric) -> np.ndarray:
    """The points in float32, scaled to length 1 for cosine."""
    if metric == "cosine":
        points_CD = points_CD.astype(np.float64)
        points_CD /= np.linalg.norm(points_CD, axis=1, keepdims=True)
    return np.asarray(points_CD, np.float32)


def _pruned(pairs: _Pairs, k: int, floor_B: np.ndarray, slack_B: np.ndarray) -> _Pairs:
    """The pairs that may still be among the `k` nearest; `floor_B`, their lowest possible score, is raised in place."""
    pairs = pairs.take(np.lexsort((-pairs.score_P, pairs.query_P)))
    kth = np.flatnonzero(_ranks(pairs.query_P) == k - 1)
    query_K = pairs.query_P[kth]
    floor_B[query_K] = np.maximum(floor_B[query_K], pairs.score_P[kth] - slack_B[query_K])
    return pairs.take(pairs.score_P >= floor_B[pairs.query_P])


def _nearest(pairs: _Pairs, queries_BD: np.ndarray, gallery_GD: np.ndarray, k: int, metric: Metric) -> _Pairs:
    """The `k` nearest scenes of each query by exact distances, in order."""
    distance_P = np.empty(len(pairs.query_P), np.float32)
    size = max(1, 2**21 // queries_BD.shape[1])
    for start in range(0, len(distance_P), size):
        part = slice(start, start + size)
        a_PD = queries_BD[pairs.query_P[part]].astype(np.float64)
        b_PD = gallery_GD[pairs.place_P[part]].astype(np.float64)
        if metric == "euclidean":
            a_PD -= b_PD
            distance_P[part] = np.sqrt(np.einsum("pd,pd->p", a_PD, a_PD))
        else:
            lengths_P = np.linalg.norm(a_PD, axis=1) * np.linalg.norm(b_PD, axis=1)
            distance_P[part] = -np.einsum("pd,pd->p", a_PD, b_PD) / lengths_P
    pairs = pairs.take(np.lexsort((pairs.place_P, distance_P, pairs.query_P)))
    return pairs.take(_ranks(pairs.query_P) < k)


def _ranks(sorted_P: np.ndarray) -> np.ndarray:
    """Each element's index among the elements equal to it."""
    return np.arange(len(sorted_P)) - np.searchsorted(sorted_P, sorted_P)


def _jointly_numbered(values_Q: Values, values_G: Values) -> tuple[np.ndarray, np.ndarray]:
    """The values replaced by numbers from 0 on, equal ones by the same number."""
    values_Q, values_G = np.asarray(values_Q), np.asarray(values_G)
    numbers = np.unique(np.concatenate([values_Q, values_G]), return_inverse=True)[1].reshape(-1)
    return numbers[: len(values_Q)], numbers[len(values_Q) :]


def _numbered_groups(
    queries: int, scenes: int, groups_Q: Values | None, groups_G: Values | None
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of groups; without groups, all queries are in one group and all gallery scenes in another."""
    if (groups_Q is None) != (groups_G is None):
        raise RetrievalError("groups are needed for both queries and gallery, or for neither")
    if groups_Q is None or groups_G is None:
        return np.zeros(queries, np.int64), np.ones(scenes, np.int64)
    _check_lengths(queries, len(groups_Q), "queries", "groups")
    _check_lengths(scenes, len(groups_G), "gallery scenes", "groups")
    return _jointly_numbered(groups_Q, groups_G)


def _others(groups_Q: np.ndarray, groups_G: np.ndarray) -> np.ndarray:
    """Number of gallery scenes that each query can find."""
    if not len(groups_Q) or not len(groups_G):
        raise RetrievalError(f"{len(groups_Q)} queries and {len(groups_G)} gallery scenes: both are needed")
    others_Q = len(groups_G) - np.bincount(groups_G, minlength=groups_Q.max() + 1)[groups_Q]
    if not others_Q.all():
        raise RetrievalError(
            f"query {others_Q.argmin()}: all {len(groups_G)} gallery scenes are of its own film (group); add scenes of "
            "other films"
        )
    return others_Q


def _check_lengths(count: int, other: int, name: str, other_name: str) -> None:
    if count != other:
        raise RetrievalError(f"{count} {name}, but {other} {other_name}")
