"""A task in general: labels, the recipe of its probe, figures, and baselines that look at no scene.

Shapes: S seeds, N scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_scripts.formats.labeled_scenes import LabeledScenes
from eval.metrics.intervals import Interval
from eval.probes import Metric, ProbeTask


class Figure(NamedTuple):
    """A figure of predictions: its value by seed, and the 95% bootstrap interval by film of the mean over seeds."""

    values_S: np.ndarray
    interval: Interval

    def as_json(self) -> dict[str, Any]:
        """Mean, deviation if there are several seeds, and interval (None if it cannot be computed)."""
        several = {"deviation": round(float(self.values_S.std(ddof=1)), 6)} if len(self.values_S) > 1 else {}
        interval = None if np.isnan(self.interval).any() else [round(end, 6) for end in self.interval]
        return {"mean": round(float(self.values_S.mean()), 6), **several, "interval": interval}


# From each seed's scores for the scenes of one split (in the form of `ProbeResult`) to figures.
Measure = Callable[[Sequence[np.ndarray], LabeledScenes], dict[str, Figure]]
# Values by name of baseline and name of figure, on the test scenes.
Baselines = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labels and the embeddings they need.

    Attributes:
        name: group and task, such as `lvu/scene`.
        figure: name of the figure in the paper's table.
        inputs: ids of the embeddings that are concatenated to each scene's input; by default the scene's own.
        require_inputs: raises an error if embeddings with these ids do not belong to the task.
        require_labels: raises an error if the scenes with embeddings cannot be measured.
    """

    name: str
    labeled: LabeledScenes
    figure: str
    higher_is_better: bool = True
    inputs: Sequence[tuple[str, ...]] | None = None
    require_inputs: Callable[[Sequence[str]], None] = lambda ids: None
    require_labels: Callable[[LabeledScenes], None] = lambda labeled: None


@dataclass(frozen=True, kw_only=True)
class ProbedTask(Task):
    """A task that probes learn.

    Attributes:
        recipe: YAML file in eval/configs with the recipe of its MLP.
        select: metric that decides on validation; by default `default_metric`.
        probes: probes that run by default; names from `eval.probe.PROBES`.
    """

    recipe: str
    measure: Measure
    trivial: Callable[[ProbeTask], Baselines]
    select: Metric | None = None
    probes: tuple[str, ...] = ("mlp", "linear", "knn")
