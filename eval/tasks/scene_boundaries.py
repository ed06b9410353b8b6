"""MovieNet's scene boundaries in 318 films [4.3.2, table 5]: does a scene end with this shot?

A sample is four shots, two before the possible boundary and two after it. Each shot is embedded by itself, and the
embeddings are concatenated. The table has the average precision of all test shots together. Other papers average films,
so both are given, beside LGSS's other figures. A film's embeddings must belong to the shots in its shot list. The
embedding of a shot without a keyframe is zero. Samples with such shots are kept and counted, because a film's figures
need a prediction for each shot.

`cosine_distance` needs no training: 1 minus the cosine of the shots before and after the boundary.

Shapes: S seeds, N samples, F films, B resamples, D dimensions.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError
from data_scripts.formats.movienet_labels import read_scene_boundaries
from eval.metrics import boundaries
from eval.metrics.classification import average_precisions
from eval.metrics.intervals import bootstrap_interval, mean_interval
from eval.probes import ProbeTask

from .embeddings import shot_id
from .figures import average_precision_figure, films, require_all_classes
from .task import Baselines, Figure, ProbedTask

CLASSES = ("within a scene", "end of a scene")
PER_FILM = {
    "average_precision_per_film": "ap",
    "f1_per_film": "f1",
    "recall_at_3_seconds": "recall_at_3_seconds",
    "miou": "miou",
}


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: as `read_scene_boundaries`."""
    return boundary_task("movienet_boundaries", read_scene_boundaries(labels))


def boundary_task(name: str, labeled_films: Sequence[FilmBoundaries]) -> ProbedTask:
    """A task with the films' samples: its scene `tt0133093/0012` is a shot, labeled 1 if a true scene ends with it."""
    scenes, inputs = [], []
    for film in labeled_films:
        ids = [shot_id(film.movie_id, shot) for shot in range(film.num_shots)]
        scenes += [
            LabeledScene(ids[shot], film.movie_id, film.movie_id, film.split, shots=(shot, 1))
            for shot in range(len(film.labels_M))
        ]
        inputs += [tuple(ids[shot] for shot in window) for window in film.windows().tolist()]
    labels_N = np.concatenate([film.labels_M for film in labeled_films]).astype(np.int64)
    ends = {film.movie_id: film.frames_S2[:, 1] for film in labeled_films}

    def measure(scores_S: Sequence[np.ndarray], labeled: LabeledScenes) -> dict[str, Figure]:
        end_frames_N = np.array([ends[scene.movie_id][scene.shots[0]] for scene in labeled.scenes if scene.shots])
        return measure_boundaries(scores_S, labeled, end_frames_N)

    return ProbedTask(
        name=name,
        labeled=LabeledScenes(name, "single_label_classification", tuple(scenes), labels_N, CLASSES),
        recipe="movienet_boundaries.yaml",
        figure="average_precision",
        measure=measure,
        trivial=baselines,
        select=_average_precision,
        # With 300,000 samples of 3,000 numbers, nearest neighbors and a regression take far longer than the MLPs.
        probes=("mlp",),
        inputs=inputs,
        require_inputs=lambda ids: _require_shots(labeled_films, ids),
        require_labels=require_all_classes,
    )


def measure_boundaries(
    scores_S: Sequence[np.ndarray], labeled: LabeledScenes, end_frames_N: np.ndarray
) -> dict[str, Figure]:
    """All of LGSS's figures; intervals draw films."""
    groups = [[*numbers] for _, numbers in groupby(range(len(labeled)), lambda n: labeled.scenes[n].movie_id)]
    values = [
        boundaries.film_values(
            [boundaries.ScoredFilm(scores_NC[group, 1], labeled.labels[group], end_frames_N[group]) for group in groups]
        )
        for scores_NC in scores_S
    ]
    values_SF = {name: np.stack([each[name] for each in values]) for name in boundaries.FILM_VALUES}
    positives_S = [scores_NC[:, 1:] for scores_NC in scores_S]
    return {
        "average_precision": average_precision_figure(positives_S, labeled.labels[:, None], films(labeled)),
        "f1": _f1(*(values_SF[name] for name in ("true", "predicted", "right"))),
        **{
            name: Figure(values_SF[value].mean(1), mean_interval(values_SF[value].mean(0)))
            for name, value in PER_FILM.items()
        },
    }


def _f1(true_SF: np.ndarray, predicted_SF: np.ndarray, right_SF: np.ndarray) -> Figure:
    """F1 over the shots of all films together."""

    def f1(weights_FB: np.ndarray) -> np.ndarray:
        return (2 * right_SF @ weights_FB / np.maximum((true_SF + predicted_SF) @ weights_FB, 1)).mean(0)

    films_F = np.arange(true_SF.shape[1])
    values_S = 2 * right_SF.sum(1) / np.maximum((true_SF + predicted_SF).sum(1), 1)
    return Figure(values_S, bootstrap_interval(f1, films_F))


def baselines(task: ProbeTask) -> Baselines:
    """Average precision of equal scores (the share of boundaries) and of neighboring shots' cosine distance."""
    labels_N = task.labels("test")
    shots_N2D = task.inputs("test").reshape(len(labels_N), task.rows.shape[1], -1)[:, 1:3]
    lengths_N = np.prod(np.linalg.norm(shots_N2D, axis=2), axis=1)
    cosines_N = np.einsum("nd,nd->n", *shots_N2D.swapaxes(0, 1)) / np.maximum(lengths_N, np.finfo(np.float32).tiny)
    distance_AP = average_precisions(-cosines_N[:, None], labels_N[:, None])
    return {
        "prevalence": {"average_precision": float(labels_N.mean())},
        "cosine_distance": {"average_precision": float(distance_AP[0])},
    }


def _average_precision(scores_NC: np.ndarray, labels_N: np.ndarray) -> float:
    return float(average_precisions(scores_NC[:, 1:], labels_N[:, None])[0])


def _require_shots(labeled_films: Sequence[FilmBoundaries], ids: Sequence[str]) -> None:
    """Raise an error if the embeddings belong to other shots than the labels."""
    counts = Counter(name.rpartition("/")[0] for name in ids)
    for film in labeled_films:
        if counts[film.movie_id] not in (0, film.num_shots):
            raise LabelError(
                f"{film.movie_id}: {counts[film.movie_id]} shots have embeddings, but its shot list has "
                f"{film.num_shots}; make the shots with data_scripts.shots.movienet_keyframes, from the same shot list"
            )
