"""Story scenes: costs by SciPy's densities, the division by trying all, planted scenes, awkward films, bad input."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from modeling_m2s.story_scenes_m2s import SceneAxes, cheapest_runs, run_costs, shortest_description, story_scenes


def planted(lengths: list[int], dim: int = 24, seed: int = 0, offset: float = 5.0) -> np.ndarray:
    """A film (T, dim) of scenes of these lengths, with scatter within scenes that differs from axis to axis."""
    random = np.random.default_rng(seed)
    within = np.linspace(0.3, 3, dim)
    means = np.repeat(random.normal(0, 2.5, (len(lengths), dim)), lengths, axis=0)
    return offset + means + within * random.normal(size=means.shape)


def catalog(num_films: int = 6) -> tuple[list[np.ndarray], list[list[tuple[int, int]]]]:
    films, scenes = [], []
    for seed in range(num_films):
        lengths = np.random.default_rng(seed).integers(3, 12, 7).tolist()
        films.append(planted(lengths, seed=seed))
        firsts = np.cumsum([0, *lengths[:-1]]).tolist()
        scenes.append(list(zip(firsts, lengths, strict=True)))
    return films, scenes


def total_cost(costs_TL: np.ndarray, starts: list[int], end_cost: float = 0.0) -> float:
    ends = [*starts[1:], len(costs_TL)]
    runs = list(zip(starts, ends, strict=True))
    if any(end - start > costs_TL.shape[1] for start, end in runs):
        return np.inf
    return sum(costs_TL[end - 1, end - start - 1] + end_cost for start, end in runs)


def test_costs_are_ratios_of_gaussian_densities():
    random = np.random.default_rng(0)
    shots, spreads = random.normal(0, 2, (7, 3)), np.array([4.0, 0.5, 0.01])
    costs = run_costs(shots, spreads, longest=5)
    assert costs.shape == (7, 5)
    for end, length in product(range(7), range(1, 6)):
        if length > end + 1:
            assert costs[end, length - 1] == np.inf
            continue
        expected = 0.0
        for axis, spread in enumerate(spreads):
            run = shots[end + 1 - length : end + 1, axis]
            scene = multivariate_normal(np.zeros(length), np.eye(length) + spread)
            alone = multivariate_normal(np.zeros(length), np.eye(length))
            expected -= scene.logpdf(run) - alone.logpdf(run)
        assert costs[end, length - 1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("longest", [1, 3, 9, 40])
@pytest.mark.parametrize("num_shots", [1, 2, 8, 9])
def test_the_division_is_the_best_of_all(num_shots, longest):
    for seed, end_cost in product(range(3), (0.0, 1.3)):
        random = np.random.default_rng(seed)
        costs = run_costs(random.normal(0, 1.5, (num_shots, 2)), np.array([2.0, 1.0]), longest)
        every = [
            [0, *(shot + 1 for shot, is_end in enumerate(ends) if is_end)]
            for ends in product([False, True], repeat=num_shots - 1)
        ]
        least = min(every, key=lambda starts: total_cost(costs, starts, end_cost))
        assert cheapest_runs(costs, end_cost) == least


def test_the_rate_of_ends_fits_the_runs_that_it_gives():
    film = planted([5, 9, 4, 12, 7])
    axes = SceneAxes.fit([film])
    costs = run_costs(axes.apply(film), axes.spreads_K, 40)
    starts = shortest_description(costs)
    rate = len(starts) / (len(film) + 1)
    assert rate < 0.5 and cheapest_runs(costs, np.log((1 - rate) / rate)) == starts
    assert len(starts) <= len(cheapest_runs(costs))


def test_planted_scenes_are_found_in_a_catalog_and_in_one_film():
    films, scenes = catalog()
    axes = SceneAxes.fit(iter(films))
    found = [story_scenes(film, axes) for film in films]
    right = sum(len(set(a) & set(b)) for a, b in zip(found, scenes, strict=True))
    assert right >= 0.9 * sum(map(len, scenes))
    long = planted([8] * 30, seed=9)
    alone = story_scenes(long, SceneAxes.fit([long]))
    assert len(set(alone) & {(first, 8) for first in range(0, 240, 8)}) >= 27


def test_axes_are_as_written_out():
    """With many shots, the shrinkage is small, and the axes are those of the ratio of both covariances."""
    films = [planted([10] * 200, dim=4, seed=seed, offset=1e4) for seed in range(3)]
    axes = SceneAxes.fit(films)
    shots = np.concatenate(films)
    differences = np.concatenate([np.diff(film, axis=0) for film in films])
    total, within = np.cov(shots.T), differences.T @ differences / len(differences) / 2
    np.testing.assert_allclose(axes.mean_D, shots.mean(0), rtol=1e-11)  # moments round to 22 bits
    np.testing.assert_allclose(axes.axes_DK.T @ within @ axes.axes_DK, np.eye(4), atol=0.02)
    np.testing.assert_allclose(axes.axes_DK.T @ total @ axes.axes_DK, np.diag(1 + axes.spreads_K), atol=0.2)
    assert (np.diff(axes.spreads_K) <= 0).all()


def test_scenes_do_not_depend_on_the_features_scale_place_and_axes():
    films, _ = catalog()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))
    moved = [100 * film @ rotation + 3 for film in films]
    axes, moved_axes = SceneAxes.fit(films), SceneAxes.fit(moved)
    np.testing.assert_allclose(axes.spreads_K, moved_axes.spreads_K, rtol=1e-6)
    for film, other in zip(films, moved, strict=True):
        assert story_scenes(film, axes) == story_scenes(other, moved_axes)


def test_a_shot_without_a_keyframe_belongs_to_the_scene_before():
    films, _ = catalog()
    expected = story_scenes(films[0], SceneAxes.fit(films))
    places = [0, 0, expected[2][0], len(films[0])]  # before the film, before its third scene, after the film
    gaps = [np.insert(films[0], places, 0.0, axis=0), *films[1:]]
    axes = SceneAxes.fit(gaps)
    np.testing.assert_allclose(axes.spreads_K, SceneAxes.fit(films).spreads_K, rtol=1e-9)
    found = story_scenes(gaps[0], axes)
    assert [num_shots for _, num_shots in found] == [
        length + {0: 2, 1: 1, len(expected) - 1: 1}.get(number, 0) for number, (_, length) in enumerate(expected)
    ]
    assert found[0][0] == 0 and sum(found[-1]) == len(gaps[0])


@pytest.mark.parametrize(
    "film, scenes",
    [
        (np.zeros((0, 5)), []),
        (np.ones((1, 5)), [(0, 1)]),
        (np.random.default_rng(0).normal(size=(2, 5)), [(0, 2)]),
        (np.zeros((4, 5)), [(0, 4)]),
        (np.full((30, 5), 7.0), [(0, 30)]),
    ],
    ids=["no shot", "one shot", "two shots", "no keyframe", "equal shots"],
)
def test_small_and_equal_films_are_one_scene(film, scenes):
    assert story_scenes(film, SceneAxes.fit([film])) == scenes
    films, _ = catalog()
    wide = np.pad(film, ((0, 0), (0, 19)))
    found = story_scenes(wide, SceneAxes.fit([wide, *films]))
    assert sum(num_shots for _, num_shots in found) == len(film)


def test_no_scene_is_longer_than_asked():
    film = np.random.default_rng(0).normal(size=(40, 6)) + 4 * np.repeat([0, 1], 20)[:, None]
    axes = SceneAxes.fit([film])
    assert story_scenes(film, axes) == [(0, 20), (20, 20)]
    assert max(num_shots for _, num_shots in story_scenes(film, axes, longest=7)) == 7


def test_bad_input_is_named():
    film = np.ones((3, 4))
    with pytest.raises(ValueError, match="no films"):
        SceneAxes.fit([])
    with pytest.raises(ValueError, match="width 5, another of 4"):
        SceneAxes.fit([film, np.ones((3, 5))])
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \(shots, dim\)"):
        SceneAxes.fit([film[0]])
    film[1, 2] = np.nan
    with pytest.raises(ValueError, match="shot 1: a value is infinite or not a number"):
        SceneAxes.fit([film])
    with pytest.raises(ValueError, match="longest=0 must be at least 1"):
        story_scenes(np.ones((3, 4)), SceneAxes.fit([np.ones((3, 4))]), longest=0)
