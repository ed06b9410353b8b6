"""Probes: small classifiers that measure the information in frozen embeddings (paper §4.2, supplement 1.2–1.4).

    >>> task = ProbeTask(labeled_scenes, embeddings_ED)
    >>> jobs = [ProbeJob(task, read_recipe("eval/configs/lvu_scene.yaml"), seed) for seed in range(5)]
    >>> train_probes(jobs)[0].test_scores, linear_probe(task).test_scores, knn_probe(task).test_scores

Each probe is selected on validation and then predicts the test scenes once. Read `tasks.py`, `mlp.py`, `simple.py`,
`export.py`, in this order.
"""

from .export import export_classifier
from .mlp import MLP, ProbeJob, ProbeRecipe, read_recipe, train_probes
from .simple import knn_probe, linear_probe
from .tasks import Metric, ProbeError, ProbeResult, ProbeTask, default_metric

__all__ = [
    "MLP",
    "Metric",
    "ProbeError",
    "ProbeJob",
    "ProbeRecipe",
    "ProbeResult",
    "ProbeTask",
    "default_metric",
    "export_classifier",
    "knn_probe",
    "linear_probe",
    "read_recipe",
    "train_probes",
]
