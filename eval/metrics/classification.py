"""Average precision by class, for scenes with one or several labels.

    >>> average_precision_C = average_precisions(scores_NC, tags_NC)
    >>> mean_average_precision(average_precision_C)
    0.1213

For accuracy, recall by class and squared error, use scikit-learn's `accuracy_score`, `recall_score(average=None)` and
`mean_squared_error`.

Shapes: N scenes, C classes, P scenes that have a class.
"""

import numpy as np

from modeling_m2s.errors_m2s import UserError


class ScoreError(UserError, ValueError):
    """Scores and labels that cannot be compared; the message says which and why."""


def average_precisions(scores_NC: np.ndarray, labels_NC: np.ndarray) -> np.ndarray:
    """Average precision of each class, (C,); NaN for a class that no scene has.

    It equals scikit-learn's `average_precision_score`, also for equal scores, but sorts scores, not indices. Precision
    at a scene with the class is the share of scenes with the class among all that score at least as high.

    Args:
        scores_NC: higher is more likely; any monotone scale.
        labels_NC: whether each scene has each class: booleans, or 0 and 1.

    Raises:
        ScoreError: shapes differ, a score is NaN or infinite, or a label is neither 0 nor 1.
    """
    scores_NC, labels_NC = np.asarray(scores_NC), np.asarray(labels_NC)
    if scores_NC.ndim != 2 or scores_NC.shape != labels_NC.shape:
        raise ScoreError(
            f"scores of shape {scores_NC.shape}, labels of {labels_NC.shape}; both must be scenes × classes"
        )
    has_NC = labels_NC.astype(bool)
    if (has_NC != labels_NC).any():
        raise ScoreError(f"label {labels_NC[has_NC != labels_NC][0]}: labels must be 0 or 1")
    _check_finite(scores_NC)
    found_C = np.full(scores_NC.shape[1], np.nan)
    for number, (scores_N, labels_N) in enumerate(zip(scores_NC.T, has_NC.T, strict=True)):
        sorted_N, sorted_P = np.sort(scores_N), np.sort(scores_N[labels_N])
        if len(sorted_P):
            hits_P = len(sorted_P) - np.searchsorted(sorted_P, sorted_P)
            found_C[number] = (hits_P / (len(sorted_N) - np.searchsorted(sorted_N, sorted_P))).mean()
    return found_C


def mean_average_precision(average_precision_C: np.ndarray) -> float:
    """Mean over the classes that some scene has; NaN if there are none.

    The paper (table 4) does not say how its mean treats classes without scenes in the test split; here they are left
    out.
    """
    there_C = ~np.isnan(average_precision_C)
    return float(average_precision_C[there_C].mean()) if there_C.any() else float("nan")


def moderation_average_precisions(scores_NC: np.ndarray, labels_N: np.ndarray, none: int) -> tuple[np.ndarray, float]:
    """Average precision of each class against the others, (C,), and the mean over the activities (table 6).

    The table's average is over the three activities, without the fourth class ("none of the activities"):
    (78.5 + 62.1 + 55.1) / 3 = 65.23 and (81.8 + 70.1 + 62.2) / 3 = 71.37 against 65.2 and 71.3 printed. They agree up
    to the rounding of the terms, as in all five rows. If the average had four numbers, the fourth would have to be
    within 0.4 of the others' mean in each row.

    Args:
        scores_NC: softmax probabilities, or other scores that can be compared between scenes.
        labels_N: class index of each scene.
        none: index of the class "none of the activities".

    Raises:
        ScoreError: see `average_precisions`; or a label is not a class.
    """
    scores_NC, labels_N = np.asarray(scores_NC), np.asarray(labels_N)
    classes_C = np.arange(scores_NC.shape[-1])
    if not np.isin(labels_N, classes_C).all():
        raise ScoreError(
            f"label {labels_N[~np.isin(labels_N, classes_C)][0]}, but scores are of {len(classes_C)} classes"
        )
    average_precision_C = average_precisions(scores_NC, labels_N[:, None] == classes_C)
    return average_precision_C, mean_average_precision(np.delete(average_precision_C, none))


def _check_finite(scores_NC: np.ndarray) -> None:
    bad_N = ~np.isfinite(scores_NC).all(1)
    if bad_N.any():
        raise ScoreError(f"scores of {bad_N.sum()} scenes are NaN or infinite, those of scene {bad_N.argmax()} first")
