"""Moderation: sex, violence, drug use or none of them in clips of about five seconds [4.4, table 6].

The labels are a CSV, as for own labels. A clip is one scene of nine frames. One MLP gives the probabilities of four
classes. Average precision is computed for each class, and the table's average is over the three activities. The paper's
clips are not public.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_scripts.formats.labeled_scenes import LabeledScenes, LabelError
from data_scripts.formats.own_labels import read_own_labels
from eval.metrics.classification import moderation_average_precisions
from eval.probes import ProbeTask

from .figures import average_precision_figure, films, require_all_classes
from .task import Baselines, Figure, ProbedTask

NONE = "none"
CLASSES = ("drug-use", NONE, "sex", "violence")  # in alphabetical order, like own labels


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: other classes than the four, several labels per clip, or as `read_own_labels`."""
    labeled = read_own_labels(labels, "single_label_classification")
    if labeled.classes != CLASSES:
        raise LabelError(
            f"{labels}: moderation has the classes {', '.join(CLASSES)}, this file {', '.join(labeled.classes)}; for "
            "classes of your own use --task own"
        )
    return ProbedTask(
        name="moderation",
        labeled=labeled,
        recipe="moderation.yaml",
        figure="average",
        measure=measure,
        trivial=prevalence,
        select=_average,
        require_labels=require_all_classes,
    )


def measure(scores_S: Sequence[np.ndarray], labeled: LabeledScenes) -> dict[str, Figure]:
    """Average precision of each class, and the average of the activities."""
    classes_C = np.arange(len(CLASSES))
    columns = {name: [index] for index, name in enumerate(CLASSES)}
    columns["average"] = [index for index in classes_C if CLASSES[index] != NONE]
    labels_NC = labeled.labels[:, None] == classes_C
    return {
        name: average_precision_figure(
            [scores_NC[:, chosen] for scores_NC in scores_S], labels_NC[:, chosen], films(labeled)
        )
        for name, chosen in columns.items()
    }


def prevalence(task: ProbeTask) -> Baselines:
    """Average precision of equal scores for all clips."""
    shares_C = np.bincount(task.labels("test"), minlength=len(CLASSES)) / len(task.labels("test"))
    shares = dict(zip(CLASSES, shares_C.tolist(), strict=True))
    activities = [share for name, share in shares.items() if name != NONE]
    return {"prevalence": {**shares, "average": float(np.mean(activities))}}


def _average(scores_NC: np.ndarray, labels_N: np.ndarray) -> float:
    return moderation_average_precisions(scores_NC, labels_N, CLASSES.index(NONE))[1]
