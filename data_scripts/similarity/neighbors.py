"""The best neighbors of every film, from blocks of scores; shared by all sources of movie similarity."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass
class Neighbors:
    """Directed pairs of films, by film and rank: int indexes of the catalog, ranks from 1, float32 scores."""

    movie: np.ndarray
    similar: np.ndarray
    rank: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.movie)


def best_neighbors(
    blocks: Iterable[sparse.csr_array | np.ndarray], top_k: int, threshold: float | None = None
) -> Neighbors:
    """The `top_k` highest scores of every row, at least `threshold`; equal scores are in the order of their columns.

    Args:
        blocks: consecutive rows of the square matrix of scores. Films whose score is not positive are no neighbors.
            Scores are compared as float32, so that sums that differ by rounding alone are equal.
    """
    found, first_row = [], 0
    for block in blocks:
        row, column, score = _candidates(block, top_k)
        kept = score > 0 if threshold is None else (score > 0) & (score >= threshold)
        row, column, score = row[kept], column[kept], score[kept]
        order = np.lexsort((column, -score, row))
        row, column, score = row[order], column[order], score[order]
        rank = 1 + np.arange(len(row)) - np.searchsorted(row, row)
        best = rank <= top_k
        found.append((row[best] + first_row, column[best], rank[best], score[best]))
        first_row += block.shape[0]
    return Neighbors(*(np.concatenate(column) for column in zip(*found, strict=True)))


def weighted(blocks: Iterable[sparse.csr_array], weight: np.ndarray, lowest: float) -> Iterator[sparse.csr_array]:
    """Every column times its weight; scores below `lowest` before weighting become 0."""
    for block in blocks:
        scores = np.where(block.data >= lowest, block.data * weight[block.indices], 0)
        yield sparse.csr_array((scores, block.indices, block.indptr), shape=block.shape)


def _candidates(block: sparse.csr_array | np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and scores of each row's best, with all ties of the last one; they are not sorted yet."""
    if not sparse.issparse(block):
        block = block.astype(np.float32)
        last = min(top_k, block.shape[1])
        row, column = np.nonzero(block >= np.partition(block, -last, axis=1)[:, -last, None])
        return row, column, block[row, column]
    scores, length = block.data.astype(np.float32), np.diff(block.indptr)
    least = np.full(len(length), -np.inf, np.float32)
    for row in np.flatnonzero(length > top_k):
        least[row] = np.partition(scores[block.indptr[row] : block.indptr[row + 1]], -top_k)[-top_k]
    kept = np.flatnonzero(scores >= np.repeat(least, length))
    return np.repeat(np.arange(len(length)), length)[kept], block.indices[kept], scores[kept]
