"""Contrastive training on a GPU: pairs a second by attention kernel, memory, waiting for data, and the film world.

    python -m benchmarks.moco_gpu --device cuda --seconds 540       one GPU; a single call of at most ten minutes
    python -m benchmarks.moco_gpu --device cpu                      everything at tiny size, to try the script

It needs the package with its `eval` extra and no network: ViT-B/16 has random weights of the right shapes. The result
is written after each part, so that a call that is cut off leaves what it measured. `--parts film_world` gives the third
part all the time.

1. Speed: steps of the paper's recipe (momentum contrast, nine shots, 128 pairs, a queue of 65,536 keys, bfloat16) on
   one batch that lies on the GPU; by cuDNN's attention, FlashAttention and PyTorch's own choice, with and without
   compilation, and with half of the patches. Each row holds pairs/s, the share of the rate of a large matrix product in
   this run, the peak memory and the seconds of the first step. Before that, the loss of eight pairs by each kernel is
   compared with float32 attention written out. The five largest costs are those of the first row.
2. Data: the same recipe through the DataLoader, from JPEG keyframes whose short side has 224 pixels, with all cores as
   workers; what the workers decode when nobody computes; the share of the time that training waits.
3. Film world: contrast on pairs mined in the whitened space of m2s-clip-tiny, `train/configs/moco_film_world.yaml`
   as it is and with the momentum objective for up to 20,000 steps, as many as the time allows. Both are measured on
   scenes of films that were neither mined nor trained on, beside the frozen encoder. The world is made by other
   processes during part 1.

Predicted for an H200, whose largest matrix product reaches 788 TFLOP/s:

    a pair            416.7 GFLOP forward; query forward and backward and key forward, four times that: 1.67 TFLOP
    at 100 %          788 / 1.67 = 473 pairs/s. The goal, 50 %, is 237: a step of 128 pairs then takes 0.54 s
    attention         28 % of the operations. FlashAttention 2 reaches 300 TFLOP/s at heads of 64, cuDNN's 400 to 450:
                      1.55 against about 1.1 ms a pair, so cuDNN's should be 15 to 20 % faster over the whole step
    half the patches  0.72 TFLOP: at most 1,093 pairs/s, 2.3 times as many
    memory            about 50 bytes a token, layer and unit of width with autocast: 0.8 GB a scene, 104 GB a batch.
                      Compiled, fewer copies are kept, perhaps 70 GB
    data              237 pairs/s are 4,266 keyframes/s; 16 cores decode 5,000 to 8,000 at 2 to 3 ms each, so waiting
                      stays below 2 % with little to spare. A batch is 347 MB, and each worker keeps two ready
    film world        a step of 64 pairs is limited by starting kernels, 15 to 20 ms; 20,000 steps take five minutes

How it can fail: a kernel that the GPU or this PyTorch lacks leaves a row with the error. A step that does not fit into
memory is tried again in two parts, then four, and the row says so. Workers hand batches over through /dev/shm, whatever
the sharing strategy; where it cannot hold two batches for each core, fewer workers are started, and decoding may then
be the limit. Variants that the clock does not allow are listed as not reached. Momentum contrast may collapse; the row
then holds the message.
"""

import argparse
import contextlib
import gc
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from benchmarks.harness import RESULTS, write_result
from benchmarks.moco import build_training, draw_patches, largest_costs, num_patches, write_catalog
from data_scripts.readers.scene_frames import SceneFrames, SceneRead
from data_scripts.scene_embedding import Scene, embed_scenes, evenly_spaced
from eval.film_worlds import TrueScene, preparation, read_truth, true_scenes
from eval.scene_retrieval import judge
from modeling_m2s import M2SSceneConfig, M2SSceneModel
from modeling_m2s.commands_m2s import parse
from modeling_m2s.pretrained_m2s import TINY_MODEL, load_encoder
from train.moco import loop
from train.moco.loop import Training
from train.moco.pairs import Batch, load_batches
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes
from train.speed import peak_memory_gb, peak_operations

# None leaves the choice to PyTorch.
KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "default": None}
PARTS = ("speed", "data", "film_world")
SPEED_SHARE = 0.45  # of the time, after which no further variant begins
TOLERANCE = 0.03  # relative, in bfloat16; absolute for a loss below 1
SHARPER = 6  # times random attention weights, which are so small that a wrong kernel would hardly show
FILM_WORLD = Path(__file__).parent.parent / "train/configs/moco_film_world.yaml"
# Settings with which the paper's objective learns in short runs: old keys would be told by their age with the paper's.
MOMENTUM = {
    "objective": "momentum",
    "temperature": 0.2,
    "momentum": 0.99,
    "queue_size": 512,
    "learning_rate": 3e-5,
    "head_learning_rate": 3e-4,
}


class Variant(NamedTuple):
    kernel: str
    compiled: bool
    patch_dropout: float


# In the order of their worth, in case the time ends.
VARIANTS = [
    Variant("cudnn", False, 0.0),
    Variant("flash", False, 0.0),
    Variant("default", False, 0.0),
    Variant("cudnn", True, 0.0),
    Variant("cudnn", False, 0.5),
    Variant("cudnn", True, 0.5),
    Variant("flash", True, 0.0),
    Variant("default", True, 0.0),
]


@dataclass(kw_only=True)
class Sizes:
    """Sizes for a GPU; `tiny` are those that try the script on a CPU."""

    vision: dict[str, int]
    batch_size: int = 128
    queue_size: int = 65536
    compared_pairs: int = 8
    warm_up: int = 3
    steps: int = 8
    films: int = 20
    shots_per_film: int = 500
    data_warm_up: int = 48  # more than the workers have ready when training begins
    data_steps: int = 32
    world_films: int = 300
    world_batch_size: int = 64
    world_steps: int = 20_000
    probe_steps: int = 60

    @classmethod
    def tiny(cls) -> "Sizes":
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        small = {"batch_size": 4, "queue_size": 16, "compared_pairs": 2, "warm_up": 1, "steps": 1}
        data = {"films": 3, "shots_per_film": 12, "data_warm_up": 2, "data_steps": 2}
        world = {"world_films": 12, "world_batch_size": 4, "world_steps": 4, "probe_steps": 2}
        return cls(vision={**vision, "image_size": 32, "patch_size": 16}, **small, **data, **world)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=540, help="time for the whole script")
    parser.add_argument(
        "--results", type=Path, help="folder for the result file; on a CPU it is only printed by default"
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="parts to run, all by default")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    on_gpu = options.device == "cuda"
    sizes = Sizes(vision={"patch_size": 16}) if on_gpu else Sizes.tiny()
    if options.prepare:
        prepare_world(options.prepare, sizes)
        return
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("benchmarks.moco_gpu: error: no GPU here; --device cpu tries the script at tiny size")
    with tempfile.TemporaryDirectory() as name:
        Benchmark(options, sizes, Path(name)).run()


class Benchmark:
    """The three parts, within a time."""

    def __init__(self, options: argparse.Namespace, sizes: Sizes, folder: Path):
        self.options, self.sizes, self.folder = options, sizes, folder
        self.device = torch.device(options.device)
        self.deadline = time.perf_counter() + options.seconds
        on_gpu = self.device.type == "cuda"
        self.peak = peak_operations(self.device, torch.bfloat16, 2.0 if on_gpu else 0.1)
        self.content: dict[str, Any] = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu, tiny sizes: the figures say nothing",
            "largest_product_teraflops": round(self.peak / 1e12, 3),
            "sizes": vars(sizes),
        }
        size = sizes.vision.get("image_size", 224)
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        pairs = 2 * sizes.batch_size
        write_catalog(folder, sizes.films, sizes.shots_per_film, pairs, (size * 16 // 9, size))

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.perf_counter()

    def run(self) -> None:
        """All parts; one that fails leaves its error in the result, and the others are still run.

        Raises:
            SystemExit: a part failed.
        """
        parts = {"speed": self.speeds, "data": self.data, "film_world": lambda: film_world(self)}
        failed = False
        with world_in_background(self) if "film_world" in self.options.parts else contextlib.nullcontext() as world:
            for name in self.options.parts:
                if world and name != "speed":
                    world.wait()  # it would take cores from the workers
                try:
                    self.content[name] = parts[name]()
                except (RuntimeError, ValueError, OSError) as error:
                    traceback.print_exc()
                    self.content[name], failed = {"error": first_line(error)}, True
                self.write()
        if failed:
            raise SystemExit(1)

    def write(self) -> None:
        on_gpu = self.device.type == "cuda"  # a GPU's figures are recorded only from a GPU
        folder = self.options.results or (RESULTS if on_gpu else self.folder / "results")
        write_result("moco_gpu" if on_gpu else "moco_gpu-trial", "bfloat16", self.content, folder)

    # 1. Speed

    def build(self, variant: Variant, accumulation: int = 1, max_steps: int | None = None) -> "FilledTraining":
        sizes = self.sizes
        recipe = MoCoRecipe(
            queue_size=sizes.queue_size,
            batch_size=sizes.batch_size,
            accumulation=accumulation,
            patch_dropout=variant.patch_dropout,
            epochs=10**6,
            max_steps=max_steps,
            bf16=True,
        )
        torch.manual_seed(0)
        encoder = M2SSceneModel(M2SSceneConfig(vision_config=CLIPVisionConfig(**sizes.vision)))
        frames = SceneFrames(self.folder / "shots", self.image_processor, cache=self.folder / "cache")
        data = MoCoData(
            pairs=self.folder / "scene_pairs",
            shots=str(self.folder / "shots"),
            compile=variant.compiled,
            num_workers=self.workers(),
        )
        training = build_training(
            recipe,
            frames,
            self.folder,
            encoder,
            sizes.data_warm_up,
            data,
            FilledTraining,
            on_cpu=self.device.type == "cpu",
        )
        training.state = {}
        return training

    @torch.no_grad()
    def losses(self) -> dict[str, Any]:
        """The loss of a few pairs by each kernel in bfloat16, and how far the embeddings lie from float32's."""
        training = self.build(VARIANTS[0])
        for network in (training.contrast, training.keys):
            for layer in network.encoder.vision_model.encoder.layers:
                attention = layer.self_attn
                for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
                    linear.weight *= SHARPER
        training.start()
        batch = self.batch(training)
        few = Batch(*(None if values is None else values[:, : self.sizes.compared_pairs] for values in batch[:4]), [])
        training.recipe = replace(training.recipe, bf16=False)
        with using(SDPBackend.MATH):
            expected, exact_BC = training.compare(few)[0].loss.item(), training.embeddings
        training.recipe = replace(training.recipe, bf16=True)
        found: dict[str, Any] = {"float32": expected}
        for name, kernel in KERNELS.items():
            try:
                with using(kernel):
                    loss = training.compare(few)[0].loss.item()
            except RuntimeError as error:
                found[name] = {"error": first_line(error)}
                continue
            distance = float((training.embeddings - exact_BC).norm() / exact_BC.norm())
            close = distance < TOLERANCE and abs(loss - expected) < TOLERANCE * max(1, expected)
            found[name] = {"loss": loss, "distance_of_embeddings": round(distance, 5), "within_tolerance": close}
        return found

    def batch(self, training: Training) -> Batch:
        """A batch of noise on the device; arithmetic on zeros would be faster than on pictures."""
        recipe, size = training.recipe, self.sizes.vision.get("image_size", 224)
        shape = (2, recipe.batch_size, recipe.shots_per_scene, 3, size, size)
        kept = None
        if recipe.patch_dropout:
            patches = num_patches(training.contrast.encoder)
            kept = draw_patches(2 * recipe.batch_size, recipe.shots_per_scene, patches, recipe.patch_dropout)
            kept = kept.unflatten(0, shape[:2]).to(self.device)
        pixels = torch.randint(256, shape, dtype=torch.uint8, device=self.device)
        films = torch.zeros(shape[:2], dtype=torch.long, device=self.device)
        return Batch(pixels, kept, None, films, [])

    def speeds(self) -> dict[str, Any]:
        """Losses by each kernel, and a row for each variant, as far as the part's time goes."""
        started, rows, losses = time.perf_counter(), [], self.losses()
        for variant in VARIANTS:
            row: dict[str, Any] = variant._asdict()
            if time.perf_counter() - started > SPEED_SHARE * self.options.seconds:
                row["not_reached"] = True
            else:
                row |= self.speed(variant)
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
        return {"losses": losses, "rows": rows}

    def speed(self, variant: Variant) -> dict[str, Any]:
        """Steps on one batch; in parts if they do not fit into the GPU's memory."""
        for accumulation in (1, 2, 4):
            free_memory()
            try:
                with using(KERNELS[variant.kernel]), trial_compiler(self.device):
                    return {"accumulation": accumulation, **self.timed_steps(variant, accumulation)}
            except torch.OutOfMemoryError:
                outcome = {"error": f"out of memory in {accumulation} parts"}
            except RuntimeError as error:
                return {"error": first_line(error)}
        return outcome

    def timed_steps(self, variant: Variant, accumulation: int) -> dict[str, Any]:
        training = self.build(variant, accumulation)
        training.start()
        batch, sizes = self.batch(training), self.sizes
        started = time.perf_counter()
        training.step(0, batch)
        self.synchronize()
        first = time.perf_counter() - started
        for step in range(1, sizes.warm_up):
            training.step(step, batch)
        self.synchronize()
        started = time.perf_counter()
        for step in range(sizes.steps):
            training.step(sizes.warm_up + step, batch)
        self.synchronize()
        rate = sizes.steps * sizes.batch_size / (time.perf_counter() - started)
        row: dict[str, Any] = {
            "pairs_per_second": round(rate, 2),
            "megaflop_per_pair": round(training.speed.pair_operations / 1e6, 3),
            "share_of_peak": round(rate * training.speed.pair_operations / self.peak, 4),
            "peak_memory_gb": round(peak_memory_gb(self.device), 2),
            "first_step_seconds": round(first, 1),
        }
        if variant == VARIANTS[0]:
            row["five_largest_costs"] = largest_costs(training, batch)
        return row

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # 2. Data

    def workers(self) -> int:
        """Processes that decode: one for each core, fewer where /dev/shm cannot hold two batches for each."""
        if self.device.type == "cpu":
            return 1
        batch_bytes = 2 * self.sizes.batch_size * 9 * 3 * 224**2
        fit = int(0.8 * shutil.disk_usage("/dev/shm").free / (2 * batch_bytes))
        return max(1, min(os.cpu_count() or 1, fit))

    def data(self) -> dict[str, Any]:
        """Decoding without training, then training from JPEG."""
        free_memory()
        steps, workers = self.sizes.data_warm_up + self.sizes.data_steps, self.workers()
        training = self.build(VARIANTS[0], max_steps=2 * self.sizes.data_warm_up)
        loader = iter(load_batches(training.batches, range(steps), workers, self.device))
        for step in range(steps):
            next(loader)
            if step + 1 == self.sizes.data_warm_up:
                started = time.perf_counter()
        decoded = self.sizes.data_steps * self.sizes.batch_size / (time.perf_counter() - started)
        del loader
        training.run()  # with the kernels that the loop itself asks for
        line = training.run_folder.read_log()[-1]
        names = ("pairs_per_second", "share_of_peak", "data_wait", "memory_gb")
        return {
            "workers": workers,
            "shared_memory_free_gb": round(shutil.disk_usage("/dev/shm").free / 1e9, 1),
            "decoded_pairs_per_second_without_training": round(decoded, 1),
            "training": {name: line[name] for name in names},
        }


class FilledTraining(Training):
    """A training whose queue begins with noise: 65,536 true keys would take a minute, and a step costs the same."""

    def start(self) -> None:
        noise = torch.randn(len(self.queue.keys_KC), self.queue.keys_KC.shape[1], device=self.device)
        films = torch.zeros(len(noise), dtype=torch.long, device=self.device)
        self.queue.push(F.normalize(noise, dim=-1), films, -1)


@contextlib.contextmanager
def using(kernel: SDPBackend | None) -> Iterator[None]:
    """Have the training loop compute attention by one kernel on a GPU; by None, as PyTorch chooses."""

    def chosen(*_: Any, **__: Any) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel)

    with mock.patch.object(loop, "sdpa_kernel", chosen):
        yield


@contextlib.contextmanager
def trial_compiler(device: torch.device) -> Iterator[None]:
    """On a CPU, where only the script is tried, compiled modules run uncompiled."""
    with torch.compiler.set_stance("force_eager") if device.type == "cpu" else contextlib.nullcontext():
        yield


def free_memory() -> None:
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# 3. Film world


@contextlib.contextmanager
def world_in_background(benchmark: Benchmark) -> Iterator[subprocess.Popen]:
    """A process that makes the world on the CPU and leaves the GPU alone."""
    folder = benchmark.folder / "world"
    command = [sys.executable, "-m", "benchmarks.moco_gpu", "--prepare", str(folder)]
    command += ["--device", benchmark.options.device]
    cache = {"HF_DATASETS_CACHE": str(benchmark.folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    with open(benchmark.folder / "world.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env={**os.environ, **cache}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.returncode:
                print((benchmark.folder / "world.log").read_text(encoding="utf-8")[-2000:], file=sys.stderr)


def prepare_world(folder: Path, sizes: Sizes) -> None:
    """Films, features, films with similar synopses, and pairs of scenes; every fifth film is held out of the pairs."""
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    for module, words, name in preparation(folder, seed=1, num_films=sizes.world_films, film_seconds=60):
        call(module, *words, "--output", folder / name)
    similar = ["--movies", folder / "movies", "--sources", "synopsis", "--top_k", "30"]
    call("data_scripts.similar_movies", *similar, "--output", folder / "similar_movies")
    movie_ids = sorted(read_truth(folder / "world/truth/shots.csv"))
    (folder / "held_out_films.txt").write_text("\n".join(movie_ids[::5]))
    (folder / "training_films.txt").write_text("\n".join(sorted(set(movie_ids) - set(movie_ids[::5]))))
    inputs = ["--features", folder / "shot_features", "--similar", folder / "similar_movies", "--space", "whitened"]
    inputs += ["--films", folder / "training_films.txt", "--batch_pairs", "32"]
    call("data_scripts.mine_scene_pairs", *inputs, "--output", folder / "scene_pairs")


def call(module: str, *words: object) -> None:
    """A command of the project, in this process."""
    importlib.import_module(module).main([str(word) for word in words])


class FramesInMemory(SceneFrames):
    """Keyframes of a small catalog, decoded once: training then waits for none."""

    def __init__(self, frames: SceneFrames):
        self.image_processor, self.frames_per_shot = frames.image_processor, frames.frames_per_shot
        self.movie_ids, self.num_shots = frames.movie_ids, frames.num_shots
        self.films = {movie_id: frames.read(movie_id, 0, shots) for movie_id, shots in frames.num_shots.items()}

    def read(self, movie_id: str, first_shot: int, num_shots: int) -> SceneRead:
        shots = slice(first_shot, first_shot + num_shots)
        return SceneRead(*(values[shots] for values in self.films[movie_id]))


class TimeIsUp(Exception):
    """A training has used its time."""


class TimedTraining(Training):
    """A training that ends at its deadline, a value of `time.perf_counter`."""

    deadline = float("inf")

    def after_step(self, *arguments: Any) -> None:
        super().after_step(*arguments)
        if time.perf_counter() > self.deadline and self.state["step"] < self.num_steps:
            raise TimeIsUp


class World:
    """The film world that `prepare_world` made, its frames, and the scenes that encoders are measured on."""

    def __init__(self, folder: Path, benchmark: Benchmark):
        self.folder, self.benchmark = folder, benchmark
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
        data = MoCoData(
            pairs=self.folder / "scene_pairs",
            shots="",
            num_workers=min(8, self.benchmark.workers()),
            measure_steps=max(1, (recipe.max_steps or 1) // 10),
        )
        encoder, _, _ = load_encoder(TINY_MODEL)
        on_cpu = self.benchmark.device.type == "cpu"
        log_steps = max(1, (recipe.max_steps or 2) // 2)
        return build_training(
            recipe, self.frames, self.folder, encoder, log_steps, data, TimedTraining, labeled, on_cpu=on_cpu
        )

    def judged(self, encoder: M2SSceneModel) -> dict[str, float]:
        """Place retrieval among held-out films' scenes, and the probe, as `eval.scene_retrieval` measures them."""
        encoder.to(self.benchmark.device)
        queries, training = (
            embed_scenes(encoder, self.frames, self.scenes(scenes), bf16=True)
            for scenes in (self.queries, self.training)
        )
        values = judge(queries, self.queries, training, self.training)
        chosen = ("raw/precision_at_1", "whitened/precision_at_1", "probe")
        return {name: round(float(np.mean(values[name])), 4) for name in chosen}

    def trained(self, recipe: MoCoRecipe, seconds: float) -> dict[str, Any]:
        """A whole training, ended by the clock if need be, and what its best weights reach."""
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


def film_world(benchmark: Benchmark) -> dict[str, Any]:
    """In-batch contrast by its recipe, then momentum for as many steps as the time that is left allows.

    Raises:
        OSError: the world was not made; its log is printed.
    """
    free_memory()
    sizes, world = benchmark.sizes, World(benchmark.folder / "world", benchmark)
    (recipe,) = parse(MoCoRecipe, [str(FILM_WORLD)])
    recipe = replace(recipe, batch_size=sizes.world_batch_size, epochs=10**6)
    recipe = replace(recipe, max_steps=min(recipe.max_steps or sizes.world_steps, sizes.world_steps))
    results = {
        "films": sizes.world_films,
        "queries": len(world.queries),
        "frozen": world.judged(load_encoder(TINY_MODEL)[0]),
        "in_batch": world.trained(recipe, 0.4 * benchmark.left),
    }
    momentum = replace(recipe, **MOMENTUM, max_steps=sizes.probe_steps)
    probe = world.build(momentum)
    probe.run()
    rate = probe.run_folder.read_log()[-1]["pairs_per_second"]
    left = benchmark.left - 20  # for the last measurement
    steps = max(1, min(sizes.world_steps, int(0.8 * left * rate / momentum.batch_size)))
    results["momentum"] = world.trained(replace(momentum, max_steps=steps), left)
    return results


if __name__ == "__main__":
    main()
