"""The evaluation of story scenes: rivals against loops and all divisions, figures by hand, the command in one world."""

import json
from itertools import pairwise, product

import numpy as np
import pytest

from eval.film_worlds.scene_divisions import (
    best_threshold,
    deviations,
    ends_of,
    figures_of,
    least_alike,
    least_by_number,
    least_deviation,
    matches,
    with_number,
)
from eval.story_scenes import main


def test_deviations_are_those_of_each_run():
    shots = np.random.default_rng(0).normal(size=(6, 3))
    costs = deviations(shots)
    for end, length in product(range(6), range(1, 7)):
        run = shots[end + 1 - length : end + 1] if length <= end + 1 else None
        expected = np.inf if run is None else ((run - run.mean(0)) ** 2).sum()
        assert costs[end, length - 1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_a_given_number_of_runs_is_the_best_of_all(number):
    costs = deviations(np.random.default_rng(number).normal(size=(8, 2)))
    best = (np.inf, None)
    for ends in product([False, True], repeat=7):
        if sum(ends) == number - 1:
            starts = [0, *(shot + 1 for shot, is_end in enumerate(ends) if is_end), 8]
            cost = sum(costs[end - 1, end - start - 1] for start, end in pairwise(starts))
            best = min(best, (cost, ends))
    totals, _ = least_by_number(costs, number)
    assert len(totals) == number and totals[-1] == pytest.approx(best[0])
    assert tuple(with_number(costs, number)) == best[1]


def test_rivals_find_what_is_plain():
    shots = np.repeat(np.eye(4)[[0, 1, 2]], [5, 4, 6], axis=0) + 0.01 * np.random.default_rng(0).normal(size=(15, 4))
    shots /= np.linalg.norm(shots, axis=1, keepdims=True)
    expected = ends_of([0, 5, 9], 15)
    assert np.flatnonzero(expected).tolist() == [4, 8]
    assert (least_alike(shots, 3) == expected).all()
    assert (least_deviation(shots, np.random.default_rng(0)) == expected).all()


def test_figures_are_as_counted_by_hand():
    true = [ends_of([0, 4, 8], 12), ends_of([0], 5)]
    found = [ends_of([0, 4, 7, 10], 12), ends_of([0, 2], 5)]
    figures = figures_of(found, true)
    assert figures["precision"] == pytest.approx(1 / 4) and figures["recall"] == pytest.approx(1 / 2)
    assert figures["f1"] == pytest.approx(2 / 6) and figures["f1_within_one"] == pytest.approx(4 / 6)


def test_each_end_is_matched_once():
    for seed in range(20):
        random = np.random.default_rng(seed)
        found, true = (np.flatnonzero(random.random(7) < 0.5) for _ in range(2))
        assert matches(found, true) == most_matches(found.tolist(), true.tolist())


def most_matches(found: list[int], true: list[int]) -> int:
    if not found:
        return 0
    choices = [
        1 + most_matches(found[1:], true[:number] + true[number + 1 :])
        for number, each in enumerate(true)
        if abs(each - found[0]) <= 1
    ]
    return max([most_matches(found[1:], true), *choices])


@pytest.mark.slow
def test_the_command_measures_a_tiny_world(tmp_path, capsys):
    words = ["--output", str(tmp_path / "run"), "--results", str(tmp_path / "results.json"), "--seeds", "7"]
    main([*words, "--num-films", "5", "--film-seconds", "40"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["over_seeds"]["story"]["f1"]["mean"] > results["over_seeds"]["windows"]["f1"]["mean"]
    table = (tmp_path / "results.md").read_text()
    assert table in capsys.readouterr().out and "| story " in table
    with pytest.raises(SystemExit, match="num_films is 4"):
        main([*words, "--num-films", "4"])


def test_the_threshold_is_the_best_of_all():
    random = np.random.default_rng(0)
    for _ in range(10):
        scores, labels = random.random(12), (random.random(12) < 0.4).astype(int)

        def f1(threshold, scores=scores, labels=labels):
            found = scores >= threshold
            return 2 * (found & (labels == 1)).sum() / (found.sum() + labels.sum())

        assert f1(best_threshold(scores, labels)) == max(map(f1, scores))
