"""Metrics of the paper's tasks against scikit-learn, scipy and loops written out; degenerate and wrong input."""

import json
import math
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.dummy import DummyClassifier
from sklearn.metrics import average_precision_score, f1_score, recall_score

from eval.metrics.baselines import constant_errors, majority_accuracy
from eval.metrics.boundaries import BoundaryError, ScoredFilm, boundary_metrics, film_values
from eval.metrics.classification import (
    ScoreError,
    average_precisions,
    mean_average_precision,
    moderation_average_precisions,
)
from eval.metrics.intervals import Interval, average_precision_interval, bootstrap_interval, mean_interval
from eval.metrics.neighbors import gallery_chance
from eval.metrics.retrieval import clustered_standard_error

SPLITS = ("train", "test")


def tags(count: int, classes: int, decimals: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that tell a little, rounded so that many are equal, and labels of which some classes have few."""
    random = np.random.default_rng(seed)
    labels = random.random((count, classes)) < np.linspace(0.02, 0.6, classes)
    scores = random.normal(size=(count, classes)) + labels
    return (scores if decimals is None else scores.round(decimals)), labels


@pytest.mark.parametrize("count", [1, 2, 67, 1001])
@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_precision_equals_scikit_learn(count, decimals, dtype):
    scores, labels = tags(count, 7, decimals)
    scores = scores.astype(dtype)
    found = average_precisions(scores, labels)
    assert found.shape == (7,)
    for number in range(7):
        if labels[:, number].any():
            expected = average_precision_score(labels[:, number], scores[:, number])
            assert found[number] == pytest.approx(expected, abs=1e-12)
        else:
            assert math.isnan(found[number])
    assert mean_average_precision(found) == pytest.approx(np.nanmean(found), nan_ok=True)


def test_average_precision_of_degenerate_scores():
    labels = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    assert average_precisions(np.zeros((3, 4)), labels) == pytest.approx([1 / 3, np.nan, 1, 2 / 3], nan_ok=True)
    assert average_precisions(labels.astype(float), labels)[[0, 2, 3]].tolist() == [1, 1, 1]
    assert math.isnan(mean_average_precision(average_precisions(np.zeros((3, 2)), np.zeros((3, 2)))))
    assert math.isnan(average_precisions(np.zeros((0, 1)), np.zeros((0, 1)))[0])


def test_scores_that_cannot_be_measured():
    scores, labels = tags(5, 3, None)
    with pytest.raises(ScoreError, match=r"shape \(5, 3\), labels of \(5, 2\)"):
        average_precisions(scores, labels[:, :2])
    with pytest.raises(ScoreError, match="label -1: labels must be 0 or 1"):
        average_precisions(scores, labels - 1)
    scores[3, 1] = np.nan
    with pytest.raises(ScoreError, match="scores of 1 scenes are NaN or infinite, those of scene 3"):
        average_precisions(scores, labels)
    with pytest.raises(ScoreError, match="label 3, but scores are of 3 classes"):
        moderation_average_precisions(np.zeros((2, 3)), [0, 3], none=2)


def test_moderation_is_one_class_against_the_others():
    random = np.random.default_rng(1)
    labels = random.choice(4, p=[0.1, 0.18, 0.19, 0.53], size=300)
    scores = np.exp(random.normal(size=(300, 4)) + 2 * np.eye(4)[labels])
    scores /= scores.sum(1, keepdims=True)
    found, average = moderation_average_precisions(scores, labels, none=3)
    expected = [average_precision_score(labels == number, scores[:, number]) for number in range(4)]
    assert found == pytest.approx(expected)
    assert average == pytest.approx(np.mean(expected[:3]))


def test_the_papers_moderation_average_is_of_three_classes():
    rows = {  # table 6: sex, violence, drug-use, average
        "SlowFast R50": (63.9, 46.5, 49.4, 53.3),
        "SlowFast R101": (61.0, 57.3, 54.0, 57.4),
        "X3D-L": (69.2, 49.4, 56.4, 58.4),
        "CLIP": (78.5, 62.1, 55.1, 65.2),
        "Ours": (81.8, 70.1, 62.2, 71.3),
    }
    for *activities, average in rows.values():
        # Each number is rounded to a tenth: the three terms and the average.
        assert abs(np.mean(activities) - average) <= 0.05 + 0.05
        fourth = 4 * average - sum(activities)
        assert abs(fourth - np.mean(activities)) < 0.4
    assert np.mean(rows["CLIP"][:3]) == pytest.approx(65.23, abs=0.005)
    assert np.mean(rows["Ours"][:3]) == pytest.approx(71.37, abs=0.005)


def test_baselines_equal_scikit_learn():
    random = np.random.default_rng(2)
    training, labels = random.choice(5, p=[0, 0.4, 0, 0.3, 0.3], size=60), random.integers(5, size=41)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((60, 1)), training)
    assert majority_accuracy(training, labels) == pytest.approx(dummy.score(np.zeros((41, 1)), labels))
    assert majority_accuracy(np.array([2, 1, 1, 2]), np.array([1, 2, 1, 0])) == 0.5
    assert constant_errors(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == {"mean": 2.0, "zero": 10.0}


def lvu(assets: Path, task: str, split: str) -> list[list[str]]:
    return [line.split() for line in (assets / f"labels/lvu_1.0/{task}/{split}.csv").read_text().splitlines()[1:]]


def test_baselines_of_lvu(assets):
    for task, accuracy in {"scene": 26.7, "director": 41.1, "relationship": 52.4, "genre": 21.2}.items():
        training, test = (np.array([int(row[0]) for row in lvu(assets, task, split)]) for split in ("train", "test"))
        assert 100 * majority_accuracy(training, test) == pytest.approx(accuracy, abs=0.05)
    views = [np.log([float(row[0]) for row in lvu(assets, "view_count", s)]) - 11.76425435683139 for s in SPLITS]
    likes = [
        np.array([10 * float(row[0]) / (float(row[0]) + float(row[1])) for row in lvu(assets, "like_ratio", s)])
        - 9.138220535629456
        for s in SPLITS
    ]
    assert constant_errors(*views)["zero"] == pytest.approx(4.0895, abs=5e-5)
    assert constant_errors(*likes)["zero"] == pytest.approx(0.6056, abs=5e-5)
    gallery = [int(row[0]) for row in lvu(assets, "scene", "train")]
    queries = [int(row[0]) for row in lvu(assets, "scene", "val")]
    assert 100 * gallery_chance(queries, gallery).mean() == pytest.approx(24.02, abs=0.005)
    # The paper's table 2 is of 114 queries; the files have 120.
    papers = np.repeat(range(6), [10, 4, 42, 14, 34, 10])
    assert 100 * gallery_chance(papers, gallery).mean() == pytest.approx(24.11, abs=0.005)


def test_boundaries_of_movienet(assets):
    """The 64 test films: a score that knows nothing has AP 7.65, one that knows all has 1."""
    known, blind, random = [], [], np.random.default_rng(0)
    with tarfile.open(assets / "labels/movienet_scene318.tar.gz") as archive:
        texts = {name: archive.extractfile(name).read().decode() for name in archive.getnames() if "." in name}
    split = json.loads(next(text for name, text in texts.items() if name.endswith("split318.json")))
    for movie_id in split["test"]:
        rows, shots = (
            [line.split() for line in texts[f"movienet_scene318/{folder}/{movie_id}.txt"].splitlines()]
            for folder in ("label318", "shot_movie318")
        )
        labels = np.abs([int(row[1]) for row in rows])
        ends = np.array([int(row[1]) for row in shots[: len(labels)]])
        known.append(ScoredFilm(labels.astype(float), labels, ends))
        blind.append(ScoredFilm(random.random(len(labels)), labels, ends))
    perfect = boundary_metrics(known)
    assert perfect.pop("chance") == pytest.approx(0.0765, abs=5e-5)
    assert list(perfect.values()) == pytest.approx([1] * 8, abs=1e-5)
    assert boundary_metrics(blind)["ap"] == pytest.approx(0.0765, abs=0.002)


def films(seed: int = 3, shots: tuple[int, ...] = (60, 1, 33, 0, 112, 7)) -> list[ScoredFilm]:
    """Films of awkward lengths with shots of one to 200 frames and coarse scores; the fourth is empty."""
    random = np.random.default_rng(seed)
    found = []
    for count in shots:
        labels = (random.random(count) < 0.2).astype(int)
        scores = (0.6 * random.random(count) + 0.4 * labels).round(1)
        found.append(ScoredFilm(scores, labels, random.integers(1, 200, size=count).cumsum() - 1))
    return found


def film_by_loop(film: ScoredFilm, threshold: float) -> dict[str, float]:
    """Recall within three seconds and mIoU, written out with sets of frames."""
    ends = film.end_frames_M.tolist()
    true = [shot for shot, label in enumerate(film.labels_M) if label == 1]
    found = [shot for shot, score in enumerate(film.scores_M) if score > threshold]
    hits = 0
    for boundary in true:
        near = [shot for shot in range(boundary - 5, boundary + 6) if shot in found]
        hits += any(abs(ends[shot] - ends[boundary]) / 24 < 3 for shot in near)

    def frames(boundaries: list[int]) -> list[set[int]]:
        first, scenes = 0, []
        for shot in boundaries:
            scenes.append(set(range(first, ends[shot])))  # a length is the last frame less the first
            first = ends[shot] + 1
        return scenes

    def overlap(scenes: list[set[int]], others: list[set[int]]) -> float:
        best = [max(len(a & b) / len(a | b) if a & b else 0 for b in others) for a in scenes]
        return sum(best) / len(best)

    sides = frames(true), frames(found)
    miou = (overlap(*sides) + overlap(*sides[::-1])) / 2 if true and found else 0
    return {"recall_at_3_seconds": hits / (len(true) + 1e-5), "miou": miou}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.4, 0.9])
def test_boundaries_equal_scikit_learn_and_the_loop(seed, threshold):
    catalog = films(seed)
    values, metrics = film_values(catalog, threshold), boundary_metrics(catalog, threshold)
    expected = []
    for number, film in enumerate(catalog):
        if not len(film.labels_M):
            assert all(math.isnan(values[name][number]) for name in values)
            continue
        predicted = film.scores_M > threshold
        row = {
            "ap": average_precision_score(film.labels_M, film.scores_M) if film.labels_M.any() else 0,
            "f1": f1_score(film.labels_M, predicted, zero_division=0),
            "recall": recall_score(film.labels_M, predicted, zero_division=0),
            **film_by_loop(film, threshold),
        }
        expected.append(row)
        assert {name: values[name][number] for name in row} == pytest.approx(row)
    labels, scores = (np.concatenate([film[column] for film in catalog]) for column in (1, 0))
    assert metrics == pytest.approx(
        {
            "ap": average_precision_score(labels, scores),
            "f1": f1_score(labels, scores > threshold, zero_division=0),
            "chance": labels.mean(),
            "ap_per_film": np.mean([row["ap"] for row in expected]),
            "ap_per_film_rounded": np.mean([round(row["ap"], 2) for row in expected]),
            "f1_per_film": np.mean([row["f1"] for row in expected]),
            "recall_per_film": np.mean([row["recall"] for row in expected]),
            "recall_at_3_seconds": np.mean([row["recall_at_3_seconds"] for row in expected]),
            "miou": np.mean([row["miou"] for row in expected]),
        }
    )


def film(scores: list[float], labels: list[int], ends: list[int]) -> ScoredFilm:
    return ScoredFilm(np.array(scores), np.array(labels), np.array(ends))


def test_perfect_boundaries():
    found = boundary_metrics([film([0, 1, 0, 1, 0], [0, 1, 0, 1, 0], [9, 19, 29, 39, 49])])
    assert found.pop("chance") == 0.4
    assert found.pop("recall_at_3_seconds") == pytest.approx(2 / (2 + 1e-5), abs=1e-12)
    assert set(found.values()) == {1}


def test_quirks_of_the_benchmark():
    # Three seconds are 72 frames, not reached; a boundary found exactly 72 frames off does not count.
    for frames, recall in ((71, 1), (72, 0)):
        values = film_values([film([1, 0], [0, 1], [100, 100 + frames])])
        assert values["recall_at_3_seconds"][0] == pytest.approx(recall, abs=1e-4)
    # Nor does one that is six shots away.
    for shots, recall in ((5, 1), (6, 0)):
        values = film_values([film([0] * shots + [1], [1] + [0] * shots, list(range(1, shots + 2)))])
        assert values["recall_at_3_seconds"][0] == pytest.approx(recall, abs=1e-4)
    # The shots after the last boundary are no scene: all is right before it.
    late = film_values([film([1, 0, 0], [1, 0, 0], [10, 20, 500])])
    assert late["miou"].tolist() == [1]
    # A score of the threshold predicts nothing, and a film without predictions has no overlap.
    assert film_values([film([0.5, 0.2], [1, 0], [10, 20])])["miou"].tolist() == [0]
    # A film without true boundaries, and one without any: 0 in all but the counts.
    for scores in ([1, 0], [0, 0]):
        values = film_values([film(scores, [0, 0], [10, 20])])
        assert [values[name][0] for name in ("ap", "f1", "recall", "recall_at_3_seconds", "miou")] == [0] * 5
    # A scene of one frame has no length.
    assert film_values([film([1, 1], [1, 1], [0, 9])])["miou"].tolist() == [0.5]


def test_films_that_cannot_be_measured():
    good = film([1, 0], [1, 0], [10, 20])
    for bad, message in {
        "film 1: 2 scores, 2 labels, 1 end frames": film([1, 0], [1, 0], [10]),
        "film 1: the score of shot 1 is NaN": film([1, np.nan], [1, 0], [10, 20]),
        "film 1: label -1; labels must be 0 or 1": film([1, 0], [1, -1], [10, 20]),
        "film 1: end frames do not grow": film([1, 0], [1, 0], [10, 10]),
    }.items():
        with pytest.raises(BoundaryError, match=re.escape(bad)):
            boundary_metrics([good, message])
    with pytest.raises(BoundaryError, match="2 films without a labeled shot"):
        boundary_metrics([film([], [], [])] * 2)


def resample_by_loop(scores, labels, weights) -> float:
    """Mean average precision of scenes repeated as often as they were drawn."""
    rows = np.repeat(np.arange(len(scores)), weights.astype(int))
    found = [
        average_precision_score(labels[rows, number], scores[rows, number])
        for number in range(scores.shape[1])
        if labels[rows, number].any()
    ]
    return np.mean(found) if found else np.nan


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_interval_of_average_precision_equals_resampling(decimals, classes, grouped):
    scores, labels = tags(83, classes, decimals)
    groups = np.random.default_rng(4).integers(9, size=83) if grouped else np.arange(83)
    seen = []

    def statistic(weights_NB):
        seen.append(weights_NB)
        return np.array([resample_by_loop(scores, labels, weights) for weights in weights_NB.T])

    expected = bootstrap_interval(statistic, groups, resamples=60, seed=1)
    found = average_precision_interval(scores, labels, groups if grouped else None, resamples=60, seed=1)
    assert found == pytest.approx(expected)
    weights_NB = np.concatenate(seen, axis=1)
    assert weights_NB.shape == (83, 60)
    for group in np.unique(groups):
        assert (weights_NB[groups == group] == weights_NB[groups == group][0]).all()  # drawn together
    firsts = np.unique(groups, return_index=True)[1]
    assert (weights_NB[firsts].sum(0) == len(firsts)).all()  # as many films as there are


def test_interval_of_a_mean_equals_resampling():
    random = np.random.default_rng(5)
    values, groups = random.normal(size=70), np.array([f"tt{n}" for n in random.integers(11, size=70)])

    def statistic(weights_NB):
        return np.array([np.mean(np.repeat(values, weights.astype(int))) for weights in weights_NB.T])

    for clusters in (groups, None):
        expected = bootstrap_interval(statistic, np.arange(70) if clusters is None else clusters, 200, 0.8, seed=2)
        assert mean_interval(values, clusters, 200, 0.8, seed=2) == pytest.approx(expected)
    assert mean_interval(values, groups, seed=3) != mean_interval(values, groups, seed=4)
    assert mean_interval(values, groups, seed=3) == mean_interval(values, groups, seed=3)


def test_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(6).exponential(size=90)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=7).confidence_interval
    assert mean_interval(values, resamples=20_000) == pytest.approx(tuple(expected), abs=0.01)


def test_films_are_what_is_drawn():
    random = np.random.default_rng(7)
    films = np.repeat(np.arange(60), random.integers(1, 9, size=60))
    values = random.normal(size=60)[films] + random.normal(size=len(films))
    low, high = mean_interval(values, films, resamples=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * clustered_standard_error(values, films), rel=0.1)
    alone = mean_interval(values, resamples=4000)
    assert alone.high - alone.low < 0.8 * (high - low)
    # The same scenes three times over are not more films.
    assert mean_interval(np.tile(values, 3), np.tile(films, 3)) == pytest.approx(mean_interval(values, films))


def test_memory_does_not_change_intervals(monkeypatch):
    scores, labels = tags(50, 2, 1)
    groups = np.arange(50) // 3
    expected = mean_interval(scores[:, 0], groups), average_precision_interval(scores, labels, groups)
    monkeypatch.setattr("eval.metrics.intervals.MOST_WEIGHTS", 777)
    found = mean_interval(scores[:, 0], groups), average_precision_interval(scores, labels, groups)
    assert np.array(found) == pytest.approx(np.array(expected))


def test_degenerate_intervals():
    assert mean_interval([0.25] * 9) == Interval(0.25, 0.25)
    assert all(math.isnan(end) for end in average_precision_interval(np.zeros((5, 2)), np.zeros((5, 2))))
    # One film says nothing of others.
    scores, labels = tags(30, 1, None)
    for only in (
        average_precision_interval(scores, labels, ["tt1"] * 30),
        mean_interval([1, 2, 3], ["tt1"] * 3),
        mean_interval([3.0]),
    ):
        assert all(math.isnan(end) for end in only)
    with pytest.raises(ValueError, match="no scenes"):
        mean_interval([])
    with pytest.raises(ValueError, match="2 values, but 3 groups"):
        mean_interval([1, 2], [1, 2, 3])
