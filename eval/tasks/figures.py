"""Figures shared by several tasks, and their baselines: accuracy, squared error, mean average precision.

Shapes: S seeds, N scenes, C classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_scripts.formats.labeled_scenes import SPLITS, LabeledScenes, LabelError, Problem
from eval.metrics.baselines import constant_errors, majority_accuracy
from eval.metrics.classification import average_precisions, mean_average_precision
from eval.metrics.intervals import average_precision_interval, mean_interval
from eval.probes import ProbeTask

from .task import Baselines, Figure, Measure


class Kind(NamedTuple):
    """How tasks of one problem are measured."""

    recipe: str
    figure: str
    measure: Measure
    trivial: Callable[[ProbeTask], Baselines]
    higher_is_better: bool = True


def films(labeled: LabeledScenes) -> list[str]:
    """The film of each scene; bootstrap intervals draw films."""
    return [scene.movie_id for scene in labeled.scenes]


def require_all_classes(labeled: LabeledScenes) -> None:
    """Raises: LabelError: a split lacks a class, so its average precision is undefined there."""
    for split in SPLITS:
        found = set(labeled.labels[labeled.of_split(split)].tolist())
        lacking = [name for index, name in enumerate(labeled.classes) if index not in found]
        if lacking:
            raise LabelError(
                f"{labeled.task}: no scene of split {split} has the label {lacking[0]!r}, so its average precision "
                "cannot be measured; give each split scenes of all classes, with embeddings"
            )


def mean_figure(values_SN: np.ndarray, groups_N: Sequence | np.ndarray) -> Figure:
    """A figure that is the mean of one value per scene."""
    return Figure(values_SN.mean(1), mean_interval(values_SN.mean(0), groups_N))


def average_precision_figure(
    scores_S: Sequence[np.ndarray], labels_NC: np.ndarray, groups_N: Sequence | np.ndarray
) -> Figure:
    """Mean average precision over classes; seeds are additional columns, so the interval is that of their mean."""
    values_S = [mean_average_precision(average_precisions(scores_NC, labels_NC)) for scores_NC in scores_S]
    columns = np.concatenate(scores_S, axis=1), np.tile(labels_NC, (1, len(scores_S)))
    return Figure(np.array(values_S), average_precision_interval(*columns, groups_N))


def accuracy(
    scores_S: Sequence[np.ndarray], labeled: LabeledScenes, groups_N: Sequence | np.ndarray | None = None
) -> dict[str, Figure]:
    """Share of scenes whose class scores highest, or first among ties; the interval draws groups, by default films."""
    hits_SN = np.stack([scores_NC.argmax(1) == labeled.labels for scores_NC in scores_S])
    return {"accuracy": mean_figure(hits_SN, films(labeled) if groups_N is None else groups_N)}


def squared_error(scores_S: Sequence[np.ndarray], labeled: LabeledScenes) -> dict[str, Figure]:
    errors_SN = np.square(np.stack(scores_S) - labeled.labels)
    return {"mean_squared_error": mean_figure(errors_SN, films(labeled))}


def average_precision(scores_S: Sequence[np.ndarray], labeled: LabeledScenes) -> dict[str, Figure]:
    """Mean average precision over the classes that some scene has."""
    return {"mean_average_precision": average_precision_figure(scores_S, labeled.labels, films(labeled))}


def constant_classes(task: ProbeTask) -> Baselines:
    """Accuracy of three guesses: the most frequent training class, the best constant for test, a random training class.

    The random class is drawn evenly from the classes of the training scenes.
    """
    training, test = task.labels("train"), task.labels("test")
    return {
        "majority": {"accuracy": majority_accuracy(training, test)},
        "best_constant": {"accuracy": float(np.bincount(test).max() / len(test))},
        "chance": {"accuracy": 1 / len(np.unique(training))},
    }


def constant_values(task: ProbeTask) -> Baselines:
    """Squared errors of three constants: zero, the training mean, and the best constant for test, its mean."""
    test = task.labels("test")
    errors = {**constant_errors(task.labels("train"), test), "best_constant": float(test.var())}
    return {name: {"mean_squared_error": error} for name, error in errors.items()}


def constant_scores(task: ProbeTask) -> Baselines:
    """Equal scores for all scenes: a class's average precision is then its share of the test scenes."""
    shares_C = task.labels("test").mean(0)
    return {"prevalence": {"mean_average_precision": float(shares_C[shares_C > 0].mean())}}


# These recipes are ours, for tasks that are not in the paper; its tasks name the paper's recipes.
KINDS: dict[Problem, Kind] = {
    "single_label_classification": Kind("own.yaml", "accuracy", accuracy, constant_classes),
    "multi_label_classification": Kind("own_tags.yaml", "mean_average_precision", average_precision, constant_scores),
    "regression": Kind("own_values.yaml", "mean_squared_error", squared_error, constant_values, False),
}
