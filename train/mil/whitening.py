"""Train as if the features were whitened, with a network that afterwards reads raw features (ours).

Most of the variance of CLIP features lies in a few directions that all shots share; what distinguishes places is spread
over many low-variance directions. Gradient descent changes a linear layer first in the few shared directions, so with
few films the layer stays near its initialization. Here, the layer's weight is the product of a trained matrix and the
inverse square root of the features' second moments, as if the features were whitened. The product is then folded into
the weight, so the saved network is exactly the paper's. Whitening only changes the initialization and the conditioning
of the optimization, and removes directions with nearly no variance.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from train.mil.pairs import FilmReader

# Directions with a smaller share of the second moments are left out: scaling them up would add noise.
SMALLEST_SHARE = 1e-5
MOST_FILMS = 1000  # films that the moments are computed from, at most


class WhitenedWeight(nn.Module):
    """The weight of a linear layer, `trained_HD @ whitening_DD`."""

    def __init__(self, whitening_DD: torch.Tensor):
        super().__init__()
        self.register_buffer("whitening_DD", whitening_DD)

    def forward(self, trained_HD: torch.Tensor) -> torch.Tensor:
        return trained_HD @ self.whitening_DD


def whiten(layer: nn.Linear, reader: FilmReader, seed: list[int]) -> None:
    """Let a layer train as if its input, features of shots, were whitened; training starts from its current weight.

    Raises:
        ValueError: no shot has features.
    """
    films = np.random.default_rng(seed).permutation(len(reader.movie_ids))[:MOST_FILMS]
    whitening_DD = inverse_root(second_moments(reader, np.sort(films)))
    parametrize.register_parametrization(layer, "weight", WhitenedWeight(whitening_DD.to(layer.weight)))


def unwhiten(layer: nn.Linear) -> None:
    """Replace the parametrization by the product as the layer's weight."""
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def second_moments(reader: FilmReader, films: np.ndarray) -> torch.Tensor:
    """Sum of the outer products of all shots' features, float64 (D, D), computed on the CPU."""
    dim = reader.features.dim
    moments_DD = torch.zeros(dim, dim, dtype=torch.float64)
    for film in films:
        shots_TD = reader.read(np.array([film]))[0].double().cpu()
        moments_DD += shots_TD.T @ shots_TD
    return moments_DD


def inverse_root(moments_DD: torch.Tensor) -> torch.Tensor:
    """Symmetric inverse square root of second moments (D, D), scaled so that features keep their mean square.

    Directions with nearly no variance are mapped to zero.

    Raises:
        ValueError: all moments are zero.
    """
    if not moments_DD.any():
        raise ValueError("whiten: no shot has features, so their statistics are unknown")
    shares_D, directions_DD = torch.linalg.eigh(moments_DD / moments_DD.trace())
    kept = shares_D > SMALLEST_SHARE
    return directions_DD[:, kept] / (shares_D[kept] * kept.sum()).sqrt() @ directions_DD[:, kept].T
