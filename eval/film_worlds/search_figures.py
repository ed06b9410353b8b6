"""Scenes of film worlds as vectors, and how often the nearest one shows the same place: `eval.search_spaces`.

Shapes: N scenes, D features.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.features.scene_embedding import Scene, embed_scenes
from data_scripts.film_world.photographs import read_groups
from data_scripts.readers.scene_frames import SceneFrames
from eval.film_worlds.results import summarize
from eval.film_worlds.retrieval import read_films
from eval.film_worlds.steps import run_once
from eval.film_worlds.tables import percent, table
from eval.film_worlds.truth import TrueScene, read_truth, true_scenes
from eval.metrics.retrieval import chance, precision_at_k
from eval.search_spaces import SearchSpacesArguments
from modeling_m2s.pipeline_m2s import evenly_spaced
from modeling_m2s.pretrained_m2s import load_encoder, name_without_folders
from modeling_m2s.scene_space_m2s import SPACES, SceneSpace
from modeling_m2s.storage_m2s import atomic_write

PART = 20  # films of a small index


def measure_worlds(arguments: SearchSpacesArguments) -> dict[str, Any]:
    """P@1 by kind of world, vector and space: of every seed, and means and standard deviations over seeds.

    Raises:
        ValueError: the folder holds no such photographs; a command that makes a world failed.
    """
    if arguments.photographs:
        read_groups(arguments.photographs)  # a wrong folder is told before worlds of drawings are made
    kinds = {"drawings": [], "photographs": ["--photographs", arguments.photographs]}
    if not arguments.photographs:
        del kinds["photographs"]
    seeds: dict[str, Any] = {}
    for seed in arguments.seeds:
        seeds[str(seed)] = {}
        for kind, words in kinds.items():
            world = arguments.output / f"{kind}-{seed}"
            size = ["--num_films", arguments.num_films, "--film_seconds", arguments.film_seconds]
            drawn = ["--keyframes_only", "true", "--seed", seed, *size, *words]
            run_once("data_scripts.make_film_world", *drawn, output=world)
            seeds[str(seed)] |= measure_world(world, kind, arguments.model)
    return {
        "model": name_without_folders(arguments.model),
        "films": arguments.num_films,
        "film_seconds": arguments.film_seconds,
        "seeds": seeds,
        "over_seeds": summarize(list(seeds.values())),
    }


def measure_world(world: Path, kind: str, model: str) -> dict[str, Any]:
    """P@1 by indexes, vector and space; by indexes, chance."""
    truth = read_truth(world / "truth/shots.csv")
    films = sorted(truth)
    scenes = true_scenes(truth, films)
    vectors = scene_vectors(world, scenes, model)
    movie_ids = np.array([scene.movie_id for scene in scenes])
    places = np.array([scene.place for scene in scenes])
    if kind == "photographs":
        is_query = np.isin(movie_ids, sorted(read_films(world / "truth/test_films.txt")))
        groups = np.where(is_query, "test", "training")
        return {f"{kind}, {len(films)} films": figures(vectors, places, groups, is_query, [np.ones_like(is_query)])}
    every, found = np.ones(len(scenes), bool), {}
    for count in dict.fromkeys((len(films), PART)):
        parts = [np.isin(movie_ids, films[first : first + count]) for first in range(0, len(films), count)]
        found[f"{kind}, {count} films"] = figures(vectors, places, movie_ids, every, parts)
    return found


def scene_vectors(world: Path, scenes: list[TrueScene], model: str) -> dict[str, np.ndarray]:
    """Vectors (N, D) of scenes by value of `--scene-vector`, joint and mean; kept in a file beside the world."""
    encoder, image_processor, revision = load_encoder(model)
    name = name_without_folders(model).replace("/", "-")
    path = world.with_name(f"{world.name}.{name}-{revision[:12]}.npz")
    if not path.exists():
        frames = SceneFrames(world / "shots", image_processor)
        read = [Scene(scene.movie_id, evenly_spaced(scene.first_shot, scene.num_shots)) for scene in scenes]
        joint_ND = embed_scenes(encoder, frames, read)
        alone = [Scene(each.movie_id, [each.first_shot + shot]) for each in scenes for shot in range(each.num_shots)]
        shots_MD = embed_scenes(encoder, frames, alone)
        starts = np.cumsum([0, *(scene.num_shots for scene in scenes[:-1])])
        means_ND = np.add.reduceat(shots_MD, starts) / np.array([[scene.num_shots] for scene in scenes])
        with atomic_write(path) as file:
            np.savez(file, joint=joint_ND, mean=means_ND.astype(np.float32))
    return dict(np.load(path))


def figures(
    vectors: dict[str, np.ndarray],
    places: np.ndarray,
    groups: np.ndarray,
    is_query: np.ndarray,
    parts: list[np.ndarray],
) -> dict[str, float]:
    """P@1 of the queries by vector and space, and of a random neighbor. Each part is an index by itself.

    Args:
        places, groups: of each scene (N,); neighbors are of other groups.
        is_query: which scenes are queries, bool (N,).
        parts: masks (N,).
    """
    found: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, vectors_ND in vectors.items():
            for space in SPACES:
                points = SceneSpace.fit(vectors_ND[part], space).apply(vectors_ND[part])
                hits = precision_at_k(points, places[part], groups[part], (1,), "euclidean")[1]
                found.setdefault(f"{name}, {space}", []).append(hits[is_query[part]])
        found.setdefault("chance", []).append(chance(places[part], groups[part])[is_query[part]])
    return {name: round(float(np.concatenate(each).mean()), 4) for name, each in found.items()}


def markdown(results: dict[str, Any]) -> str:
    """The table of the figures over seeds: a row per vector and space, a column per kind of index."""
    over_seeds = results["over_seeds"]
    names = next(iter(over_seeds.values()))
    rows = [[name, *(percent(figures_of[name]) for figures_of in over_seeds.values())] for name in names]
    facts = (
        f"Worlds of {results['films']} films of about {results['film_seconds']:.0f} seconds, seeds "
        f"{', '.join(results['seeds'])}, encoder {results['model']}, which was not trained on scenes. Precision at 1 "
        "for the place of a scene, percent, means ± standard deviations over seeds."
    )
    return f"{facts}\n\n{table(['', *over_seeds], rows)}\n"
