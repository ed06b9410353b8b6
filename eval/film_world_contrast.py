"""Does contrast on mined pairs teach places? The paper's whole method [3], on films whose truth is known.

    python -m eval.film_world_contrast --output runs/film_world_contrast --results eval/results/film_world_contrast.json

Every seed has a film world, features of its shots by m2s-clip-tiny, similar films by their synopses, and a
movie-similarity network [3.1]. Scene pairs are then mined between similar films in several ways, among training films
only, and a scene encoder is trained on each set of pairs [3.2.2]. All encoders are measured on the same scenes of
held-out films.

    random_films       random windows of films that are not similar
    random_windows     random windows of similar films
    frozen             in the space of the frozen features, the paper's "ablation-selection"
    whitened           in that space after whitening; nothing is learned (ours)
    learned            in the learned space, the paper's rule
    learned_centered   in the learned space less its mean (ours)
    both               in the last and the whitened space, side by side (ours)
    second_round       whitened, in the features of the encoder that was trained on `whitened` (ours)
    true_pairs         scenes of the same place, as the truth says: the upper bound

Beside them stand the frozen encoder and two rivals that cost no training: the mean of single shots' features, as they
are and whitened. On the same queries, retrieval is compared with the mean of whitened shots and the probe with the mean
of shots as they are: these were the better rivals on seed 0, but for rounding. Standard errors are by film.

A world takes about ten minutes of one core to prepare, and each training with its measurement five: two and a half
hours on two cores for three seeds with all variants. All work is done by the commands that users run. Finished steps
are not run again, so the same command goes on after a kill. Settings were chosen on seed 0, so it is not among the
seeds by default.
"""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.film_worlds import preparation, read_truth, run_once, shares, summarize
from eval.metrics.retrieval import clustered_standard_error
from eval.scene_pair_sets import write_random_films, write_true_pairs
from modeling_m2s.commands_m2s import run_command
from modeling_m2s.pretrained_m2s import TINY_MODEL, model_revision
from modeling_m2s.storage_m2s import FilmDataset, atomic_write, write_json

# Flags of mine_scene_pairs by variant; MIL stands for the movie-similarity network.
MINED: dict[str, list[str]] = {
    "random_films": ["--space", "random"],
    "random_windows": ["--space", "random"],
    "frozen": ["--space", "features"],
    "whitened": ["--space", "whitened"],
    "learned": ["--space", "model", "--model", "MIL"],
    "learned_centered": ["--space", "model", "--center", "true", "--model", "MIL"],
    "both": ["--space", "both", "--model", "MIL"],
    "second_round": ["--space", "whitened"],
}
VARIANTS = (*MINED, "true_pairs")
BY_MOMENTUM = ("whitened", "true_pairs")
OBJECTIVES = ("in_batch", "momentum")
RIVALS = {"mean_of_shots": "raw", "mean_of_whitened_shots": "whitened"}
# The encoder before training, by how its position embeddings serve several frames; the recipe starts from `repeat`.
FROZEN = {"frozen_encoder": "grid", "frozen_encoder_repeat": "repeat"}
SPACES = ("raw", "centered", "whitened")
METRICS = ("precision_at_1", "precision_at_5", "average_precision")
SCENE = ("movie_id", "first_shot")


@dataclass
class FilmWorldContrastArguments:
    """Worlds, pair sets, recipes, and how many commands run at a time."""

    output: Path = field(metadata={"help": "folder for worlds, datasets and runs"})
    results: Path | None = field(default=None, metadata={"help": "JSON file for the results"})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "seeds, a world each"})
    variants: list[str] = field(
        default_factory=lambda: list(VARIANTS), metadata={"help": f"sets of pairs, among {', '.join(VARIANTS)}"}
    )
    objectives: list[str] = field(
        default_factory=lambda: list(OBJECTIVES),
        metadata={"help": f"objectives, among in_batch and momentum; the latter on {' and '.join(BY_MOMENTUM)} alone"},
    )
    num_films: int = field(default=1000, metadata={"help": "number of films in a world"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film in seconds, about"})
    mil_recipe: Path = field(
        default=Path("train/configs/mil_film_world.yaml"), metadata={"help": "recipe of train.train_mil"}
    )
    recipe: Path = field(
        default=Path("train/configs/moco_film_world.yaml"), metadata={"help": "recipe of train.train_moco"}
    )
    momentum_recipe: Path | None = field(
        default=None, metadata={"help": "recipe of train.train_moco for the momentum objective; default: --recipe"}
    )
    queried_films: int = field(default=200, metadata={"help": "number of held-out films to measure on, at most"})
    training_scenes: int = field(
        default=600, metadata={"help": "number of training scenes for the measurement's statistics and probe, at most"}
    )
    workers: int = field(default=1, metadata={"help": "number of commands that run side by side"})
    threads: int = field(default=1, metadata={"help": "number of threads of each command"})
    nice: int = field(
        default=0, metadata={"help": "how much lower than usual the priority of all commands is, 0 to 19"}
    )
    scratch: Path | None = field(
        default=None, metadata={"help": "folder for copies that datasets makes; by default its cache"}
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: an unknown variant, no seeds, or a number out of its range."""
        if unknown := sorted(set(self.variants) - set(VARIANTS)):
            raise ValueError(f"variants {', '.join(unknown)} must be among {', '.join(VARIANTS)}")
        if unknown := sorted(set(self.objectives) - set(OBJECTIVES)):
            raise ValueError(f"objectives {', '.join(unknown)} must be among {', '.join(OBJECTIVES)}")
        if "second_round" in self.variants and not ("whitened" in self.variants and "in_batch" in self.objectives):
            raise ValueError("variant second_round starts from the encoder trained on whitened by in_batch; name these")
        if not (self.seeds and self.variants and self.objectives):
            raise ValueError("give at least one seed, one variant and one objective")
        for name in ("workers", "threads", "queried_films", "training_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.nice <= 19:
            raise ValueError(f"nice is {self.nice}; it must be from 0 to 19")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.film_world_contrast", FilmWorldContrastArguments, measure_all, argv)


def measure_all(arguments: FilmWorldContrastArguments) -> None:
    if arguments.nice:
        os.nice(arguments.nice)  # commands inherit it
    results = film_world_contrast(arguments)
    if arguments.results:
        write_json(arguments.results, results)
    print_table(results)


def film_world_contrast(arguments: FilmWorldContrastArguments) -> dict[str, Any]:
    """Figures of every seed, their mean and standard deviation, and paired differences over all seeds together.

    Raises:
        ValueError: a command failed; the message is its last line.
        StorageError: the folder holds results of other settings.
    """
    worlds = [SeededWorld(seed, arguments) for seed in sorted(set(arguments.seeds))]
    first = [name for name in arguments.variants if name != "second_round"]
    with ThreadPoolExecutor(arguments.workers) as pool:
        side_by_side(pool, [world.prepare for world in worlds])
        side_by_side(pool, [lambda world=world: world.mine(first) for world in worlds])
        side_by_side(pool, [job for world in worlds for job in world.jobs(first)])
        if "second_round" in arguments.variants:
            side_by_side(pool, [world.second_round for world in worlds])
    seeds = {str(world.seed): world.figures() for world in worlds}
    return {
        "settings": {
            "films": arguments.num_films,
            "film_seconds": arguments.film_seconds,
            "recipe": arguments.recipe.name,
            "momentum_recipe": (arguments.momentum_recipe or arguments.recipe).name,
            "mil_recipe": arguments.mil_recipe.name,
            "queried_films": arguments.queried_films,
            "training_scenes": arguments.training_scenes,
        },
        "seeds": seeds,
        "over_seeds": summarize(list(seeds.values())),
        "less_free_rival": paired_differences([world.measurements() for world in worlds]),
    }


def side_by_side(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], None]]) -> None:
    """All jobs; after an error those that have not begun are left out.

    Raises:
        Exception: the error of the first job that failed.
    """
    running = [pool.submit(job) for job in jobs]
    try:
        for each in running:
            each.result()
    finally:
        for each in running:
            each.cancel()


class SeededWorld:
    """All steps of one seed, in `OUTPUT/seed-SEED`.

    Attributes:
        runs: names of the encoders that are trained, `VARIANT_OBJECTIVE`, as (variant, objective).
    """

    def __init__(self, seed: int, arguments: FilmWorldContrastArguments):
        self.seed, self.arguments = seed, arguments
        self.folder = arguments.output / f"seed-{seed}"
        self.runs = {
            f"{variant}_{objective}": (variant, objective)
            for objective in arguments.objectives
            for variant in arguments.variants
            if objective == "in_batch" or variant in BY_MOMENTUM
        }

    def run(self, module: str, *words: Any, output: Path) -> None:
        """A command, unless it has been done."""
        environment = {"OMP_NUM_THREADS": str(self.arguments.threads)}
        if self.arguments.scratch:
            environment["HF_DATASETS_CACHE"] = str(self.arguments.scratch.absolute())
        run_once(module, *words, output=output, environment=environment)

    def prepare(self) -> None:
        """World, catalog, features, similar films, the movie-similarity network, and which films it held out."""
        folder = self.folder
        for module, words, name in preparation(
            folder, self.seed, self.arguments.num_films, self.arguments.film_seconds
        ):
            self.run(module, *words, output=folder / name)
        for top_k in (10, 30):  # MIL learns more from the nearest films, contrast from more films
            words = ["--movies", folder / "movies", "--sources", "synopsis", "--top_k", top_k, "--seed", self.seed]
            self.run("data_scripts.similar_movies", *words, output=folder / f"similar_{top_k}")
        inputs = ["--features", folder / "shot_features", "--similar", folder / "similar_10", "--seed", self.seed]
        self.run("train.train_mil", self.arguments.mil_recipe, *inputs, output=folder / "mil")
        held_out = read_json(folder / "mil/results.json")["held_out_films"]
        trained = sorted(FilmDataset(folder / "shot_features", "shot_features").films().keys() - set(held_out))
        for name, movie_ids in (("held_out_films", held_out), ("training_films", trained)):
            with atomic_write(folder / f"{name}.txt") as file:
                file.write("".join(f"{movie_id}\n" for movie_id in movie_ids).encode())

    def mine(self, variants: Iterable[str]) -> None:
        """The sets of pairs that need no trained encoder; `true_pairs` has as many pairs as `whitened`."""
        features, similar = self.folder / "shot_features", self.folder / "similar_30"
        for name in variants:
            if name == "random_films":
                write_random_films(self.folder / "random_films", similar, self.training_films(), self.seed)
                self.mine_pairs(name, features, self.folder / "random_films")
            elif name == "true_pairs":
                self.mine_pairs("whitened", features, similar)
                count = FilmDataset(self.folder / "pairs_whitened", "scene_pairs").record["num_rows"]
                truth = read_truth(self.folder / "world/truth/shots.csv")
                write_true_pairs(self.folder / "pairs_true_pairs", truth, self.training_films(), count, self.seed)
            else:
                self.mine_pairs(name, features, similar)

    def mine_pairs(self, name: str, features: Path, similar: Path) -> None:
        words: list[Any] = [self.folder / "mil/model" if word == "MIL" else word for word in MINED[name]]
        inputs = ["--features", features, "--similar", similar, "--films", self.folder / "training_films.txt"]
        # Films are small: all fit into memory, and many go at a time.
        large = ["--seed", self.seed, "--cached_films", self.arguments.num_films, "--batch_pairs", 32]
        self.run("data_scripts.mine_scene_pairs", *inputs, *words, *large, output=self.folder / f"pairs_{name}")

    def jobs(self, variants: list[str]) -> list[Callable[[], None]]:
        """Jobs that can run side by side once pairs are mined: trainings with their measurements, and all rivals."""
        runs = [name for name, (variant, _) in self.runs.items() if variant in variants]
        return [self.measure_rivals, *(lambda name=name: self.train(name) for name in runs)]

    def train(self, name: str) -> None:
        """One encoder on its pairs, and how it does on held-out films."""
        variant, objective = self.runs[name]
        recipe = self.arguments.recipe
        if objective == "momentum":
            recipe = self.arguments.momentum_recipe or recipe
        inputs = ["--pairs", self.folder / f"pairs_{variant}", "--shots", self.folder / "world/shots"]
        words = ["--model", TINY_MODEL, "--objective", objective, "--seed", self.seed]
        self.run("train.train_moco", recipe, *inputs, *words, output=self.folder / f"runs/{name}")
        self.measure(self.measured(name), "--model", self.folder / f"runs/{name}/model")

    def second_round(self) -> None:
        """Mine again with the encoder that was trained on whitened pairs, and train from the start."""
        features, model = self.folder / "shot_features_second_round", self.folder / "runs/whitened_in_batch/model"
        words = ["--shots", self.folder / "world/shots", "--model", model, "--vector", "pooler_output"]
        words += ["--dtype", "bfloat16", "--batch_size", 64]  # the fastest on one core
        self.run("data_scripts.extract_features", *words, output=features)
        self.mine_pairs("second_round", features, self.folder / "similar_30")
        self.train("second_round_in_batch")

    def measure_rivals(self) -> None:
        """The frozen encoder, and means of single shots, which cost no training."""
        for name, mode in FROZEN.items():
            self.measure(self.measured(name), "--model", TINY_MODEL, "--position_interpolation", mode)
        for name, shot_space in RIVALS.items():
            words = ["--features", self.folder / "shot_features", "--shot_space", shot_space]
            self.measure(self.measured(name), *words)

    def measure(self, output: Path, *words: Any) -> None:
        scenes = ["--world", self.folder / "world", "--held_out", self.folder / "held_out_films.txt"]
        limits = ["--num_films", self.arguments.queried_films, "--num_training_scenes", self.arguments.training_scenes]
        self.run("eval.scene_retrieval", *words, *scenes, *limits, output=output)

    def measured(self, name: str) -> Path:
        """The file of a measurement; that of a trained encoder carries the digest of its weights."""
        if name not in self.runs:
            return self.folder / f"measured/{name}.json"
        return (
            self.folder / f"runs/{name}/measured-{model_revision(str(self.folder / f'runs/{name}/model'), None)}.json"
        )

    def measurements(self) -> dict[str, dict[str, Any]]:
        """All measurements by the encoders' names."""
        return {name: read_json(self.measured(name)) for name in (*FROZEN, *RIVALS, *self.runs)}

    def figures(self) -> dict[str, Any]:
        """How often pairs are of the same place, event and light; what trainings took; how encoders did."""
        truth = read_truth(self.folder / "world/truth/shots.csv")
        measurements = self.measurements()
        pairs = {
            name: shares(FilmDataset(self.folder / f"pairs_{name}", "scene_pairs").read().to_pylist(), truth)["all"]
            for name in self.arguments.variants
        }
        trained = {name: read_json(self.folder / f"runs/{name}/results.json") for name in self.runs}
        return {
            "chance": measurements["frozen_encoder"]["chance"],
            "queries": measurements["frozen_encoder"]["counts"]["queries"],
            "scene_pairs": pairs,
            "training": {
                name: {"steps": each["steps"], "minutes": each["training_minutes"]} for name, each in trained.items()
            },
            "encoders": {
                name: {each: figure["mean"] for each, figure in measurement["figures"].items()}
                for name, measurement in measurements.items()
            },
        }

    def training_films(self) -> list[str]:
        return (self.folder / "training_films.txt").read_text(encoding="utf-8").split()


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def paired_differences(seeds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Encoders less the best free rival on the same queries: mean and standard error by film.

    Args:
        seeds: measurements by encoder, for each seed. Films of two seeds are different films.

    Raises:
        ValueError: two measurements of a seed are not of the same queries.
    """
    films = []
    for number, seed in enumerate(seeds):
        scenes = [list(zip(*(each["queries"][key] for key in SCENE), strict=True)) for each in seed.values()]
        for name, found in zip(seed, scenes, strict=True):
            if found != scenes[0]:
                raise ValueError(f"{name} and {next(iter(seed))}, world {number}: measured on different scenes")
        films += [f"{number} {movie_id}" for movie_id, _ in scenes[0]]

    def difference(name: str, value: str) -> dict[str, float]:
        rival, rival_value = best_rival(value)
        less = [
            np.subtract(seed[name]["queries"][value], seed[rival]["queries"][rival_value], dtype=np.float64)
            for seed in seeds
        ]
        values = np.concatenate(less)
        error = clustered_standard_error(values, films)
        return {"mean": round(float(values.mean()), 4), "standard_error": round(error, 4)}

    values = [*(f"{space}/{metric}" for space in SPACES for metric in METRICS), "probe"]
    return {name: {value: difference(name, value) for value in values} for name in seeds[0] if name not in RIVALS}


def best_rival(value: str) -> tuple[str, str]:
    """The free rival that an encoder's value is compared with, and that rival's value.

    Whitened shots are better at retrieval, shots as they are at the probe, which scales its inputs by itself.
    """
    if value == "probe":
        return "mean_of_shots", value
    return "mean_of_whitened_shots", f"raw/{value.split('/')[1]}"


def print_table(results: dict[str, Any]) -> None:
    """Encoders with means ± deviations over seeds; the last column has the standard error by film."""
    over_seeds = results["over_seeds"]
    queries, chance = over_seeds["queries"]["mean"], over_seeds["chance"]["mean"]
    print(f"{len(results['seeds'])} seeds, {queries:.0f} queries each, chance {chance:.3f}")
    columns = {f"P@1 {space}": f"{space}/precision_at_1" for space in SPACES}
    columns |= {"mAP whitened": "whitened/average_precision", "probe": "probe"}
    heads = ["same place", *columns, "P@1 less rival"]
    print(f"{'':26}" + "".join(f"{head:>17}" for head in heads))
    for name, figures in over_seeds["encoders"].items():
        variant = name.removesuffix("_in_batch").removesuffix("_momentum")
        pairs = over_seeds["scene_pairs"].get(variant)
        cells = [f"{pairs['place']['mean']:.3f}" if pairs else "–"]
        cells += [f"{figures[value]['mean']:.3f} ± {figures[value]['deviation']:.3f}" for value in columns.values()]
        if less := results["less_free_rival"].get(name):
            best = less["whitened/precision_at_1"]
            cells.append(f"{best['mean']:+.3f} ± {best['standard_error']:.3f}")
        print(f"{name:26}" + "".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()
