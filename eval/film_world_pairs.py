"""Do mined scene pairs share what similar films share? The paper's steps up to there, on films whose truth is known.

    python -m eval.film_world_pairs --output runs/film_world_pairs --results eval/results/film_world_pairs.json

For every seed a film world is generated and its shots' features are taken with m2s-clip-tiny; for every source of film
similarity the movie-similarity network is trained [3.1], and scene pairs are mined [3.2] in its space, in that of a
network with the weights that training began with, in that of the features as they are (the paper's
"ablation-selection"), and at random. A pair counts as of one place if the most frequent place of its two scenes is the
same; events and light (day, night, monochrome) likewise. Similar films share places and events, and light says nothing
of similarity: so learning should raise the former, and the latter should fall to chance. In the figures committed
places rise, events hardly, and light does not fall.

All work is done by the commands that users run; run again after a kill, it goes on where it was. About two hours on two
cores, added up from its parts.
"""

import csv
import json
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.world_plan import LIGHT_TYPES
from modeling_m2s.commands_m2s import run_command
from modeling_m2s.storage_m2s import FilmDataset, write_json

LABELS = ("place", "event", "light")


@dataclass
class FilmWorldPairsArguments:
    output: Path = field(metadata={"help": "folder for worlds, datasets and runs"})
    results: Path | None = field(default=None, metadata={"help": "JSON file for the figures"})
    recipe: Path = field(
        default=Path("train/configs/mil_film_world.yaml"), metadata={"help": "recipe of train.train_mil"}
    )
    seeds: int = field(default=5, metadata={"help": "worlds, from seed 0 on"})
    sources: list[str] = field(
        default_factory=lambda: ["co_watch", "genre", "synopsis"], metadata={"help": "of film similarity"}
    )
    num_films: int = field(default=2000, metadata={"help": "films of a world"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film, about"})
    top_k: int = field(default=10, metadata={"help": "similar films a film: in a world many films are alike"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.film_world_pairs", FilmWorldPairsArguments, measure_all, argv)


def measure_all(arguments: FilmWorldPairsArguments) -> None:
    results = film_world_pairs(arguments)
    if arguments.results:
        write_json(arguments.results, results)
    print_table(results)


def film_world_pairs(arguments: FilmWorldPairsArguments) -> dict[str, Any]:
    """Figures of every seed, and their mean and standard deviation."""
    seeds = {}
    for seed in range(arguments.seeds):
        folder = arguments.output / f"seed-{seed}"
        prepare(folder, seed, arguments)
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


def prepare(folder: Path, seed: int, arguments: FilmWorldPairsArguments) -> None:
    """A world, its catalog, and the features of its shots."""
    world = ["--num_films", arguments.num_films, "--film_seconds", arguments.film_seconds]
    run("data_scripts.make_film_world", "--keyframes_only", "true", "--seed", seed, *world, output=folder / "world")
    run("data_scripts.make_catalog", "--metadata", folder / "world/metadata", output=folder / "movies")
    run("data_scripts.extract_features", "--shots", folder / "world/shots", output=folder / "shot_features")


def measure_source(
    folder: Path, source: str, seed: int, truth: dict[str, list[dict[str, str]]], arguments: FilmWorldPairsArguments
) -> dict[str, Any]:
    """Train and mine by one source; how the network judges held-out films, and what mined scenes share."""
    similar, trained = folder / f"similar_{source}", folder / f"mil_{source}"
    metadata = folder / "world/metadata"
    ratings = ["--ratings", metadata / "ratings.csv", "--links", metadata / "links.csv"] if source == "co_watch" else []
    drawn = ["--sources", source, "--top_k", arguments.top_k, "--seed", seed]
    run("data_scripts.similar_movies", "--movies", folder / "movies", *drawn, *ratings, output=similar)
    inputs = ["--features", folder / "shot_features", "--similar", similar]
    run("train.train_mil", arguments.recipe, *inputs, "--seed", seed, output=trained)
    untrained = folder / f"mil_{source}_untrained"
    still = ["--learning_rate", 0, "--epochs", 1]
    run("train.train_mil", arguments.recipe, *inputs, "--seed", seed, *still, output=untrained)
    results = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    spaces = {
        "model": ["--space", "model", "--model", trained / "model"],
        "untrained": ["--space", "model", "--model", untrained / "model"],
        "features": ["--space", "features"],
        "random": ["--space", "random", "--seed", seed],
    }
    # Films and batches are small: all fit into memory, and many go at a time.
    large = ["--cached_films", arguments.num_films, "--batch_pairs", 32]
    pairs = {}
    for space, flags in spaces.items():
        mined = folder / f"pairs_{source}_{space}"
        run("data_scripts.mine_scene_pairs", *inputs, *flags, *large, output=mined)
        pairs[space] = shares(FilmDataset(mined, "scene_pairs").read().to_pylist(), truth, results["held_out_films"])
    kept = ("steps", "best_step", "training_minutes", "held_out", "baselines")
    return {"similar_films": {name: results[name] for name in kept}, "scene_pairs": pairs}


def run(module: str, *words: Any, output: Path) -> None:
    """A command of the project, with what it prints in a file beside its output.

    Raises:
        ValueError: it failed; the message is its last line.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_name(f"{output.name}.log")
    print(f"{module} → {output}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", module, *map(str, words), "--output", str(output)]
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise ValueError(f"{' '.join(command)} ended with {status}: {lines[-1] if lines else 'it printed nothing'}")


def read_truth(path: Path) -> dict[str, list[dict[str, str]]]:
    """By film, what is true of each of its shots."""
    films = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            light = next((kind for kind in LIGHT_TYPES if kind in row["types"].split("|")), "day")
            films[row["movie_id"]].append({"place": row["place"], "event": row["event"], "light": light})
    return films


def shares(
    pairs: list[dict[str, Any]], truth: dict[str, list[dict[str, str]]], held_out_films: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Of scene pairs, the share that has the same label; of all, and of those of two held-out films."""
    held_out = set(held_out_films)
    chosen = {
        "all": pairs,
        "held_out": [pair for pair in pairs if {pair["movie_id_a"], pair["movie_id_b"]} <= held_out],
    }
    return {
        name: {
            "scene_pairs": len(each),
            **{label: round(statistics.fmean(_agree(pair, truth, label) for pair in each), 4) for label in LABELS},
        }
        for name, each in chosen.items()
        if each
    }


def _agree(pair: dict[str, Any], truth: dict[str, list[dict[str, str]]], label: str) -> bool:
    a, b = (
        most_frequent(shot[label] for shot in truth[pair[f"movie_id_{side}"]][first : first + pair["num_shots"]])
        for side, first in (("a", pair["first_shot_a"]), ("b", pair["first_shot_b"]))
    )
    return a == b


def most_frequent(labels: Iterable[str]) -> str:
    """Of labels that are equally frequent, the first."""
    return Counter(labels).most_common(1)[0][0]


def summarize(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of everything that is a number in all of them."""

    def merge(values: list[Any]) -> Any:
        if all(isinstance(value, dict) for value in values):
            return {name: merge([value[name] for value in values]) for name in values[0] if _in_all(name, values)}
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"mean": round(statistics.fmean(values), 4), "deviation": round(spread, 4)}

    return merge(seeds)


def _in_all(name: str, values: list[dict[str, Any]]) -> bool:
    return all(name in value for value in values)


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


if __name__ == "__main__":
    main()
