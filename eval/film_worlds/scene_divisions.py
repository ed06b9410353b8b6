"""Ways to divide films into scenes, and their figures in film worlds; `eval.story_scenes` says what they are.

Shapes: T shots of a film, D features, L the length of the longest run, K numbers of runs, M cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.features.shot_features import ShotFeatures
from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.mining.spaces import SHRINKAGE
from eval.film_worlds.results import summarize
from eval.film_worlds.steps import run_once
from eval.film_worlds.tables import percent, table
from eval.film_worlds.truth import read_truth, true_scenes
from eval.metrics.boundaries import ScoredFilm, boundary_metrics, film_values
from eval.probes import ProbeTask, linear_probe
from eval.story_scenes import StoryScenesArguments
from eval.tasks.scene_boundaries import boundary_task
from modeling_m2s.pipeline_m2s import scene_windows
from modeling_m2s.pretrained_m2s import name_without_folders
from modeling_m2s.story_scenes_m2s import LONGEST_SCENE, SceneAxes, run_costs, story_scenes
from modeling_m2s.whitening_m2s import Moments, Whitening

NUM_ORDERS = 5  # random orders of a film's shots
NUM_DIRECTIONS = 64  # of the whitening of rivals
FIGURES = ("f1", "precision", "recall", "f1_within_one", "miou")
SPLITS = ("train", "train", "train", "validation", "test")  # of each five films in a row


@dataclass(frozen=True)
class World:
    """Films: the vectors of their shots, raw and whitened to length 1 (T, D), and where true scenes end (T - 1,)."""

    films: list[np.ndarray]
    whitened: list[np.ndarray]
    ends: list[np.ndarray]


def measure_worlds(arguments: StoryScenesArguments) -> dict[str, Any]:
    """Figures of every seed, and their means and standard deviations."""
    seeds = {}
    for seed in arguments.seeds:
        folder = arguments.output / f"seed-{seed}"
        size = ["--num_films", arguments.num_films, "--film_seconds", arguments.film_seconds]
        drawn = ["--keyframes_only", "true", "--seed", seed, *size]
        run_once("data_scripts.make_film_world", *drawn, output=folder / "world")
        read = ["--shots", folder / "world/shots", "--model", arguments.model, "--vector", "pooler_output"]
        run_once("data_scripts.extract_features", *read, output=folder / "shot_features")
        seeds[str(seed)] = measure_world(read_world(folder), seed)
    return {
        "model": name_without_folders(arguments.model),
        "films": arguments.num_films,
        "film_seconds": arguments.film_seconds,
        "seeds": seeds,
        "over_seeds": summarize(list(seeds.values())),
    }


def read_world(folder: Path) -> World:
    """A world whose shots' features are in `folder/shot_features`."""
    features = ShotFeatures(folder / "shot_features", folder / "cache")
    truth = read_truth(folder / "world/truth/shots.csv")
    films = [np.asarray(features[movie_id], np.float64) for movie_id in features.movie_ids]
    moments = Moments(features.dim)
    for film in films:
        moments.add(film)
    whitening = Whitening.fit(moments, NUM_DIRECTIONS, SHRINKAGE)
    whitened = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in map(whitening.apply, films)]
    scenes = [true_scenes(truth, [movie_id]) for movie_id in features.movie_ids]
    ends = [ends_of([scene.first_shot for scene in each], len(film)) for each, film in zip(scenes, films, strict=True)]
    return World(films, whitened, ends)


def ends_of(starts: Sequence[int], num_shots: int) -> np.ndarray:
    """Whether a scene ends with each shot but the last, bool (T - 1,), from the first shots of scenes."""
    return np.isin(np.arange(1, num_shots), starts)


def measure_world(world: World, seed: int) -> dict[str, dict[str, float]]:
    """`FIGURES` of each way."""
    axes = SceneAxes.fit(world.films)
    random = np.random.default_rng(seed)
    numbers = [int(ends.sum()) + 1 for ends in world.ends]
    found = {
        "story": [_story(film, axes) for film in world.films],
        "story, film alone": [_story(film, SceneAxes.fit([film])) for film in world.films],
        "story, true number": [
            with_number(run_costs(axes.apply(film), axes.spreads_K, LONGEST_SCENE), number)
            for film, number in zip(world.films, numbers, strict=True)
        ],
        "least deviation": [least_deviation(film, random) for film in world.whitened],
        "least deviation, true number": [
            with_number(deviations(film), number) for film, number in zip(world.whitened, numbers, strict=True)
        ],
        "cosine, true number": [
            least_alike(film, number) for film, number in zip(world.whitened, numbers, strict=True)
        ],
        "windows": [ends_of([first for first, _ in scene_windows(len(film))], len(film)) for film in world.films],
    }
    figures = {name: figures_of(each, world.ends) for name, each in found.items()}
    tested, probed = probe(world)
    chosen = [world.ends[number] for number in tested]
    figures["story, test films"] = figures_of([found["story"][number] for number in tested], chosen)
    figures["probe, test films"] = figures_of(probed, chosen)
    return figures


def _story(film: np.ndarray, axes: SceneAxes) -> np.ndarray:
    return ends_of([first for first, _ in story_scenes(film, axes)], len(film))


def with_number(costs_TL: np.ndarray, number: int) -> np.ndarray:
    """Ends of runs, a mask (T - 1,), for the cheapest division of a film into that number of runs."""
    _, lengths_KT = least_by_number(costs_TL, number)
    starts, end = [], len(costs_TL)
    for count in range(number, 0, -1):
        end -= int(lengths_KT[count - 1, end - 1])
        starts.append(end)
    return ends_of(starts, len(costs_TL))


def least_by_number(costs_TL: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The least cost of a film in 1 … `most` runs (K,), and the length (K, T) of the last run up to each shot."""
    T, L = costs_TL.shape
    places_TL = np.maximum(0, np.arange(T)[:, None] - np.arange(L))
    least_T, lengths_KT, totals = np.r_[0.0, np.full(T, np.inf)], np.zeros((most, T), np.int64), []
    for count in range(most):
        sums_TL = least_T[places_TL] + costs_TL
        lengths_KT[count] = sums_TL.argmin(1) + 1
        least_T = np.r_[np.inf, sums_TL.min(1)]
        totals.append(float(least_T[-1]))
    return np.array(totals), lengths_KT


def deviations(shots_TD: np.ndarray) -> np.ndarray:
    """Squared deviations (T, T) from the mean: in row t, column l, of the l + 1 shots that end with t, or infinity."""
    T = len(shots_TD)
    sums_TD = np.concatenate([np.zeros((1, shots_TD.shape[1])), np.cumsum(shots_TD, axis=0)])
    squares_T = np.concatenate([[0.0], np.cumsum((shots_TD**2).sum(1))])
    costs_TL = np.full((T, T), np.inf)
    for length in range(1, T + 1):
        sums = ((sums_TD[length:] - sums_TD[:-length]) ** 2).sum(1)
        costs_TL[length - 1 :, length - 1] = squares_T[length:] - squares_T[:-length] - sums / length
    return costs_TL


def least_deviation(shots_TD: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Where runs of least deviation end; their number lowers it most below that of shots in random order."""
    costs_TL, most = deviations(shots_TD), max(1, len(shots_TD) // 2)
    orders = [least_by_number(deviations(random.permutation(shots_TD)), most)[0] for _ in range(NUM_ORDERS)]
    gaps = np.mean(orders, axis=0) - least_by_number(costs_TL, most)[0]
    return with_number(costs_TL, 1 + int(gaps.argmax()))


def least_alike(shots_TD: np.ndarray, number: int) -> np.ndarray:
    """The `number` - 1 cuts between the neighbors of lowest cosine; the shots have length 1."""
    cosines_M = (shots_TD[1:] * shots_TD[:-1]).sum(1)
    return ends_of(1 + np.argsort(cosines_M, kind="stable")[: number - 1], len(shots_TD))


def probe(world: World) -> tuple[list[int], list[np.ndarray]]:
    """Numbers of the test films, and where the probe ends their scenes."""
    labeled, differences = [], []
    for number, (film, ends) in enumerate(zip(world.whitened, world.ends, strict=True)):
        frames_S2 = np.stack([np.arange(len(film))] * 2, axis=1)
        each = FilmBoundaries(f"{number:06d}", SPLITS[number % len(SPLITS)], ends.astype(np.int64), frames_S2)
        shots_M4D = film[each.windows()]
        means_M2D = np.stack([shots_M4D[:, :2].mean(1), shots_M4D[:, 2:].mean(1)], axis=1)
        steps = [abs(pair_M2D[:, 1] - pair_M2D[:, 0]) for pair_M2D in (shots_M4D[:, 1:3], means_M2D)]
        differences.append(np.concatenate(steps, axis=1))
        labeled.append(each)
    task = boundary_task("film_world", labeled)
    inputs_ND = np.concatenate(differences).astype(np.float32)
    probed = ProbeTask(task.labeled, inputs_ND)
    result = linear_probe(probed, metric=task.select)
    threshold = best_threshold(result.validation_scores[:, 1], probed.labels("validation"))
    tested = [number for number, film in enumerate(labeled) if film.split == "test"]
    sizes = np.cumsum([len(world.ends[number]) for number in tested])[:-1]
    return tested, [scores >= threshold for scores in np.split(result.test_scores[:, 1], sizes)]


def best_threshold(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """The score from which on ends are predicted so that F1 is highest; the higher one wins a tie."""
    order = np.argsort(-scores_N, kind="stable")
    f1_N = 2 * np.cumsum(labels_N[order]) / (np.arange(1, len(order) + 1) + labels_N.sum())
    return float(scores_N[order[f1_N.argmax()]])


def figures_of(found: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float]:
    """`FIGURES` over the cuts of all films, from where scenes were found to end and where they do."""
    films = [
        ScoredFilm(each.astype(float), ends.astype(int), np.arange(len(ends)))
        for each, ends in zip(found, true, strict=True)
    ]
    values = {name: float(np.nansum(values_F)) for name, values_F in film_values(films).items()}
    metrics = boundary_metrics(films)
    near = sum(matches(np.flatnonzero(a), np.flatnonzero(b)) for a, b in zip(found, true, strict=True))
    return {
        "f1": metrics["f1"],
        "precision": values["right"] / max(values["predicted"], 1.0),
        "recall": values["right"] / max(values["true"], 1.0),
        "f1_within_one": 2 * near / max(values["predicted"] + values["true"], 1.0),
        "miou": metrics["miou"],
    }


def matches(found_P: np.ndarray, true_T: np.ndarray, tolerance: int = 1) -> int:
    """The most pairs of a found and a true end at most `tolerance` shots apart, none in two pairs; both ascending."""
    count, p, t = 0, 0, 0
    while p < len(found_P) and t < len(true_T):
        if abs(int(found_P[p]) - int(true_T[t])) <= tolerance:
            count, p, t = count + 1, p + 1, t + 1
        elif found_P[p] < true_T[t]:
            p += 1
        else:
            t += 1
    return count


def markdown(results: dict[str, Any]) -> str:
    """The table of the figures over seeds."""
    head = ["", "F1", "precision", "recall", "F1 within one shot", "mIoU of scenes"]
    rows = [
        [name, *(percent(figures[figure]) for figure in FIGURES)] for name, figures in results["over_seeds"].items()
    ]
    facts = (
        f"Worlds of {results['films']} films of about {results['film_seconds']:.0f} seconds, seeds "
        f"{', '.join(results['seeds'])}, encoder {results['model']}. All figures are percent, means ± standard "
        "deviations over seeds."
    )
    return f"{facts}\n\n{table(head, rows)}\n"
