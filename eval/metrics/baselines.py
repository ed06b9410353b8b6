"""Baselines that predict without looking at any scene, printed beside every result.

Shapes: M training scenes, N predicted scenes.
"""

import numpy as np


def majority_accuracy(training_labels_M: np.ndarray, labels_N: np.ndarray) -> float:
    """Accuracy of predicting the most frequent class of the training scenes, or the lowest index among ties."""
    return float((np.asarray(labels_N) == np.bincount(training_labels_M).argmax()).mean())


def constant_errors(training_values_M: np.ndarray, values_N: np.ndarray) -> dict[str, float]:
    """Mean squared errors of predicting the training scenes' mean, and of predicting zero.

    Zero is a fair guess because a constant is subtracted from LVU's targets.
    """
    return {
        "mean": float(np.square(np.asarray(values_N) - np.mean(training_values_M)).mean()),
        "zero": float(np.square(values_N).mean()),
    }
