"""Whitening: features minus their mean, on their principal axes, each divided by about its standard deviation (ours).

    >>> moments = Moments(dim=512)
    >>> for features_nD in films:
    ...     moments.add(features_nD)
    >>> whitening = Whitening.fit(moments, num_directions=256)
    >>> whitening.apply(features_nD)                        float64 (n, 256)

Most of the variance of CLIP features lies in a few directions that all images share, and an inner product sees little
else. After whitening all directions count alike.

Moments are summed without rounding, so they are the same on every device, with any number of threads. The principal
axes come from LAPACK: on another processor their last bits may differ.

Shapes: `n` samples of `D` features; `K` principal axes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A block's features are rounded to integers of at most 2**22, so a sum of 512 of their products is at most 2**53,
# which float64 holds exactly in whatever order a library adds.
FEATURE_BITS = 22
BLOCK_SIZE = 512


class Moments:
    """Number, mean and covariance of samples, which are added batch by batch, in float64.

    In each block of 512 samples, features are rounded to 2**-22 of the largest absolute value of their column. This
    keeps float16 features down to 2**-11 of that value as they are. The result depends on the order in which samples
    are added and on where they are split, but on nothing else.

    Args:
        dim: features of a sample.
    """

    def __init__(self, dim: int):
        self.count = 0
        # Sums are taken relative to the first sample: a large common mean then costs no precision.
        self._origin_D: Tensor | None = None
        self._sums_D = torch.zeros(dim, dtype=torch.float64)
        self._products_DD = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def dim(self) -> int:
        """Features of a sample."""
        return len(self._sums_D)

    def add(self, features_nD: np.ndarray | Tensor) -> None:
        """Count in samples, on the device that they are on.

        Raises:
            ValueError: not (n, dim), or a feature is infinite or not a number.
        """
        if not isinstance(features_nD, Tensor):
            features_nD = torch.from_numpy(np.array(features_nD, dtype=np.float64))
        features_nD = features_nD.detach().double()
        if features_nD.ndim != 2 or features_nD.shape[1] != self.dim:
            raise ValueError(f"samples of shape {tuple(features_nD.shape)}; expected (n, {self.dim})")
        if not features_nD.isfinite().all():
            raise ValueError("a feature is infinite or not a number; leave its sample out")
        if not len(features_nD):
            return
        if self._origin_D is None:
            self._origin_D = features_nD[0].cpu()
        for block_nD in (features_nD - self._origin_D.to(features_nD.device)).split(BLOCK_SIZE):
            steps_D = torch.ldexp(torch.ones_like(block_nD[0]), torch.frexp(block_nD.abs().amax(0))[1] - FEATURE_BITS)
            integers_nD = (block_nD / steps_D).round()
            products_DD, sums_D, steps_D = (integers_nD.T @ integers_nD).cpu(), integers_nD.sum(0).cpu(), steps_D.cpu()
            self._products_DD += products_DD * (steps_D[:, None] * steps_D)
            self._sums_D += sums_D * steps_D
            self.count += len(block_nD)

    def mean(self) -> np.ndarray:
        """Mean of all samples, float64 (D,).

        Raises:
            ValueError: there are none.
        """
        if self._origin_D is None:
            raise ValueError("no samples were added: there is no mean")
        return (self._origin_D + self._sums_D / self.count).numpy()

    def covariance(self) -> np.ndarray:
        """Covariance of all samples with `count - 1` in the denominator, float64 (D, D).

        Raises:
            ValueError: there are fewer than two.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} samples: a covariance needs at least two")
        outer_DD = self._sums_D[:, None] * self._sums_D / self.count
        return ((self._products_DD - outer_DD) / (self.count - 1)).numpy()


@dataclass(frozen=True)
class Whitening:
    """A linear map after which features have mean 0, variances of at most 1, and no covariances.

    Attributes:
        mean_D: what is subtracted, float64.
        axes_DK: principal axes, the one with the largest variance first, each divided by the root of its variance and
            `shrinkage` of the mean variance; float64. The largest entry of each is positive.
    """

    mean_D: np.ndarray
    axes_DK: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, num_directions: int | None = None, shrinkage: float = 0.02) -> "Whitening":
        """The whitening of samples like those whose moments were taken.

        Axes without variance are left out: constant features, and all but `n - 1` axes of `n` samples. There may
        hence be fewer than `num_directions`.

        Args:
            moments: of the samples.
            num_directions: axes to keep, those with the largest variances; all by default.
            shrinkage: share of the mean variance of all axes (those that have any) that is added to each variance.
                It keeps axes that are mostly noise from counting as much as the others; 0 is plain PCA whitening.

        Raises:
            ValueError: fewer than two samples, or all are equal; `num_directions` or `shrinkage` is out of range.
        """
        if num_directions is not None and num_directions < 1:
            raise ValueError(f"num_directions={num_directions} must be at least 1")
        if not 0 <= shrinkage < np.inf:
            raise ValueError(f"shrinkage={shrinkage} must be at least 0, and finite")
        variances_D, axes_DD = _eigh(moments.covariance())
        smallest = variances_D[0] * moments.dim * np.finfo(np.float64).eps  # what numpy's matrix_rank takes for zero
        rank = int((variances_D > max(smallest, 0)).sum())
        if rank == 0:
            raise ValueError(f"all {moments.count} samples are equal: there is no direction to whiten")
        K = min(rank, num_directions or rank)
        axes_DK, variances_K = axes_DD[:, :K], variances_D[:K]
        largest_K = np.take_along_axis(axes_DK, np.abs(axes_DK).argmax(0)[None], 0)[0]
        axes_DK = axes_DK * np.sign(largest_K) / np.sqrt(variances_K + shrinkage * variances_D[:rank].mean())
        return cls(moments.mean(), np.ascontiguousarray(axes_DK))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Whitened features, float64 (..., K), of features (..., D)."""
        return (np.asarray(features, np.float64) - self.mean_D) @ self.axes_DK


def _eigh(covariance_DD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors as columns, by one thread: more threads change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values_D, vectors_DD = torch.linalg.eigh(torch.from_numpy(covariance_DD))
    finally:
        torch.set_num_threads(threads)
    return values_D.flip(0).numpy(), vectors_DD.flip(1).numpy()
