"""Two probes without gradient descent: a linear one and nearest neighbors, each selected on validation.

Shapes: N scenes, M training scenes, D dimensions, C classes, K neighbors.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from data_scripts.formats.labeled_scenes import Split

from .tasks import Metric, ProbeError, ProbeResult, ProbeTask, default_metric

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
NEIGHBORS = (1, 3, 5, 10, 20, 50)


def linear_probe(task: ProbeTask, strengths: Sequence[float] = STRENGTHS, metric: Metric | None = None) -> ProbeResult:
    """Logistic regression, one per class if scenes may have several labels; ridge regression for values.

    Inputs are standardized by the training scenes.

    Args:
        strengths: values of C, the inverse of the penalty, to choose from; the smaller wins a tie.
        metric: figure that decides; by default accuracy, mean average precision or −MSE.
    """
    scaler = StandardScaler().fit(task.inputs("train"))
    training, validation, test = (scaler.transform(task.inputs(split)) for split in ("train", "validation", "test"))

    def candidates() -> Iterable[tuple[float, Callable[[], np.ndarray], np.ndarray]]:
        for strength in sorted(strengths):
            predict = _fit_linear(task, training, strength)
            yield strength, lambda predict=predict: predict(test), predict(validation)

    return _select(task, "C", candidates(), metric)


def _fit_linear(task: ProbeTask, training_MD: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    labels = task.labels("train")
    if task.problem == "regression":
        return Ridge(alpha=1 / strength).fit(training_MD, labels).predict
    logistic = LogisticRegression(C=strength, max_iter=1000)
    if task.problem == "multi_label_classification":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Label not")  # classes without training scenes get probability 0
            return OneVsRestClassifier(logistic).fit(training_MD, labels).predict_proba
    logistic.fit(training_MD, labels)

    def predict(inputs_ND: np.ndarray) -> np.ndarray:
        scores_NC = np.zeros((len(inputs_ND), task.num_outputs))
        scores_NC[:, logistic.classes_] = logistic.predict_proba(inputs_ND)
        return scores_NC

    return predict


def knn_probe(
    task: ProbeTask,
    neighbors: Sequence[int] = NEIGHBORS,
    distance: str = "euclidean",
    metric: Metric | None = None,
) -> ProbeResult:
    """Predict the share of each class, or the mean value, among the k nearest training scenes.

    Inputs are not standardized. Classes with equal shares rank in their order.

    Args:
        neighbors: values of k to choose from; the smaller wins a tie. Values above the number of training scenes are
            left out.
        distance: `euclidean`, as in the paper's retrieval, or `cosine`.

    Raises:
        ProbeError: no value of k is between 1 and the number of training scenes.
    """
    training = task.inputs("train")
    fitting = sorted(k for k in neighbors if 1 <= k <= len(training))
    if not fitting:
        raise ProbeError(f"{task.labeled.task}: k={tuple(neighbors)}, but there are {len(training)} training scenes")
    index = NearestNeighbors(n_neighbors=fitting[-1], metric=distance).fit(training)
    labels = task.labels("train")
    values = (
        np.eye(task.num_outputs)[labels] if task.problem == "single_label_classification" else labels.astype(np.float64)
    )

    def means(split: Split) -> dict[int, np.ndarray]:
        near_NK = index.kneighbors(task.inputs(split), return_distance=False)
        return {k: sum(values[near_N] for near_N in near_NK[:, :k].T) / k for k in fitting}

    validation, test = means("validation"), means("test")
    return _select(task, "k", ((k, lambda k=k: test[k], validation[k]) for k in fitting), metric)


def _select(
    task: ProbeTask,
    setting: str,
    candidates: Iterable[tuple[float, Callable[[], np.ndarray], np.ndarray]],
    metric: Metric | None,
) -> ProbeResult:
    """Choose the candidate (value, function that predicts the test scenes, validation scores) that validates best.

    Only the chosen one predicts the test scenes.
    """
    figure = metric or default_metric(task.problem)
    labels = task.labels("validation")
    best: tuple[float, float, Callable[[], np.ndarray], np.ndarray] | None = None
    for value, predict_test, scores in candidates:
        reached = figure(scores, labels)
        if best is None or reached > best[0]:
            best = reached, value, predict_test, scores
    if best is None:
        raise ProbeError(f"{task.labeled.task}: the recipe gives no value of {setting} to choose from")
    reached, value, predict_test, scores = best
    return ProbeResult(
        task=task.labeled.task,
        validation_scores=scores.astype(np.float64),
        test_scores=predict_test().astype(np.float64),
        validation_metric=reached,
        chosen={setting: value},
    )
