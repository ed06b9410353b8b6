"""Scenes of a film world and their neighbors in other films: the measurements of `eval.scene_retrieval`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_scripts.features.scene_embedding import Scene, embed_scenes
from data_scripts.features.shot_features import ShotFeatures, has_keyframe
from data_scripts.mining.spaces import SHRINKAGE
from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.text_files import text_lines
from eval.film_worlds.truth import TrueScene, Truth, read_truth, true_scenes
from eval.metrics.retrieval import average_precision, chance, clustered_standard_error, precision_at_k
from eval.scene_retrieval import SceneRetrievalArguments
from modeling_m2s.pipeline_m2s import evenly_spaced
from modeling_m2s.pretrained_m2s import load_encoder
from modeling_m2s.whitening_m2s import Moments, Whitening

SPACES = ("raw", "centered", "whitened")
K = (1, 5)
BOUNDARY_SHOTS = 4  # on either side of a cut
SETTINGS = (
    "position_interpolation",
    "shot_space",
    "context_shots",
    "neighbors",
    "num_films",
    "num_training_scenes",
    "num_boundary_films",
    "bf16",
    "seed",
)
Embed = Callable[[Sequence[TrueScene]], np.ndarray]


def measure(arguments: SceneRetrievalArguments) -> dict[str, Any]:
    """Measure place retrieval and the probes, for an encoder or for means of single shots.

    Returns:
        `figures`: means, and standard errors by film, of precision at 1 and 5 and average precision in each space, of
        the probes, and of average precision of boundaries; `queries`: the same for each query, with its film; `chance`;
        `settings`.

    Raises:
        ValueError: no such model; or as in `draw_scenes`.
        StorageError: a dataset cannot be used.
    """
    queries, training = draw_scenes(arguments)
    if arguments.features:
        held_out = read_films(arguments.held_out)
        embed = shot_means(arguments.features, held_out, arguments.shot_space, arguments.context_shots)
    else:
        embed = encoder_of(arguments.model, arguments.position_interpolation, arguments.world / "shots", arguments.bf16)
    training_MD = embed(training)
    values = judge(embed(queries), queries, training_MD, training, arguments.neighbors)
    films = [scene.movie_id for scene in queries]
    boundaries = find_boundaries(embed, training_MD, read_truth(arguments.world / "truth/shots.csv"), films, arguments)
    return {
        "figures": {
            name: {
                "mean": round(float(np.mean(each)), 4),
                "standard_error": round(clustered_standard_error(each, films), 4),
            }
            for name, each in values.items()
        }
        | boundaries,
        "chance": round(
            float(chance(*places_and_groups(queries, training, arguments.neighbors))[: len(queries)].mean()), 4
        ),
        "counts": {
            "queries": len(queries),
            "films": len(set(films)),
            "training_scenes": len(training),
        },
        "settings": {name: getattr(arguments, name) for name in SETTINGS},
        "queries": {
            "movie_id": films,
            "first_shot": [scene.first_shot for scene in queries],
            **{name: np.round(each, 5).tolist() for name, each in values.items()},
        },
    }


def card_entry(measurement: dict[str, Any], world: str) -> dict[str, dict[str, Any]]:
    """The figures in the form of model cards: retrieval by space, beside chance, and the probe."""
    figures, counts = measurement["figures"], measurement["counts"]
    spaces = {
        space: {"figures": {name.partition("/")[2]: each for name, each in figures.items() if name.startswith(space)}}
        for space in SPACES
    }
    facts = {
        "labels": world,
        "scenes": {"test": counts["queries"]},
        "films": counts["films"],
        "measured_with": {name: value for name, value in measurement["settings"].items() if name != "shot_space"},
    }
    chances = {"chance": {"precision_at_1": measurement["chance"], "precision_at_5": measurement["chance"]}}
    return {
        "place retrieval": {"figure": "precision_at_1", **facts, "probes": spaces, "trivial": chances},
        "place probe": {
            "figure": "accuracy",
            **facts,
            "probes": {"logistic regression": {"figures": {"accuracy": figures["probe"]}}},
            "trivial": {},
        },
    }


def read_films(path: Path) -> set[str]:
    """Ids in a text file, one per line."""
    return {line.split("#")[0].strip() for line in text_lines(path)} - {""}


def draw_scenes(arguments: SceneRetrievalArguments) -> tuple[list[TrueScene], list[TrueScene]]:
    """The queries (scenes of held-out films), and scenes of training films for statistics and probes.

    Raises:
        ValueError: fewer than two held-out films, the world lacks one, or all its films are held out.
    """
    truth = read_truth(arguments.world / "truth/shots.csv")
    held_out = read_films(arguments.held_out)
    if len(held_out) < 2:
        raise ValueError(f"{arguments.held_out} names {len(held_out)} films; retrieval needs at least two")
    if missing := sorted(held_out - truth.keys()):
        raise ValueError(f"{arguments.held_out} names film {missing[0]}, which {arguments.world} does not have")
    if held_out == truth.keys():
        raise ValueError(f"{arguments.held_out} names all films of {arguments.world}: none is left to fit a probe on")
    random = np.random.default_rng(arguments.seed)
    films = _drawn(random, sorted(held_out), arguments.num_films)
    training = true_scenes(truth, sorted(truth.keys() - held_out))
    return true_scenes(truth, films), _drawn(random, training, arguments.num_training_scenes)


def _drawn(random: np.random.Generator, values: list[Any], most: int) -> list[Any]:
    """At most `most` values, drawn at random and kept in order."""
    chosen = random.choice(len(values), size=min(most, len(values)), replace=False)
    return [values[place] for place in sorted(chosen.tolist())]


def shots_read(scene: TrueScene) -> list[int]:
    """The shots that are read of a scene: up to nine, evenly spaced."""
    return evenly_spaced(scene.first_shot, scene.num_shots)


def encoder_of(model: str, position_interpolation: str | None, shots: Path, bf16: bool) -> Embed:
    """A function that embeds the shots of a scene jointly: `pooler_output` (scenes, D) of up to nine shots each."""
    encoder, image_processor, _ = load_encoder(model, position_interpolation)
    frames = SceneFrames(shots, image_processor)

    def embed(scenes: Sequence[TrueScene]) -> np.ndarray:
        return embed_scenes(encoder, frames, [Scene(scene.movie_id, shots_read(scene)) for scene in scenes], bf16)

    return embed


def shot_means(folder: Path, held_out: set[str], space: str, context_shots: int = 0) -> Embed:
    """A function that embeds scenes without training: the mean features of the same shots, up to nine.

    Args:
        space: raw, or whitened by statistics of all shots of the training films. Shots without a keyframe are left out.
        context_shots: number of shots before the scene, and after it, that the mean includes.
    """
    features = ShotFeatures(folder)
    whitening = None
    if space == "whitened":
        moments = Moments(features.dim)
        for movie_id in features.movie_ids:
            if movie_id not in held_out:
                film_MD = np.asarray(features[movie_id])
                moments.add(film_MD[has_keyframe(film_MD)])
        whitening = Whitening.fit(moments, shrinkage=SHRINKAGE)

    def embed(scenes: Sequence[TrueScene]) -> np.ndarray:
        means = []
        for scene in scenes:
            first, end = scene.first_shot, scene.first_shot + scene.num_shots
            film_MD = np.asarray(features[scene.movie_id])
            context = [*range(max(0, first - context_shots), first)]
            context += range(end, min(len(film_MD), end + context_shots))
            shots_MD = film_MD[[*shots_read(scene), *context]].astype(np.float64)
            shots_MD = shots_MD[has_keyframe(shots_MD)]
            if not len(shots_MD):
                raise ValueError(f"film {scene.movie_id}, shots from {scene.first_shot} on: none has a keyframe")
            means.append((whitening.apply(shots_MD) if whitening else shots_MD).mean(0))
        return np.stack(means)

    return embed


def fit_whitening(vectors_ND: np.ndarray, num_directions: int | None = None) -> Whitening:
    """Whitening fitted to these vectors' mean and covariance."""
    moments = Moments(vectors_ND.shape[1])
    moments.add(vectors_ND)
    return Whitening.fit(moments, num_directions, SHRINKAGE)


def judge(
    queries_ND: np.ndarray,
    queries: Sequence[TrueScene],
    training_MD: np.ndarray,
    training: Sequence[TrueScene],
    neighbors: str = "held_out",
) -> dict[str, np.ndarray]:
    """Values (N,) by query: precision and average precision in each space, and whether each probe is right."""
    whitening, count = fit_whitening(training_MD), len(queries)
    sought_SD = queries_ND if neighbors == "held_out" else np.concatenate([queries_ND, training_MD])
    spaces = {"raw": sought_SD, "centered": sought_SD - whitening.mean_D, "whitened": whitening.apply(sought_SD)}
    places, groups = places_and_groups(queries, training, neighbors)
    values = {}
    for space in SPACES:
        for k, shares in precision_at_k(spaces[space], places, groups, K).items():
            values[f"{space}/precision_at_{k}"] = shares[:count]
        values[f"{space}/average_precision"] = average_precision(spaces[space], places, groups)[:count]
    for name, label in (("probe", "place"), ("event_probe", "event")):
        found = predict(queries_ND, training_MD, [getattr(scene, label) for scene in training])
        values[name] = (found == np.array([getattr(scene, label) for scene in queries])).astype(float)
    return values


def places_and_groups(
    queries: Sequence[TrueScene], training: Sequence[TrueScene], neighbors: str
) -> tuple[list[str], list[str]]:
    """Place and group of each searched scene, queries first; a scene finds no neighbors in its own group."""
    if neighbors == "held_out":
        return [scene.place for scene in queries], [scene.movie_id for scene in queries]
    # All queries are in one group, so each finds only scenes of training films.
    places = [scene.place for scene in (*queries, *training)]
    return places, ["held out"] * len(queries) + [scene.movie_id for scene in training]


def predict(queries_ND: np.ndarray, training_MD: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Labels (N,) from a logistic regression on the training scenes; if they have only one label, that one."""
    if len(set(labels)) == 1:
        return np.full(len(queries_ND), labels[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return probe.fit(training_MD, labels).predict(queries_ND)


def find_boundaries(
    embed: Embed, training_MD: np.ndarray, truth: Truth, films: Sequence[str], arguments: SceneRetrievalArguments
) -> dict[str, dict[str, float]]:
    """Mean and standard error over films of the average precision of scene boundaries; empty if none can be measured.

    A film is left out if none or all of its cuts with enough shots on both sides end a scene. Means that include
    neighboring shots are not measured, since both sides of a cut would share shots.
    """
    if arguments.context_shots:
        return {}
    whitening, found = fit_whitening(training_MD), []
    for movie_id in list(dict.fromkeys(films))[: arguments.num_boundary_films]:
        is_boundary, scores = boundary_scores(embed, whitening, movie_id, [shot["scene"] for shot in truth[movie_id]])
        if 0 < sum(is_boundary) < len(is_boundary):
            found.append(average_precision_score(is_boundary, scores))
    if not found:
        return {}
    error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return {"boundaries": {"mean": round(float(np.mean(found)), 4), "standard_error": round(error, 4)}}


def boundary_scores(
    embed: Embed, whitening: Whitening, movie_id: str, scenes: Sequence[str]
) -> tuple[list[bool], list[float]]:
    """For each cut with four shots on both sides: whether a true scene ends there, and how dissimilar both sides are.

    Args:
        scenes: the true scene of each shot of the film.

    Returns:
        Both lists by cut, beginning with the cut after the fourth shot. Dissimilarity is 1 minus the cosine, 0 to 2.
    """
    windows = [TrueScene(movie_id, first, BOUNDARY_SHOTS, "") for first in range(len(scenes) - BOUNDARY_SHOTS + 1)]
    cuts = range(BOUNDARY_SHOTS, len(scenes) - BOUNDARY_SHOTS + 1)
    if not cuts:
        return [], []
    vectors_WK = whitening.apply(embed(windows))
    vectors_WK /= np.linalg.norm(vectors_WK, axis=1, keepdims=True)
    cosines = [float(vectors_WK[cut - BOUNDARY_SHOTS] @ vectors_WK[cut]) for cut in cuts]
    return [scenes[cut - 1] != scenes[cut] for cut in cuts], [1 - cosine for cosine in cosines]


def print_measurement(measurement: dict[str, Any]) -> None:
    figures, counts = measurement["figures"], measurement["counts"]
    print(f"{counts['queries']} scenes of {counts['films']} held-out films; chance {measurement['chance']:.3f}")
    for name, figure in figures.items():
        print(f"{name:28} {figure['mean']:.3f} ± {figure['standard_error']:.3f}")
