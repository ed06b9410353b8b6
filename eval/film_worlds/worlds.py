"""The worlds of `eval.experiments`: every row trained and measured in each."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from eval.experiments import ExperimentsArguments
from eval.film_worlds.pair_sets import surest, write_random_films, write_surest, write_true_pairs
from eval.film_worlds.results import combine, hits_by_film
from eval.film_worlds.retrieval import read_films
from eval.film_worlds.rows import (
    ELSEWHERE,
    FROZEN,
    FROZEN_MODES,
    MINED,
    MINED_BESIDE,
    TRAINED,
    UNTRAINED,
    Mined,
    Trained,
    rounds_before,
)
from eval.film_worlds.steps import run_once
from eval.film_worlds.truth import read_truth, shares
from modeling_m2s.pretrained_m2s import TINY_MODEL, computing_format
from modeling_m2s.storage_m2s import FilmDataset, atomic_write, read_json

HELD_OUT_SHARE = 0.2
PREPARED = "prepared"
SHOTS = "shot_features"  # in a row's flags: the vectors of single shots by the frozen encoder
SUREST = {"all": 1.0, "surest_third": 1 / 3, "surest_tenth": 0.1}
PICTURE_PROBES = ("nearest", "linear")


def experiments(arguments: ExperimentsArguments) -> dict[str, Any]:
    """Run what is missing; settings, rows and figures of every seed, as `results.combine` puts them together.

    Raises:
        ValueError: a command failed; the message is its last line.
        StorageError: the folder holds results of other settings.
    """
    names = arguments.trained_rows()
    worlds = [ExperimentWorld(seed, names, arguments) for seed in sorted(set(arguments.seeds))]
    run_all(worlds, names, arguments.workers)
    settings = {
        "world": "photographs" if arguments.photographs else "drawings",
        "films": arguments.num_films,
        "film_seconds": arguments.film_seconds,
        "held_out_share": HELD_OUT_SHARE,
        "recipes": {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in arguments.recipes()},
        "queried_films": arguments.queried_films,
        "training_scenes": arguments.training_scenes,
        "boundary_films": arguments.boundary_films,
    }
    rows = {name: UNTRAINED[name] for name in worlds[0].untrained}
    rows |= {name: {**asdict(TRAINED[name]), "mined": asdict(MINED[TRAINED[name].pairs])} for name in names}
    rows |= {name: asdict(row) for name, row in arguments.rows_by_shot().items()}
    return combine(settings, rows, {str(world.seed): world.figures() for world in worlds})


def run_all(worlds: list["ExperimentWorld"], names: list[str], workers: int) -> None:
    """All commands of all worlds, side by side; after an error those that have not begun are left out.

    Jobs begin in the order in which they are submitted, and each waits only for jobs before it.

    Raises:
        Exception: the error of the first job that failed.
    """
    done: dict[tuple[int, str], Future] = {}

    def job(work: Callable[[], None], needed: Iterable[Future]) -> None:
        for each in needed:
            each.result()
        work()

    with ThreadPoolExecutor(workers) as pool:
        for world in worlds:
            done[world.seed, PREPARED] = pool.submit(world.prepare)
        for world in worlds:
            done[world.seed, "untrained"] = pool.submit(job, world.measure_untrained, [done[world.seed, PREPARED]])
        for depth in sorted({len(rounds_before(name)) for name in names}):
            for world in worlds:
                for name in (name for name in names if len(rounds_before(name)) == depth):
                    needed = [done[world.seed, before] for before in (PREPARED, *rounds_before(name))]
                    done[world.seed, name] = pool.submit(job, partial(world.train, name), needed)
        for world in worlds:
            for encoder in {row.encoder: None for row in world.by_shot.values()}:
                # A later round reads the same vectors of shots, and two commands cannot write them at a time.
                before = [encoder, *(name for name in names if encoder in rounds_before(name))]
                needed = [done[world.seed, name] for name in before]
                done[world.seed, f"{encoder} by shot"] = pool.submit(job, partial(world.read_by_shot, encoder), needed)
        if worlds[0].arguments.pictures:
            for world in worlds:
                for name in (FROZEN, *(name for name in ELSEWHERE if name in names)):
                    needed = [done[world.seed, name]] if name in names else []
                    done[world.seed, f"{name} elsewhere"] = pool.submit(
                        job, partial(world.probe_pictures, name), needed
                    )
        try:
            for each in done.values():
                each.result()
        finally:
            for each in done.values():
                each.cancel()


class ExperimentWorld:
    """All steps of one seed, in `OUTPUT/seed-SEED`."""

    def __init__(self, seed: int, names: list[str], arguments: ExperimentsArguments):
        self.seed, self.names, self.arguments = seed, names, arguments
        self.untrained = [name for name in UNTRAINED if name not in FROZEN_MODES or FROZEN_MODES[name] in names]
        self.by_shot = arguments.rows_by_shot()
        self.folder = arguments.output / f"seed-{seed}"
        self.held_out, self.training = self.folder / "held_out_films.txt", self.folder / "training_films.txt"

    def run(self, module: str, *words: Any, output: Path) -> None:
        """A command, unless it has been done."""
        environment = {"OMP_NUM_THREADS": str(self.arguments.threads)}
        if self.arguments.scratch:
            environment["HF_DATASETS_CACHE"] = str(self.arguments.scratch.absolute())
        run_once(module, *words, output=output, environment=environment)

    def recipe(self, row: Trained) -> Path:
        return self.arguments.momentum_recipe if row.by_momentum else self.arguments.recipe

    def prepare(self) -> None:
        """World, features, who is held out, and all pairs that are mined without a trained encoder."""
        self.make_world(self.folder / "world")
        if any(TRAINED[name].keyframes > 1 for name in self.names):
            self.make_world(self.folder / "world_of_keyframes", "--keyframes-per-shot", 3)
        shots = ["--shots", self.folder / "world/shots"]
        self.run("data_scripts.extract_features", *shots, output=self.folder / "shot_features")
        self.hold_out()
        words = ["--features", self.folder / "shot_features", "--films", self.training, "--seed", self.seed]
        self.run("eval.masked_shots", *words, output=self.folder / "masked_shot_features")
        self.run("eval.pixel_features", *shots, output=self.folder / "pixel_shot_features")
        for name, mined in self.pair_sets().items():
            if not mined.mined_with:
                self.mine(name, mined, self.folder / "shot_features")

    def pair_sets(self) -> dict[str, Mined]:
        """The sets that rows are trained on, and those that are mined beside them."""
        sets = {TRAINED[name].pairs: MINED[TRAINED[name].pairs] for name in self.names}
        return sets | {name: mined for row in self.names for name, mined in MINED_BESIDE.get(row, {}).items()}

    def make_world(self, folder: Path, *words: Any) -> None:
        sizes = ["--num-films", self.arguments.num_films, "--film-seconds", self.arguments.film_seconds]
        if self.arguments.photographs:
            sizes += ["--photographs", self.arguments.photographs, "--test-share", HELD_OUT_SHARE]
        words = ("--keyframes-only", "true", "--seed", self.seed, *sizes, *words)
        self.run("data_scripts.make_film_world", *words, output=folder)

    def hold_out(self) -> None:
        """Write the lists of held-out and of training films; a world of photographs has its own."""
        movie_ids = sorted(read_truth(self.folder / "world/truth/shots.csv"))
        tested = self.folder / "world/truth/test_films.txt"
        if tested.exists():
            held_out = set(tested.read_text(encoding="utf-8").split())
        else:
            count = max(2, round(HELD_OUT_SHARE * len(movie_ids)))
            held_out = set(np.random.default_rng([self.seed, 2]).permutation(movie_ids)[:count].tolist())
        write_films(self.held_out, [movie_id for movie_id in movie_ids if movie_id in held_out])
        write_films(self.training, [movie_id for movie_id in movie_ids if movie_id not in held_out])

    def mine(self, name: str, mined: Mined, features: Path) -> None:
        """The pair set `pairs/NAME`; that of true places has as many pairs as `whitened`."""
        output = self.folder / f"pairs/{name}"
        truth = self.folder / "world/truth/shots.csv"
        if mined.surest_of:
            self.mine(mined.surest_of, MINED[mined.surest_of], features)
            write_surest(output, self.folder / f"pairs/{mined.surest_of}", mined.surest_share)
            return
        if mined.space == "truth":
            self.mine("whitened", MINED["whitened"], features)
            count = FilmDataset(self.folder / "pairs/whitened", "scene_pairs").record["num_rows"]
            write_true_pairs(output, read_truth(truth), read_films(self.training), count, self.seed)
            return
        films, excluded, catalog = self.training, self.held_out, "movies"
        if mined.share < 1:
            films, excluded = self.folder / f"films/{name}.txt", self.folder / f"films/not_{name}.txt"
            self.draw_films(mined.share, films, excluded)
            catalog = f"movies_{name}"
        movies = self.catalog(catalog, excluded)
        label = "_".join([*mined.sources, *([name] if mined.share < 1 else [])])
        similar = self.similar_films(mined.sources, 30, movies, label)
        if mined.random_films:
            write_random_films(self.folder / "similar/random_films", similar, read_films(films), self.seed)
            similar = self.folder / "similar/random_films"
        words: list[Any] = ["--space", mined.space, *mined.flags]
        if mined.space in ("model", "both"):
            words += ["--model", self.movie_similarity(mined.sources, movies, label) / "model"]
        inputs = ["--features", features, "--similar", similar, "--films", films, "--seed", self.seed]
        # Films are small: all fit into memory, and many go at a time.
        large = ["--cached-films", self.arguments.num_films, "--batch-pairs", 32]
        self.run("data_scripts.mine_scene_pairs", *inputs, *words, *large, output=output)

    def catalog(self, name: str, excluded: Path) -> Path:
        """The catalog from which some films are excluded."""
        words = ["--metadata", self.folder / "world/metadata", "--exclude", excluded]
        self.run("data_scripts.make_catalog", *words, output=self.folder / name)
        return self.folder / name

    def draw_films(self, share: float, films: Path, excluded: Path) -> None:
        """Write a list of some training films, and one of all other films."""
        training = sorted(read_films(self.training))
        shuffled = np.random.default_rng([self.seed, 3]).permutation(training).tolist()
        chosen = set(shuffled[: round(share * len(training))])
        films.parent.mkdir(exist_ok=True)
        write_films(films, [movie_id for movie_id in training if movie_id in chosen])
        write_films(excluded, sorted({*training, *read_films(self.held_out)} - chosen))

    def similar_films(self, sources: tuple[str, ...], top_k: int, movies: Path, label: str) -> Path:
        metadata, output = self.folder / "world/metadata", self.folder / f"similar/{label}_{top_k}"
        words = ["--movies", movies, "--sources", *sources]
        if "co_watch" in sources:
            words += ["--ratings", metadata / "ratings.csv", "--links", metadata / "links.csv"]
        self.run("data_scripts.similar_movies", *words, "--top-k", top_k, "--seed", self.seed, output=output)
        return output

    def movie_similarity(self, sources: tuple[str, ...], movies: Path, label: str) -> Path:
        """The movie-similarity network; it learns more from the nearest films, contrast from more films."""
        similar, output = self.similar_films(sources, 10, movies, label), self.folder / f"mil/{label}"
        inputs = ["--features", self.folder / "shot_features", "--similar", similar, "--seed", self.seed]
        self.run("train.train_mil", self.arguments.mil_recipe, *inputs, "--held-out", 0.2, output=output)
        return output

    def train(self, name: str) -> None:
        """Train one encoder on its pairs, and measure it on held-out films."""
        row, output = TRAINED[name], self.folder / f"runs/{name}"
        if by := MINED[row.pairs].mined_with:
            self.mine(row.pairs, MINED[row.pairs], self.features_by(by))
        world = "world" if row.keyframes == 1 else "world_of_keyframes"
        inputs = ["--pairs", self.folder / f"pairs/{row.pairs}", "--shots", self.folder / world / "shots"]
        words = ["--model", TINY_MODEL, "--seed", self.seed, *row.flags]
        self.run("train.train_moco", self.recipe(row), *inputs, *words, output=output)
        self.measure(output / "measured.json", "--model", output / "model")

    def features_by(self, name: str) -> Path:
        """The vectors of all shots by a trained encoder."""
        features = self.folder / f"features_by/{name}"
        words = ["--shots", self.folder / "world/shots", "--model", self.folder / f"runs/{name}/model"]
        dtype = str(computing_format(True, torch.device("cpu"))).removeprefix("torch.")
        words += ["--vector", "pooler_output", "--dtype", dtype, "--batch-size", 64]  # the fastest on one core
        self.run("data_scripts.extract_features", *words, output=features)
        return features

    def read_by_shot(self, encoder: str) -> None:
        """Measure a trained encoder as the rivals are measured: each shot read by itself."""
        features = self.features_by(encoder)
        for name, row in self.by_shot.items():
            if row.encoder == encoder:
                words = (features if word == SHOTS else word for word in UNTRAINED[row.rival])
                self.measure(self.measured(name), *words)

    def measure_untrained(self) -> None:
        """The frozen encoder, and rivals that see no scene pairs."""
        for name in self.untrained:
            words = UNTRAINED[name]
            found = [self.folder / word if word.endswith("shot_features") else word for word in words]
            self.measure(self.measured(name), *found)

    def probe_pictures(self, name: str) -> None:
        """How well an encoder knows the classes of photographs, each a scene of its own."""
        model = TINY_MODEL if name == FROZEN else self.folder / f"runs/{name}/model"
        embedded = self.folder / f"pictures/{name}"
        labels, pictures = ["--task", "photographs", "--labels", self.arguments.pictures], self.arguments.pictures
        self.run("eval.embed_scenes", *labels, "--pictures", pictures, "--model", model, output=embedded)
        words = ["--embeddings", embedded, "--probes", *PICTURE_PROBES]
        self.run("eval.probe", *labels, *words, output=embedded.with_suffix(".json"))

    def picture_figures(self, name: str) -> dict[str, float]:
        probes = read_json(self.folder / f"pictures/{name}.json")["tasks"]["photographs"]["probes"]
        return {each: probes[each]["figures"]["accuracy"]["mean"] for each in PICTURE_PROBES}

    def measure(self, output: Path, *words: Any) -> None:
        arguments = self.arguments
        scenes = ["--world", self.folder / "world", "--held-out", self.held_out, "--num-films", arguments.queried_films]
        scenes += ["--num-training-scenes", arguments.training_scenes, "--num-boundary-films", arguments.boundary_films]
        if arguments.photographs:
            scenes += ["--neighbors", "training"]
        self.run("eval.scene_retrieval", *words, *scenes, output=output)

    def measured(self, name: str) -> Path:
        return self.folder / (f"runs/{name}/measured.json" if name in TRAINED else f"measured/{name}.json")

    def measurements(self) -> dict[str, dict[str, Any]]:
        """All measurements by row."""
        return {name: read_json(self.measured(name)) for name in (*self.untrained, *self.names, *self.by_shot)}

    def figures(self) -> dict[str, Any]:
        """Figures of the seed: networks on films, labels that pairs share, training times, encoders on scenes."""
        truth = read_truth(self.folder / "world/truth/shots.csv")
        measurements = self.measurements()
        trained = {name: read_json(self.folder / f"runs/{name}/results.json") for name in self.names}
        networks = {path.parent.name: read_json(path) for path in sorted(self.folder.glob("mil/*/results.json"))}
        encoders = {
            name: {each: figure["mean"] for each, figure in measurement["figures"].items()}
            for name, measurement in measurements.items()
        }
        return {
            "chance": measurements[FROZEN]["chance"],
            "queries": measurements[FROZEN]["counts"]["queries"],
            "similar_films": {
                name: {
                    judge: {figure: found[figure] for figure in ("accuracy", "auc") if figure in found}
                    for judge, found in {"network": each["held_out"], **each["baselines"]}.items()
                }
                for name, each in networks.items()
            },
            "scene_pairs": {name: surest_shares(self.folder / f"pairs/{name}", truth) for name in self.pair_sets()},
            "training": {
                name: {"steps": each["steps"], "minutes": each["training_minutes"]} for name, each in trained.items()
            },
            "encoders": encoders,
            "pictures": {
                name: self.picture_figures(name)
                for name in (FROZEN, *ELSEWHERE)
                if self.arguments.pictures and name in encoders
            },
            "films": hits_by_film(measurements),
        }


def write_films(path: Path, movie_ids: Iterable[str]) -> None:
    with atomic_write(path) as file:
        file.write("".join(f"{movie_id}\n" for movie_id in movie_ids).encode())


def surest_shares(folder: Path, truth: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, float]]:
    """How often the scenes of a pair agree: among all pairs, and among those of the highest scores."""
    pairs = FilmDataset(folder, "scene_pairs").read().to_pylist()
    if len({pair["score"] for pair in pairs}) == 1:  # true pairs have no score
        return {"all": shares(pairs, truth)}
    return {name: shares(surest(pairs, share), truth) for name, share in SUREST.items()}
