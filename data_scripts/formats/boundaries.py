"""A film's scene boundaries: for each shot, whether a scene ends after it.

Shapes: S shots of the film, M labeled shots (its first ones), W shots of a window.
"""

from dataclasses import dataclass

import numpy as np

from data_scripts.formats.labeled_scenes import LabelError, Split


@dataclass(frozen=True)
class FilmBoundaries:
    """The labels of one film.

    Attributes:
        labels_M: whether a scene ends after each of the first shots. The last shot has no label. MovieNet has two
            exceptions: in one film the last two shots have no label, in another film the last shot has one.
        frames_S2: first and last frame of each shot.

    Raises:
        LabelError: the number of labels does not fit the number of shots.
    """

    movie_id: str
    split: Split
    labels_M: np.ndarray
    frames_S2: np.ndarray

    def __post_init__(self) -> None:
        if not 0 <= self.num_shots - len(self.labels_M) <= 2 or not len(self.labels_M):
            raise LabelError(
                f"{self.movie_id}: {len(self.labels_M)} boundary labels for {self.num_shots} shots; expected as many, "
                "or one or two fewer: take the labels and the shot list from the same release"
            )

    @property
    def num_shots(self) -> int:
        return len(self.frames_S2)

    def windows(self, width: int = 4) -> np.ndarray:
        """Shots around each possible boundary, half of them before it, (M, W): the paper's four-shot samples [4.3].

        The first or last shot is repeated at the film's ends, so that each label has a sample. The paper does not say
        what it does there; LGSS leaves such samples out.
        """
        offsets_W = np.arange(width) - width // 2 + 1
        return np.clip(np.arange(len(self.labels_M))[:, None] + offsets_W, 0, self.num_shots - 1)
