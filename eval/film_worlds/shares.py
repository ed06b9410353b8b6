"""Labels that mined scenes share in film worlds: the work of `eval.film_world_pairs`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.film_world_pairs import FilmWorldPairsArguments
from eval.film_worlds.results import summarize
from eval.film_worlds.steps import prepare, run
from eval.film_worlds.truth import LABELS, Truth, read_truth, shares
from modeling_m2s.storage_m2s import FilmDataset


def film_world_pairs(arguments: FilmWorldPairsArguments) -> dict[str, Any]:
    """Results of every seed, and their mean and standard deviation."""
    seeds = {}
    for seed in range(arguments.seeds):
        folder = arguments.output / f"seed-{seed}"
        prepare(folder, seed, arguments.num_films, arguments.film_seconds)
        truth = read_truth(folder / "world/truth/shots.csv")
        seeds[str(seed)] = {
            source: measure_source(folder, source, seed, truth, arguments) for source in arguments.sources
        }
    return {
        "films": arguments.num_films,
        "film_seconds": arguments.film_seconds,
        "top_k": arguments.top_k,
        "recipe": arguments.recipe.name,
        "seeds": seeds,
        "over_seeds": summarize(list(seeds.values())),
    }


def measure_source(
    folder: Path, source: str, seed: int, truth: Truth, arguments: FilmWorldPairsArguments
) -> dict[str, Any]:
    """Train and mine with one source; returns how the network judges held-out films, and what mined scenes share."""
    similar, trained = folder / f"similar_{source}", folder / f"mil_{source}"
    metadata = folder / "world/metadata"
    ratings = ["--ratings", metadata / "ratings.csv", "--links", metadata / "links.csv"] if source == "co_watch" else []
    drawn = ["--sources", source, "--top-k", arguments.top_k, "--seed", seed]
    run("data_scripts.similar_movies", "--movies", folder / "movies", *drawn, *ratings, output=similar)
    inputs = ["--features", folder / "shot_features", "--similar", similar]
    run("train.train_mil", arguments.recipe, *inputs, "--seed", seed, output=trained)
    untrained = folder / f"mil_{source}_untrained"
    still = ["--learning-rate", 0, "--epochs", 1]
    run("train.train_mil", arguments.recipe, *inputs, "--seed", seed, *still, output=untrained)
    results = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    spaces = {
        "model": ["--space", "model", "--model", trained / "model"],
        "untrained": ["--space", "model", "--model", untrained / "model"],
        "features": ["--space", "features"],
        "random": ["--space", "random", "--seed", seed],
    }
    # The films are small, so all fit into memory, and a batch can hold many pairs.
    large = ["--cached-films", arguments.num_films, "--batch-pairs", 32]
    pairs = {}
    for space, flags in spaces.items():
        mined = folder / f"pairs_{source}_{space}"
        run("data_scripts.mine_scene_pairs", *inputs, *flags, *large, output=mined)
        pairs[space] = shares(FilmDataset(mined, "scene_pairs").read().to_pylist(), truth, results["held_out_films"])
    kept = ("steps", "best_step", "training_minutes", "held_out", "baselines")
    return {"similar_films": {name: results[name] for name in kept}, "scene_pairs": pairs}


def print_table(results: dict[str, Any]) -> None:
    def cell(value: dict[str, float]) -> str:
        return f"{value['mean']:.3f} ± {value['deviation']:.3f}"

    def rows(pick: Callable[[dict[str, Any]], dict[str, float]], name: str) -> None:
        print(f"{name:44} " + "   ".join(cell(pick(results["over_seeds"][source])) for source in sources))

    sources = list(results["over_seeds"])
    spaces = list(results["over_seeds"][sources[0]]["scene_pairs"])
    print(f"{'':44} " + "   ".join(f"{source:13}" for source in sources))
    rows(lambda each: each["similar_films"]["held_out"]["accuracy"], "held-out films: accuracy")
    rows(lambda each: each["similar_films"]["baselines"]["mean_features_cosine"]["accuracy"], "    of mean features")
    rows(lambda each: each["similar_films"]["baselines"]["majority"]["accuracy"], "    of the majority")
    rows(lambda each: each["similar_films"]["held_out"]["auc"], "held-out films: AUC")
    rows(lambda each: each["similar_films"]["baselines"]["mean_features_cosine"]["auc"], "    of mean features")
    for films in ("all", "held_out"):
        for label in LABELS:
            for space in spaces:
                rows(lambda each: each["scene_pairs"][space][films][label], f"{films} films: same {label}, {space}")  # noqa: B023
