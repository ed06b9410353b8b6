"""Baselines of predictions that look at no scene, printed beside every result.

Shapes: M training scenes, N scenes that are predicted.
"""

import numpy as np


def majority_accuracy(training_labels_M: np.ndarray, labels_N: np.ndarray) -> float:
    """Accuracy of predicting the training scenes' most frequent class; the lowest index among equally frequent ones."""
    return float((np.asarray(labels_N) == np.bincount(training_labels_M).argmax()).mean())


def constant_errors(training_values_M: np.ndarray, values_N: np.ndarray) -> dict[str, float]:
    """Mean squared errors of predicting the training scenes' mean, and of predicting zero.

    LVU's targets have a constant subtracted that makes zero a fair guess.
    """
    return {
        "mean": float(np.square(np.asarray(values_N) - np.mean(training_values_M)).mean()),
        "zero": float(np.square(values_N).mean()),
    }
