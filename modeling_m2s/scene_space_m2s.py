"""The space in which scenes are compared: their vectors as they are, centered, or whitened by an index's own scenes.

Vectors of an encoder have a large part in common, whatever the scenes show. A distance between them sees little else.
Centering subtracts the common part. Whitening also gives all directions the same weight; most of the variance lies in a
few, such as light and contrast.

Shapes: `N` scenes, `D` features, `K` axes.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .whitening_m2s import Moments, Whitening

Space = Literal["raw", "centered", "whitened"]
SPACES: tuple[Space, ...] = get_args(Space)


def shrinkage(num_scenes: int) -> float:
    """How much of the mean variance is added to that of each direction before whitening.

    Few scenes say little about the variances: without shrinkage, as many scenes as directions are all equally far from
    each other. In indexes of 27 to 440 scenes of a film world (seed 1; docs/films.md), 0.1 to 0.3 found most; in one of
    21 scenes of Big Buck Bunny, 1 and more did.
    """
    return 0.1 + 20 / num_scenes


@dataclass(frozen=True)
class SceneSpace:
    """A map of vectors into a space where their L2 distance says how unlike scenes are.

    In the raw space, vectors are left as they are: the paper's retrieval (§4.3.1). In the others they have length 1, so
    distances go from 0 (equal) over 1.41 (unrelated) to 2.

    Attributes:
        name: raw, centered or whitened.
        mean_D, axes_DK: mean that is subtracted and axes that vectors are put on; None where there is none.
    """

    name: Space
    mean_D: np.ndarray | None = None
    axes_DK: np.ndarray | None = None

    @classmethod
    def fit(cls, vectors_ND: np.ndarray, name: Space) -> "SceneSpace":
        """The space of these scenes.

        A single scene, or scenes that are all equal, have no statistics: their space is raw, whatever was asked for.

        Raises:
            ValueError: no such space, or a value is infinite or not a number.
        """
        if name not in SPACES:
            raise ValueError(f"space={name!r} is unknown; choose one of {', '.join(SPACES)}")
        if name == "raw" or not vectors_ND.any() or (vectors_ND == vectors_ND[0]).all():
            return cls("raw")
        moments = Moments(vectors_ND.shape[1])
        moments.add(vectors_ND)
        if name == "centered":
            return cls(name, moments.mean())
        whitening = Whitening.fit(moments, shrinkage=shrinkage(len(vectors_ND)))
        return cls(name, whitening.mean_D, whitening.axes_DK)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (..., D) in this space, float32 (..., D) or (..., K)."""
        if self.mean_D is None:
            return np.asarray(vectors, np.float32)
        points = np.asarray(vectors, np.float64) - self.mean_D
        if self.axes_DK is not None:
            points = points @ self.axes_DK
        norms = np.linalg.norm(points, axis=-1, keepdims=True)
        return (points / np.where(norms > 0, norms, 1)).astype(np.float32)
