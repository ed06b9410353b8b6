"""A task in general: labels, the recipe of its probe, figures, and what figures without looking at a scene are.

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
    """A figure of predictions: its value by seed, and the 95% bootstrap interval, by film, of their mean."""

    values_S: np.ndarray
    interval: Interval

    def as_json(self) -> dict[str, Any]:
        """Mean, deviation over seeds if there are several, interval (None where it cannot be drawn)."""
        several = {"deviation": round(float(self.values_S.std(ddof=1)), 6)} if len(self.values_S) > 1 else {}
        interval = None if np.isnan(self.interval).any() else [round(end, 6) for end in self.interval]
        return {"mean": round(float(self.values_S.mean()), 6), **several, "interval": interval}


# Figures of the scores of some seeds for the scenes of one split; scores are as in `ProbeResult`.
Measure = Callable[[Sequence[np.ndarray], LabeledScenes], dict[str, Figure]]
# Figures by name of baseline and name of figure, on the test scenes.
Baselines = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labels and the embeddings they need.

    Attributes:
        name: of its group and itself, such as `lvu/scene`.
        figure: name of the figure that the paper's table has.
        inputs: ids of the embeddings that are the input of each scene, side by side; by default the scene's own.
        require_inputs: raises if embeddings of these ids cannot be the task's.
        require_labels: raises if the scenes that have embeddings cannot be measured.
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
        recipe: YAML file in eval/configs of its MLP.
        select: decides on validation; by default as `default_metric`.
        probes: by default; names of `eval.probe.PROBES`.
    """

    recipe: str
    measure: Measure
    trivial: Callable[[ProbeTask], Baselines]
    select: Metric | None = None
    probes: tuple[str, ...] = ("mlp", "linear", "knn")
