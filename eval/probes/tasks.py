"""Input and output of every probe: labeled scenes with their embeddings; scores of validation and test scenes.

Shapes: E embeddings, D dimensions, N scenes, W embeddings per scene, C classes (1 for regression).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from data_scripts.formats.labeled_scenes import SPLITS, LabeledScenes, Problem, Split
from eval.metrics.classification import average_precisions, mean_average_precision
from modeling_m2s.errors_m2s import UserError

if TYPE_CHECKING:
    from .mlp import MLP

# A figure from scores and labels of one split, in the form of `ProbeResult`; higher is better.
Metric = Callable[[np.ndarray, np.ndarray], float]


class ProbeError(UserError, ValueError):
    """A task cannot be learned, or a probe failed to learn it; the message names the task and the fix."""


@dataclass(frozen=True)
class ProbeTask:
    """Labeled scenes and their embeddings, checked.

    Attributes:
        labeled: the scenes, with their labels and splits.
        embeddings_ED: embeddings; several tasks can share one array.
        rows_NW: rows of the embeddings that are concatenated to each scene's input, e.g. the four shots of a boundary;
            by default the scene's own.

    Raises:
        ProbeError: a split is empty, the training scenes have only one class, lengths differ, or an embedding has NaN
            or infinite values.
    """

    labeled: LabeledScenes
    embeddings_ED: np.ndarray
    rows_NW: np.ndarray | None = None

    def __post_init__(self) -> None:
        name, count = self.labeled.task, len(self.labeled)
        if self.embeddings_ED.ndim != 2:
            raise ProbeError(f"{name}: embeddings of shape {self.embeddings_ED.shape}; expected (scenes, dimensions)")
        if self.rows_NW is None:
            object.__setattr__(self, "rows_NW", np.arange(len(self.embeddings_ED))[:, None])
        if len(self.rows) != count:
            raise ProbeError(f"{name}: {count} labeled scenes, but embeddings of {len(self.rows)}; give one a scene")
        self._check_embeddings()
        for split, numbers in self.numbers.items():
            if not len(numbers):
                raise ProbeError(f"{name}: no scene is in split {split}; a probe needs all of {', '.join(SPLITS)}")
        self._check_labels()

    def _check_embeddings(self) -> None:
        name, embeddings = self.labeled.task, len(self.embeddings_ED)
        if self.rows.min(initial=0) < 0 or self.rows.max(initial=-1) >= embeddings:
            raise ProbeError(f"{name}: rows from {self.rows.min()} to {self.rows.max()}, but {embeddings} embeddings")
        bad_N = (~np.isfinite(self.embeddings_ED).all(1))[self.rows].any(1)
        if bad_N.any():
            raise ProbeError(
                f"{name}: {bad_N.sum()} scenes have an embedding with NaN or infinite values, "
                f"{self.labeled.scenes[bad_N.argmax()].scene_id} first; embed them anew or leave them out"
            )

    def _check_labels(self) -> None:
        training = self.labels("train")
        if (training == training[0]).all():
            is_number = self.problem == "regression"
            names = training[:1] if is_number else np.atleast_1d(np.array(self.labeled.classes)[training[0]])
            label = ", ".join(map(str, names)) or "none"
            raise ProbeError(
                f"{self.labeled.task}: all {len(training)} training scenes have the same label, {label}; "
                "there is nothing to learn"
            )

    @property
    def problem(self) -> Problem:
        return self.labeled.problem

    @property
    def rows(self) -> np.ndarray:
        """Rows (N, W) of each scene's embeddings."""
        assert self.rows_NW is not None
        return self.rows_NW

    @property
    def width(self) -> int:
        """Size of a scene's input: W·D."""
        return self.rows.shape[1] * self.embeddings_ED.shape[1]

    @property
    def num_outputs(self) -> int:
        """Number of scores per scene: one per class, or one for regression."""
        return 1 if self.problem == "regression" else len(self.labeled.classes)

    @cached_property
    def numbers(self) -> dict[Split, np.ndarray]:
        """Indices of the scenes of each split, in order."""
        return {split: self.labeled.of_split(split) for split in SPLITS}

    def inputs(self, split: Split) -> np.ndarray:
        """Inputs (N, W·D), float32, of the scenes of a split."""
        chosen_ND = self.embeddings_ED[self.rows[self.numbers[split]]]
        return chosen_ND.reshape(len(chosen_ND), self.width).astype(np.float32, copy=False)

    def labels(self, split: Split) -> np.ndarray:
        """Labels of the scenes of a split."""
        return self.labeled.labels[self.numbers[split]]


@dataclass(frozen=True)
class ProbeResult:
    """A probe's predictions for the validation and test scenes.

    Attributes:
        validation_scores, test_scores: probabilities (N, C), or values (N,) for regression, float64, in the order of
            `LabeledScenes.of_split`.
        validation_metric: the figure that selected it, on validation.
        chosen: the selected setting, such as `{"epoch": 120}` or `{"k": 5}`, and whether training diverged later.
        mlp: the network, if the probe is one.
    """

    task: str
    validation_scores: np.ndarray
    test_scores: np.ndarray
    validation_metric: float
    chosen: dict[str, Any]
    mlp: "MLP | None" = None


def default_metric(problem: Problem) -> Metric:
    """Accuracy, mean average precision over the classes that occur, or the negative mean squared error."""
    return {
        "single_label_classification": _accuracy,
        "multi_label_classification": _mean_average_precision,
        "regression": _negative_squared_error,
    }[problem]


def _accuracy(scores_NC: np.ndarray, labels_N: np.ndarray) -> float:
    return float((scores_NC.argmax(1) == labels_N).mean())


def _mean_average_precision(scores_NC: np.ndarray, labels_NC: np.ndarray) -> float:
    return mean_average_precision(average_precisions(scores_NC, labels_NC)) if labels_NC.any() else 0.0


def _negative_squared_error(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    return -float(((scores_N - labels_N) ** 2).mean())
