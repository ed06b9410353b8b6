"""The film world of `moco_gpu.py`: made by commands of the project, trained on in memory, measured on held-out films.

    python -m benchmarks.moco_world FOLDER NUM_FILMS        makes a world; `moco_gpu.py` calls this in the background

Frames of m2s-clip-tiny are small, so all are decoded once and kept in memory. Training is then limited by the GPU.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.moco import build_training
from data_scripts.features.scene_embedding import Scene, embed_scenes
from data_scripts.readers.scene_frames import FramesRead, SceneFrames
from eval.film_worlds.retrieval import judge
from eval.film_worlds.truth import TrueScene, read_truth, true_scenes
from m2s.commands import parse
from modeling_m2s import M2SSceneModel
from modeling_m2s.pipeline_m2s import evenly_spaced
from modeling_m2s.pretrained_m2s import TINY_MODEL, load_encoder
from train.moco.loop import Training
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes

CONFIGS = Path(__file__).parent.parent / "train/configs"


class WorldSizes(NamedTuple):
    films: int = 300
    batch_size: int = 64
    steps: int = 20_000
    probe_steps: int = 60  # steps that estimate the time of a step


@contextlib.contextmanager
def world_in_background(folder: Path, num_films: int) -> Iterator[subprocess.Popen]:
    """A process that makes the world on the CPU alone."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.moco_world", str(folder), str(num_films)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.returncode:
                print((folder / "log.txt").read_text(encoding="utf-8")[-2000:], file=sys.stderr)


def make_world(folder: Path, num_films: int) -> None:
    """Make films, features, films with similar synopses, and scene pairs; every fifth film is held out of the pairs."""
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    drawn = ["--keyframes-only", "true", "--seed", "1", "--num-films", num_films, "--film-seconds", "60"]
    call("data_scripts.make_film_world", *drawn, "--output", folder / "world")
    call("data_scripts.make_catalog", "--metadata", folder / "world/metadata", "--output", folder / "movies")
    call("data_scripts.extract_features", "--shots", folder / "world/shots", "--output", folder / "shot_features")
    similar = ["--movies", folder / "movies", "--sources", "synopsis", "--top-k", "30"]
    call("data_scripts.similar_movies", *similar, "--output", folder / "similar_movies")
    movie_ids = sorted(read_truth(folder / "world/truth/shots.csv"))
    (folder / "held_out_films.txt").write_text("\n".join(movie_ids[::5]))
    (folder / "training_films.txt").write_text("\n".join(sorted(set(movie_ids) - set(movie_ids[::5]))))
    inputs = ["--features", folder / "shot_features", "--similar", folder / "similar_movies", "--space", "whitened"]
    inputs += ["--films", folder / "training_films.txt", "--batch-pairs", "32"]
    call("data_scripts.mine_scene_pairs", *inputs, "--output", folder / "scene_pairs")


def call(module: str, *words: object) -> None:
    """Run a command of the project in this process."""
    importlib.import_module(module).main([str(word) for word in words])


class FramesInMemory(SceneFrames):
    """Keyframes of a small catalog, all decoded beforehand, so that training never waits for them."""

    def __init__(self, frames: SceneFrames):
        self.image_processor, self.frames_per_shot = frames.image_processor, frames.frames_per_shot
        self.movie_ids, self.num_shots = frames.movie_ids, frames.num_shots
        self.frame_bytes = frames.frame_bytes
        self.films = {movie_id: frames.read(movie_id, 0, shots) for movie_id, shots in frames.num_shots.items()}

    def read(self, movie_id: str, first_shot: int, num_shots: int) -> FramesRead:
        shots = slice(first_shot, first_shot + num_shots)
        return FramesRead(*(values[shots] for values in self.films[movie_id]))


class TimeIsUp(Exception):
    """A training has used its time."""


class TimedTraining(Training):
    """A training that ends at its `deadline` (a value of `time.perf_counter`)."""

    deadline = float("inf")

    def after_step(self, *arguments: Any) -> None:
        super().after_step(*arguments)
        if time.perf_counter() > self.deadline and self.state["step"] < self.num_steps:
            raise TimeIsUp


class World:
    """The film world that `make_world` made, its frames, and the scenes that encoders are measured on.

    Raises:
        OSError: the world was not made; the last output of its process is on stderr.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        _, image_processor, _ = load_encoder(TINY_MODEL)
        self.frames = FramesInMemory(SceneFrames(folder / "world/shots", image_processor, cache=folder / "cache"))
        truth = read_truth(folder / "world/truth/shots.csv")
        names = ("held_out_films", "training_films")
        self.queries, training = (true_scenes(truth, (folder / f"{name}.txt").read_text().split()) for name in names)
        self.training = training[:: max(1, len(training) // 600)]

    def labeled(self) -> LabeledScenes:
        return LabeledScenes(self.frames, self.scenes(self.queries), [scene.place for scene in self.queries])

    def scenes(self, scenes: list[TrueScene]) -> list[Scene]:
        return [Scene(scene.movie_id, evenly_spaced(scene.first_shot, scene.num_shots)) for scene in scenes]

    def build(self, recipe: MoCoRecipe, labeled: LabeledScenes | None = None) -> TimedTraining:
        recipe = replace(recipe, measure_steps=max(1, (recipe.max_steps or 1) // 10))
        data = MoCoData(pairs=self.folder / "scene_pairs", shots="")
        encoder, _, _ = load_encoder(recipe.model, recipe.position_interpolation)
        on_cpu = self.device.type == "cpu"
        log_steps = max(1, (recipe.max_steps or 2) // 2)
        return build_training(
            recipe, self.frames, self.folder, encoder, log_steps, data, TimedTraining, labeled, on_cpu=on_cpu
        )

    def judged(self, encoder: M2SSceneModel) -> dict[str, float]:
        """Place retrieval among scenes of held-out films, and the probe, as `eval.scene_retrieval` measures them."""
        encoder.to(self.device)
        queries, training = (
            embed_scenes(encoder, self.frames, self.scenes(scenes), bf16=True)
            for scenes in (self.queries, self.training)
        )
        values = judge(queries, self.queries, training, self.training)
        chosen = ("raw/precision_at_1", "whitened/precision_at_1", "probe")
        return {name: round(float(np.mean(values[name])), 4) for name in chosen}

    def trained(self, recipe: MoCoRecipe, seconds: float) -> dict[str, Any]:
        """Train for at most `seconds`, and measure the best weights."""
        training = self.build(recipe, self.labeled())
        started = time.perf_counter()
        training.deadline = started + seconds
        outcome: dict[str, Any] = {"steps_asked": training.num_steps}
        try:
            training.run()
        except TimeIsUp:
            outcome["ended_by_the_clock"] = True
        except ValueError as error:  # the training diverged or collapsed
            outcome["stopped"] = str(error)
        if training.best.weights:
            training.contrast.encoder.load_state_dict(training.best.weights)
        log = training.run_folder.read_log()
        return {
            **outcome,
            "steps": training.state["step"],
            "seconds": round(time.perf_counter() - started, 1),
            "pairs_per_second": next((line["pairs_per_second"] for line in reversed(log) if "loss" in line), None),
            "best_step": training.state["best_step"],
            "precision_at_1_by_step": {
                line["step"]: line["precision_at_1"] for line in log if "precision_at_1" in line
            },
            **self.judged(training.contrast.encoder),
        }


def compare_objectives(world: World, sizes: WorldSizes, deadline: float) -> dict[str, Any]:
    """Train in-batch contrast by its recipe, then momentum for as many steps as the time until `deadline` allows."""
    in_batch, momentum = (
        replace(parse(MoCoRecipe, [str(CONFIGS / f"{name}.yaml")])[0], batch_size=sizes.batch_size, epochs=10**6)
        for name in ("moco_film_world", "moco_film_world_momentum")
    )
    in_batch = replace(in_batch, max_steps=min(in_batch.max_steps or sizes.steps, sizes.steps))
    results = {
        "films": sizes.films,
        "queries": len(world.queries),
        "frozen": world.judged(load_encoder(in_batch.model, in_batch.position_interpolation)[0]),
        "in_batch": world.trained(in_batch, 0.4 * (deadline - time.perf_counter())),
    }
    probe = world.build(replace(momentum, max_steps=sizes.probe_steps))
    probe.run()
    rate = probe.run_folder.read_log()[-1]["pairs_per_second"]
    left = deadline - time.perf_counter() - 20  # for the last measurement
    steps = max(1, min(sizes.steps, int(0.8 * left * rate / sizes.batch_size)))
    return {**results, "momentum": world.trained(replace(momentum, max_steps=steps), left)}


if __name__ == "__main__":
    make_world(Path(sys.argv[1]), int(sys.argv[2]))
