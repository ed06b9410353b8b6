"""Scene pairs of two films in exact arithmetic: the same on every device, in any batch, with any number of threads.

Every number that is summed below is an integer times a power of two or a film's scale, and small enough for float64 to
add and multiply without rounding, in any order. Operations on single numbers may round, because every device rounds
them alike. Hence equal shots have equal scores to the last bit, and ties are settled by place, not by chance.

Shapes: `n` shots and `D` columns of a film; `P` and `Q` windows of two films; `K` film pairs of a batch.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WINDOW = 9  # shots of a scene [supp. 1.1b]

# Shot embeddings are rounded to 16-bit integers (ours; the paper does not discuss arithmetic). A window sums 9 of them,
# below 2**19; an inner product of D window sums is below D * 2**38, which float64 holds up to D = 2**15.
LARGEST = 2**15 - 1
FEATURE_BITS = 20
Embed = Callable[[Tensor], Tensor]  # maps float64 features (n, D) of a film's shots to the mining space, exactly


class ScenePair(NamedTuple):
    """Nine shots of one film and nine of another; `score` is the mean inner product of their shot embeddings."""

    first_shot_a: int
    first_shot_b: int
    score: float


@dataclass(frozen=True)
class FilmWindows:
    """All windows of nine neighboring shots of a film, stride 1.

    Attributes:
        num_shots: number of shots of the film.
        sums_PD: int32, each window's sum of its shots' rounded embeddings.
        usable_P: whether every shot of the window has a keyframe.
        scale: what one unit of the rounded embeddings is worth.
    """

    num_shots: int
    sums_PD: Tensor
    usable_P: Tensor
    scale: float


def num_scene_pairs(num_shots_a: int, num_shots_b: int) -> int:
    """How many scene pairs a film pair gives: half of the scenes that fit into the shorter film, at least one.

    The paper takes the "top 50 %" [supp. 1.1b] but does not say of what. This reading gives its number of pairs.
    """
    return max(1, min(num_shots_a // WINDOW, num_shots_b // WINDOW) // 2)


def exact_embedder(model: torch.nn.Module) -> Embed:
    """The `shot_embeddings` of a M2SMovieSimilarityModel, changed so that they do not depend on device or threads.

    Weights and features are rounded to multiples of powers of two. They share 52 bits, so no sum of the D products and
    a bias is ever rounded, and ReLU rounds nothing. Features are rounded to 2**-20 of the largest one and, with 512
    columns, weights to 2**-23 of the largest one. The model is changed in place.

    Raises:
        ValueError: its weights are not finite, or its activation rounds.
    """
    if model.config.activation not in ("relu", "none"):
        raise ValueError(f"activation={model.config.activation!r} rounds; scenes are mined exactly with relu or none")
    layer = model.double().eval().shot_projection
    largest = float(torch.stack([parameter.detach().abs().amax() for parameter in layer.parameters()]).amax())
    if not math.isfinite(largest):
        raise ValueError("the model holds weights that are not finite numbers; train it again")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(exact_weights(parameter, largest, layer.in_features))

    @torch.no_grad()
    def embed(features_nD: Tensor) -> Tensor:
        # The steps are never finer than for features up to 1, so that the bias, too, stays below 2**52 steps.
        exponent = max(0, math.frexp(float(features_nD.abs().amax()))[1])
        return model.shot_embeddings(_multiples(features_nD, exponent - FEATURE_BITS))

    return embed


def exact_weights(weights: Tensor, largest: float, in_features: int) -> Tensor:
    """Weights rounded so that `in_features` products add exactly; `largest` bounds their absolute values."""
    weight_bits = 52 - FEATURE_BITS - math.ceil(math.log2(in_features))
    return _multiples(weights, math.frexp(largest)[1] - weight_bits)


def exact_whitener(mean_D: Tensor, axes_DK: Tensor) -> Embed:
    """Features minus a mean, times a matrix; the result does not depend on device or threads.

    Shots without a keyframe give zeros. The difference is one operation on a single number. It is then rounded to
    2**-20 of the film's largest difference, so that no sum of D products with the matrix is ever rounded.

    Args:
        mean_D: float64, any values.
        axes_DK: float64, as `exact_weights` rounds it.
    """

    def embed(features_nD: Tensor) -> Tensor:
        centered_nD = (features_nD - mean_D) * _has_keyframe(features_nD)
        exponent = math.frexp(float(centered_nD.abs().amax()))[1]
        return _multiples(centered_nD, exponent - FEATURE_BITS) @ axes_DK

    return embed


def centered(embed: Embed, mean_H: Tensor) -> Embed:
    """Embeddings minus a fixed vector; zeros for shots without a keyframe.

    The mean of every window is then also reduced by this vector. The subtraction comes before `film_windows` rounds to
    integers and is one operation on a single number, so all sums stay exact.
    """

    def embed_centered(features_nD: Tensor) -> Tensor:
        return (embed(features_nD) - mean_H) * _has_keyframe(features_nD)

    return embed_centered


def side_by_side(embeds: Sequence[Embed], factors: Sequence[float]) -> Embed:
    """Concatenated embeddings of several spaces, each times a factor; the factor's square multiplies its scores."""

    def embed(features_nD: Tensor) -> Tensor:
        return torch.cat([part(features_nD) * factor for part, factor in zip(embeds, factors, strict=True)], 1)

    return embed


def film_windows(features_nD: Tensor, embed: Embed | None = None) -> FilmWindows:
    """The windows of a film of at least nine shots.

    Args:
        features_nD: shot features as stored, on the device to work on; rows of zeros are shots without a keyframe.
        embed: maps features to the mining space, exactly; without it, the features are used as they are.
    """
    features_nD = features_nD.double()
    keyframes_n = _has_keyframe(features_nD)[:, 0]
    embeddings_nD = embed(features_nD) if embed else features_nD
    largest = float(embeddings_nD.abs().amax()) or 1.0
    rounded_nD = (embeddings_nD * (LARGEST / largest)).round().long()
    usable_P = _window_sums(keyframes_n.long()[:, None])[:, 0] == WINDOW
    return FilmWindows(len(features_nD), _window_sums(rounded_nD).int(), usable_P, largest / LARGEST)


def mine_scene_pairs(film_pairs: Sequence[tuple[FilmWindows, FilmWindows]]) -> list[list[ScenePair]]:
    """The best scene pairs of each film pair, none overlapping another in either film, highest score first [3.2].

    The pair of windows with the highest score is taken, pairs that overlap it in either film are ruled out, and so on.
    Among equal scores the smallest (row, column) comes first. Takes `8 * K * P * Q` bytes, with P and Q of the longest
    films.
    """
    P, Q = (max(len(pair[side].sums_PD) for pair in film_pairs) for side in (0, 1))
    device = film_pairs[0][0].sums_PD.device
    scores_KPQ = torch.full((len(film_pairs), P, Q), -torch.inf, dtype=torch.float64, device=device)
    for scores_PQ, (a, b) in zip(scores_KPQ, film_pairs, strict=True):
        scores_PQ = scores_PQ[: len(a.sums_PD), : len(b.sums_PD)]
        torch.mm(a.sums_PD.double(), b.sums_PD.double().T, out=scores_PQ)
        scores_PQ[~a.usable_P] = -torch.inf
        scores_PQ[:, ~b.usable_P] = -torch.inf
    counts = [num_scene_pairs(a.num_shots, b.num_shots) for a, b in film_pairs]
    taken = take_best(scores_KPQ, max(counts))
    return [
        [
            ScenePair(int(row), int(column), _mean_product(score, a, b))
            for score, row, column in best[:count]
            if score > -math.inf
        ]
        for best, count, (a, b) in zip(taken, counts, film_pairs, strict=True)
    ]


def window_scores(a: FilmWindows, b: FilmWindows) -> Tensor:
    """Mean inner products of every usable window of one film with every usable window of another, float64."""
    products_PQ = a.sums_PD[a.usable_P].double() @ b.sums_PD[b.usable_P].double().T
    return products_PQ * (a.scale * b.scale / WINDOW**2)


def take_best(scores_KPQ: Tensor, steps: int) -> list[list[tuple[float, float, float]]]:
    """(score, row, column) of the highest scores, `steps` times, each ruling out the 17 rows and columns around it.

    The maximum of each row is kept. If its column is ruled out, it becomes an upper bound; the row is searched again
    only when its bound reaches the highest maximum that still holds.
    """
    rows = torch.arange(scores_KPQ.shape[1], device=scores_KPQ.device)
    columns = torch.arange(scores_KPQ.shape[2], device=scores_KPQ.device)
    best_KP, column_KP = scores_KPQ.max(2)  # the first of equal ones, as documented
    stale_KP = torch.zeros_like(best_KP, dtype=torch.bool)
    ruled_out_KQ = torch.zeros_like(scores_KPQ[:, 0], dtype=torch.bool)
    taken = []
    for _ in range(steps):
        holding_K1 = best_KP.masked_fill(stale_KP, -torch.inf).amax(1, keepdim=True)
        pair, row = (stale_KP & (best_KP >= holding_K1)).nonzero(as_tuple=True)
        if len(pair):
            again = scores_KPQ[pair, row].masked_fill_(ruled_out_KQ[pair], -torch.inf)
            best_KP[pair, row], column_KP[pair, row] = again.max(1)
            stale_KP[pair, row] = False
        score_K1, row_K1 = best_KP.max(1, keepdim=True)
        column_K1 = column_KP.gather(1, row_K1)
        taken.append(torch.cat([score_K1, row_K1.double(), column_K1.double()], 1))
        best_KP.masked_fill_((rows - row_K1).abs() < WINDOW, -torch.inf)
        ruled_out_KQ |= (columns - column_K1).abs() < WINDOW
        stale_KP |= (column_KP - column_K1).abs() < WINDOW
        stale_KP &= best_KP > -torch.inf  # a row that is ruled out stays so
    return torch.stack(taken, 1).tolist()


def random_scene_pairs(a: FilmWindows, b: FilmWindows, seed: str) -> list[ScenePair]:
    """As many scene pairs as mining would take, also without overlap, drawn uniformly: the baseline (ours).

    Args:
        seed: any text; what is drawn depends on it and on which windows are usable.
    """
    generator = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    free = [film.usable_P.cpu().numpy().copy() for film in (a, b)]
    drawn: list[ScenePair] = []
    while len(drawn) < num_scene_pairs(a.num_shots, b.num_shots) and free[0].any() and free[1].any():
        row, column = (int(generator.choice(np.flatnonzero(windows))) for windows in free)
        for windows, first in zip(free, (row, column), strict=True):
            windows[max(0, first - WINDOW + 1) : first + WINDOW] = False
        product = float(a.sums_PD[row].double() @ b.sums_PD[column].double())
        drawn.append(ScenePair(row, column, _mean_product(product, a, b)))
    return drawn


def _mean_product(product: float, a: FilmWindows, b: FilmWindows) -> float:
    """Mean inner product of the shots of two windows, from the integer product of their sums: the paper's B [3.1]."""
    return product * a.scale * b.scale / WINDOW**2


def _has_keyframe(features_nD: Tensor) -> Tensor:
    """Bool (n, 1): False for rows of zeros."""
    return (features_nD != 0).any(1, keepdim=True)


def _multiples(values: Tensor, exponent: int) -> Tensor:
    """Values rounded to multiples of `2**exponent`."""
    return (values * 2.0**-exponent).round() * 2.0**exponent


def _window_sums(rows_nD: Tensor) -> Tensor:
    """Sums of nine neighboring rows of integers."""
    sums_nD = torch.nn.functional.pad(rows_nD.cumsum(0), (0, 0, 1, 0))
    return sums_nD[WINDOW:] - sums_nD[:-WINDOW]
