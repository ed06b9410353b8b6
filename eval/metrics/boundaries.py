"""Scene boundaries as MovieNet's benchmark (LGSS) measures them, with its quirks.

    >>> films = [ScoredFilm(scores_M, labels_M, end_frames_M), …]
    >>> boundary_metrics(films)["ap"], film_values(films)["miou"]
    (0.5422, array([0.51, 0.47, …]))

The paper (table 5) reports AP over all shots of all films. Some papers average films. The two numbers differ, so each
has a name of its own here. Results are shares, not percent.

Shapes: F films, M labeled shots of a film, T true and P predicted boundaries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from modeling_m2s.errors_m2s import UserError

# LGSS's constants for every film: frames per second, and how far a found boundary may lie from the true one.
FRAMES_PER_SECOND, SECONDS, SHOTS = 24, 3, 5
EPSILON = 1e-5
FILM_VALUES = ("ap", "f1", "recall", "recall_at_3_seconds", "miou", "true", "predicted", "right")


class BoundaryError(UserError, ValueError):
    """The boundaries of a film cannot be measured; the message says which film and why."""


class ScoredFilm(NamedTuple):
    """The labeled shots of a film, in order; usually all but the last.

    Attributes:
        scores_M: how likely a scene ends with the shot.
        labels_M: 1 if a scene ends with the shot, else 0. MovieNet's -1 (uncertain) must be changed to 1, as in LGSS.
        end_frames_M: number of the shot's last frame. The first shot begins with frame 0, every other one with the
            frame after the end of the shot before it.
    """

    scores_M: np.ndarray
    labels_M: np.ndarray
    end_frames_M: np.ndarray


def boundary_metrics(films: Sequence[ScoredFilm], threshold: float = 0.5) -> dict[str, float]:
    """All metrics of the benchmark; a boundary is predicted where the score is above `threshold`.

    Films without labeled shots are left out.

    Returns:
        `ap` and `f1`: over the shots of all films together; `chance`: share of true boundaries, AP of random scores.
        `ap_per_film`, `f1_per_film`, `recall_per_film`, `recall_at_3_seconds`, `miou`: means of `film_values`.
        `ap_per_film_rounded`: LGSS's "mAP", the mean of films' AP, each rounded to two decimals.

    Raises:
        BoundaryError: see `film_values`; or no film has a labeled shot.
    """
    values = {name: values_F[~np.isnan(values_F)] for name, values_F in film_values(films, threshold).items()}
    if not len(values["ap"]):
        raise BoundaryError(f"{len(films)} films without a labeled shot: there is nothing to measure")
    scores, labels = (np.concatenate([film[column] for film in films]) for column in (0, 1))
    true, predicted, right = (values[name].sum() for name in ("true", "predicted", "right"))
    return {
        "ap": _average_precision(labels, scores),
        "ap_per_film": float(values["ap"].mean()),
        "ap_per_film_rounded": float(np.mean([round(ap, 2) for ap in values["ap"]])),
        "f1": float(2 * right / max(true + predicted, 1)),
        "f1_per_film": float(values["f1"].mean()),
        "recall_per_film": float(values["recall"].mean()),
        "recall_at_3_seconds": float(values["recall_at_3_seconds"].mean()),
        "miou": float(values["miou"].mean()),
        "chance": float(true / len(labels)),
    }


def film_values(films: Sequence[ScoredFilm], threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Metrics by film, each (F,); NaN for a film without labeled shots.

    Returns:
        `ap`, `f1`, `recall`: 0 for a film without true boundaries, as in scikit-learn.
        `recall_at_3_seconds`: see `recall_at_3_seconds`. `miou`: see `scene_overlap`.
        `true`, `predicted`, `right`: numbers of boundaries; their sums give F1 over several films.

    Raises:
        BoundaryError: lengths differ, a score is NaN or infinite, a label is not 0 or 1, or end frames do not increase.
    """
    rows = [_film_row(number, film, threshold) for number, film in enumerate(films)]
    return {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in FILM_VALUES}


def recall_at_3_seconds(labels_M: np.ndarray, predicted_M: np.ndarray, end_frames_M: np.ndarray) -> float:
    """Share of true boundaries with a predicted one at most five shots and less than three seconds away.

    Like LGSS, it counts 24 frames as a second whatever the film's rate, and divides by the number of boundaries plus
    10⁻⁵: a perfect film with ten boundaries gets 0.999999, and a film without boundaries 0.
    """
    true_T, found_P = np.flatnonzero(labels_M), np.flatnonzero(predicted_M)
    shots_TP = abs(true_T[:, None] - found_P)
    frames_TP = abs(end_frames_M[true_T][:, None] - end_frames_M[found_P])
    hit_T = ((shots_TP <= SHOTS) & (frames_TP < SECONDS * FRAMES_PER_SECOND)).any(1)
    return float(hit_T.sum() / (len(true_T) + EPSILON))


def scene_overlap(labels_M: np.ndarray, predicted_M: np.ndarray, end_frames_M: np.ndarray) -> float:
    """Mean intersection over union, in frames, of each scene with its best match on the other side, in both directions.

    Like LGSS, it leaves out the shots after the last boundary, although they are a scene too, and gives 0 to a film
    without predicted boundaries. A film without true boundaries also gets 0; LGSS then gives no result for any film. A
    scene's length is the number of its last frame minus that of its first, so a single-frame scene overlaps nothing.
    """
    true_T2, found_P2 = _scenes(labels_M, end_frames_M), _scenes(predicted_M, end_frames_M)
    if not len(true_T2) or not len(found_P2):
        return 0.0
    (start_T, end_T), (start_P, end_P) = true_T2.T, found_P2.T
    both_TP = np.minimum(end_T[:, None], end_P) - np.maximum(start_T[:, None], start_P)
    either_TP = np.maximum(end_T[:, None], end_P) - np.minimum(start_T[:, None], start_P)
    overlap_TP = np.where(both_TP > 0, both_TP / np.maximum(either_TP, 1), 0)
    return float((overlap_TP.max(1).mean() + overlap_TP.max(0).mean()) / 2)


def _film_row(number: int, film: ScoredFilm, threshold: float) -> dict[str, float]:
    """A film's metrics by name; empty for a film without labeled shots."""
    scores_M, labels_M, ends_M = (np.asarray(values) for values in film)
    _check(number, scores_M, labels_M, ends_M)
    if not len(labels_M):
        return {}
    predicted_M = scores_M > threshold
    true, predicted, right = labels_M.sum(), predicted_M.sum(), (predicted_M & (labels_M == 1)).sum()
    return {
        "ap": _average_precision(labels_M, scores_M),
        "f1": 2 * right / max(true + predicted, 1),
        "recall": right / max(true, 1),
        "recall_at_3_seconds": recall_at_3_seconds(labels_M, predicted_M, ends_M),
        "miou": scene_overlap(labels_M, predicted_M, ends_M),
        "true": true,
        "predicted": predicted,
        "right": right,
    }


def _average_precision(labels_M: np.ndarray, scores_M: np.ndarray) -> float:
    return float(average_precision_score(labels_M, scores_M)) if np.any(labels_M) else 0.0


def _scenes(boundaries_M: np.ndarray, end_frames_M: np.ndarray) -> np.ndarray:
    """First and last frame (S, 2) of each of S scenes that end with a boundary."""
    end_S = end_frames_M[np.flatnonzero(boundaries_M)]
    return np.stack([np.concatenate([[-1], end_S])[: len(end_S)] + 1, end_S], axis=1)


def _check(number: int, scores_M: np.ndarray, labels_M: np.ndarray, end_frames_M: np.ndarray) -> None:
    sizes = len(scores_M), len(labels_M), len(end_frames_M)
    if len(set(sizes)) > 1:
        raise BoundaryError(f"film {number}: {sizes[0]} scores, {sizes[1]} labels, {sizes[2]} end frames; one a shot")
    if not np.isfinite(scores_M).all():
        raise BoundaryError(f"film {number}: the score of shot {(~np.isfinite(scores_M)).argmax()} is NaN or infinite")
    if not np.isin(labels_M, (0, 1)).all():
        wrong = labels_M[~np.isin(labels_M, (0, 1))][0]
        raise BoundaryError(f"film {number}: label {wrong}; labels must be 0 or 1 (MovieNet's -1 counts as 1)")
    if (np.diff(end_frames_M, prepend=-1) < 1).any():
        raise BoundaryError(f"film {number}: end frames do not grow from shot to shot; give each shot's last frame")
