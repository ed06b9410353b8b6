"""Contrastive training against plain training loops, on a CPU: pairs a second, memory, the largest costs.

    pip install --no-deps sentence-transformers        for one of the rivals, which is left out without it
    python -m benchmarks.moco                          about ten minutes on two cores

All train m2s-clip-tiny on the same pairs of scenes: four of nine shots per scene, half of the patches, 64 pairs a step,
contrast within the batch with gradients through both scenes, bfloat16 by autocast, one worker process. Keyframes are
JPEG files of 320×180 pixels.

    ours                              `train.moco.loop.Training`, as `train_moco` runs it
    ours, fused attention             the same with PyTorch's attention, which the loop avoids for short scenes on CPUs
    ours, momentum                    the same with the paper's objective: a queue, a key encoder without gradient
    plain loop                        a DataLoader over Pillow and the image processor, the encoder, InfoNCE, Adam
    plain loop, sentence-transformers the same with `MultipleNegativesRankingLoss` in both directions

The losses of one batch, and the pixels of a scene, are asserted equal in float32 before anything is timed. The momentum
objective is another loss and is only timed. A run times as many steps as it warms up with. lightly's `NTXentLoss` is
not compared: it also takes the other scenes of the same side as negatives, so it is another loss.

Predicted: a pair costs 5.2 GFLOP in a step of `in_batch`, which is 3 s of one core for 64 pairs, and 3.5 GFLOP in a
step of `momentum`, whose key needs no gradient. The 512 keyframes of a step take 0.65 s of a core in our worker and
0.95 s with the image processor. Reading overlaps computing, so on two cores that share all work ours should be a tenth
faster, and no step waits for data. A loss among 64 pairs costs nothing, so both plain loops should be equally fast.
They use the attention that transformers chooses, PyTorch's fused one. At 97 tokens and heads of 64, its backward pass
on CPUs takes a quarter of the step, so our step, with attention written out, should be a fifth faster.
"""

import importlib.util
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor

from benchmarks.harness import RESULTS, write_result, write_shots
from benchmarks.mil import status_kib
from data_scripts.mining.scenes import WINDOW
from data_scripts.readers.scene_frames import SceneFrames
from m2s.commands import run_command
from modeling_m2s import M2SSceneModel
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.pretrained_m2s import TINY_MODEL, load_encoder
from modeling_m2s.storage_m2s import FilmDataset
from train.arguments import RunArguments
from train.moco.loop import Training
from train.moco.model import SceneContrast
from train.moco.pairs import Batch, BatchPlan, PairBatches, ScenePairs
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes
from train.runs import RunFolder

OURS, FUSED, MOMENTUM = "ours", "ours, fused attention", "ours, momentum"
PLAIN, LIBRARY = "plain loop", "plain loop, sentence-transformers"
TIMED = ("pairs_per_second", "pairs_per_processor_second", "data_wait")
DISTINCT_IMAGES = 64
Loss = Callable[[Tensor, Tensor], Tensor]
T = TypeVar("T", bound=Training)


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    batch_size: int = field(default=64, metadata={"help": "number of pairs in a step"})
    steps: int = field(default=6, metadata={"help": "timed steps of a run, after as many to warm up"})
    runs: int = field(default=3, metadata={"help": "number of runs of each candidate, in turn"})
    results: Path = field(default=RESULTS, metadata={"help": "folder for the result file"})
    memory_of: str | None = field(
        default=None, metadata={"help": "only measure the memory of a run of this candidate, in this process"}
    )
    catalog: Path | None = field(
        default=None, metadata={"help": "with --memory-of: folder of the datasets to train on"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.moco", Options, run, argv)


def run(options: Options) -> None:
    if options.memory_of:
        print(json.dumps(memory_of_a_run(options.memory_of, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, catalog=Path(folder))
        write_catalog(options.catalog, 40, 48, 2 * options.steps * options.batch_size, (320, 180))
        write_files(options.catalog)
        write_result("moco", "bfloat16", compare(options), options.results)


def compare(options: Options) -> dict[str, Any]:
    """Run all candidates in turn, `options.runs` times."""
    candidates = [OURS, FUSED, MOMENTUM, PLAIN]
    if importlib.util.find_spec("sentence_transformers"):
        candidates.append(LIBRARY)
    else:
        print("sentence-transformers is left out: pip install --no-deps sentence-transformers", file=sys.stderr)
    losses = assert_equal(options, [name for name in candidates if name != MOMENTUM])
    runs = [{name: timed(name, options) for name in candidates} for _ in range(options.runs)]
    figures = {}
    for name in candidates:
        figures[name] = {value: summary([run[name][value] for run in runs]) for value in TIMED}
        figures[name]["peak_memory"] = memory_of(name, options)
    costs = {}
    for name in (OURS, FUSED, MOMENTUM):
        training = build_ours(name, options)
        training.start()
        costs[name] = largest_costs(training, training.batches[0])
    return {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": options.batch_size,
        "steps": options.steps,
        "runs": options.runs,
        "loss_of_the_first_batch_in_float32": losses,
        "figures": figures,
        "five_largest_costs": costs,
    }


def summary(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {which: round(value, 4) for which, value in found.items()}


# The inputs


def write_catalog(folder: Path, num_films: int, shots_per_film: int, num_pairs: int, size: tuple[int, int]) -> None:
    """`folder/shots` with JPEG keyframes of `size` (width, height), and `folder/scene_pairs` drawn at random."""
    images = [noise_jpeg(seed, size) for seed in range(DISTINCT_IMAGES)]
    movie_ids = [f"tt{film:07d}" for film in range(num_films)]
    shots = range(shots_per_film)
    write_shots(
        folder / "shots",
        {
            movie_id: [images[(7 * film + n) % DISTINCT_IMAGES] for n in shots]
            for film, movie_id in enumerate(movie_ids)
        },
    )
    random, drawn = np.random.default_rng(0), {}
    places = shots_per_film - WINDOW + 1
    while len(drawn) < num_pairs:
        a, b = sorted(random.choice(num_films, 2, replace=False).tolist())
        drawn[movie_ids[a], movie_ids[b], int(random.integers(places))] = int(random.integers(places))
    dataset = FilmDataset(folder / "scene_pairs", "scene_pairs")
    dataset.begin({"space": "random"})
    columns = ("movie_id_a", "movie_id_b", "first_shot_a", "first_shot_b", "num_shots", "score", "source")
    dataset.write_all(
        [dict(zip(columns, (*key, drawn[key], WINDOW, 1.0, "random"), strict=True)) for key in sorted(drawn)]
    )


def noise_jpeg(seed: int, size: tuple[int, int]) -> bytes:
    """A JPEG of blurred noise, about as large as a keyframe's file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_files(catalog: Path) -> None:
    """The keyframes as files `catalog/files/MOVIE_ID/SHOT.jpg`, for the plain loops."""
    table = FilmDataset(catalog / "shots", "shots").read().to_pydict()
    for movie_id, shot, keyframes in zip(table["movie_id"], table["shot_index"], table["keyframes"], strict=True):
        path = catalog / "files" / movie_id / f"{shot}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(keyframes[0]["bytes"])


# Ours


class ClockedTraining(Training):
    """A training that records its processor seconds at each line of its log."""

    def log(self, *arguments: Any) -> None:
        super().log(*arguments)
        self.clock = [*getattr(self, "clock", []), time.process_time()]


def recipe_of(name: str, options: Options) -> MoCoRecipe:
    recipe = MoCoRecipe(
        model=TINY_MODEL,
        objective="in_batch",
        shots_per_scene=4,
        patch_dropout=0.5,
        batch_size=options.batch_size,
        max_steps=2 * options.steps,
        learning_rate=1e-8,  # noise teaches nothing, and training must not collapse
        bf16=True,
    )
    return replace(recipe, objective="momentum", queue_size=8 * options.batch_size) if name == MOMENTUM else recipe


def build_training(
    recipe: MoCoRecipe,
    frames: SceneFrames,
    folder: Path,
    encoder: M2SSceneModel,
    log_steps: int,
    data: MoCoData | None = None,
    kind: type[T] = Training,
    labeled: LabeledScenes | None = None,
    on_cpu: bool = True,
) -> T:
    """A training loop on `folder/scene_pairs`, built as `train_moco` does, with a new run folder inside `folder`."""
    set_seed(recipe.seed)
    data = data or MoCoData(pairs=folder / "scene_pairs", shots=str(folder / "shots"))
    pairs = ScenePairs.read(data.pairs, frames)
    contrast = SceneContrast(encoder.train(), frames.image_processor, recipe)
    plan = BatchPlan(pairs.num_shots_P, recipe.batch_size, recipe.seed)
    batches = PairBatches(pairs, frames, plan, recipe, (0, 1), num_patches(encoder))
    output = Path(tempfile.mkdtemp(dir=folder))
    run = RunFolder(output, {}, Accelerator(cpu=on_cpu, mixed_precision="no"))
    arguments = RunArguments(output=output, log_steps=log_steps, checkpoint_steps=recipe.max_steps or 1)
    return kind(contrast, batches, recipe, data, run, arguments, labeled)


def num_patches(encoder: M2SSceneModel) -> int:
    """Number of patches of a frame."""
    return (encoder.config.image_size // encoder.config.vision_config.patch_size) ** 2


def build_ours(name: str, options: Options, bf16: bool = True) -> ClockedTraining:
    recipe = replace(recipe_of(name, options), bf16=bf16)
    encoder, image_processor, _ = load_encoder(TINY_MODEL)
    frames = SceneFrames(options.catalog / "shots", image_processor, cache=options.catalog / "cache")
    training = build_training(recipe, frames, options.catalog, encoder, options.steps, kind=ClockedTraining)
    if name == FUSED:
        training.contrast.encoder.set_attn_implementation("sdpa")
    return training


# The rivals


def info_nce(first_BC: Tensor, second_BC: Tensor, temperature: float = 0.07) -> Tensor:
    first_BC, second_BC = F.normalize(first_BC, dim=-1), F.normalize(second_BC, dim=-1)
    logits_BB = first_BC @ second_BC.T / temperature
    targets_B = torch.arange(len(first_BC))
    return (F.cross_entropy(logits_BB, targets_B) + F.cross_entropy(logits_BB.T, targets_B)) / 2


def library_loss(temperature: float = 0.07) -> Loss:
    """The loss of `info_nce`, as sentence-transformers computes it."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    both_ways = ("query_to_doc", "doc_to_query")
    loss = MultipleNegativesRankingLoss(None, 1 / temperature, directions=both_ways, partition_mode="per_direction")
    return lambda first_BC, second_BC: loss.compute_loss_from_embeddings([first_BC, second_BC], None)


def draw_patches(num_scenes: int, num_frames: int, patches: int, dropout: float) -> Tensor:
    """Random indices (scenes, P) of the patches to keep, equally many per frame."""
    order = torch.rand(num_scenes, num_frames, patches).argsort(-1)[..., : round(patches * (1 - dropout))]
    return (order + patches * torch.arange(num_frames)[:, None]).flatten(1)


class PlainPairs(Dataset):
    """Pairs of scenes read from JPEG files, each scene as pixels (4, C, Y, X)."""

    def __init__(self, catalog: Path, image_processor: BaseImageProcessor, shots_per_scene: int):
        self.files, self.image_processor, self.shots_per_scene = catalog / "files", image_processor, shots_per_scene
        self.rows = FilmDataset(catalog / "scene_pairs", "scene_pairs").read().to_pylist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        row, scenes = self.rows[number], []
        for side in "ab":
            chosen = torch.randperm(row["num_shots"])[: self.shots_per_scene].sort().values
            scenes.append(self.read(row[f"movie_id_{side}"], (row[f"first_shot_{side}"] + chosen).tolist()))
        return scenes[0], scenes[1]

    def read(self, movie_id: str, shots: list[int]) -> Tensor:
        pixels = [
            self.image_processor(Image.open(self.files / movie_id / f"{shot}.jpg"), return_tensors="pt")["pixel_values"]
            for shot in shots
        ]
        return torch.cat(pixels)


class PlainLoop:
    """The loop one would write in an hour: encoder and linear layer for each side of the pairs, a loss, Adam."""

    def __init__(self, options: Options, loss: Loss, bf16: bool = True):
        self.recipe, self.loss, self.bf16 = recipe_of(PLAIN, options), loss, bf16
        set_seed(self.recipe.seed)
        self.encoder, image_processor, _ = load_encoder(TINY_MODEL)
        self.encoder.train()
        self.head = nn.Linear(self.encoder.config.hidden_size, self.encoder.config.contrastive_dim)
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=self.recipe.learning_rate)
        self.pairs = PlainPairs(options.catalog, image_processor, self.recipe.shots_per_scene)

    def embed(self, pixels_BFCYX: Tensor, kept_BP: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.head(self.encoder(pixels_BFCYX, kept_patches=kept_BP).pooler_output).float()

    def step(self, scenes: tuple[Tensor, Tensor]) -> None:
        patches, dropout = num_patches(self.encoder), self.recipe.patch_dropout
        kept = [draw_patches(*pixels.shape[:2], patches, dropout) for pixels in scenes]
        embeddings = [self.embed(*inputs) for inputs in zip(scenes, kept, strict=True)]
        self.loss(*embeddings).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run(self, warm_up: int, steps: int) -> dict[str, float]:
        loader = DataLoader(self.pairs, self.recipe.batch_size, shuffle=True, drop_last=True, num_workers=1)
        batches, waited = iter(loader), 0.0
        for step in range(warm_up + steps):
            if step == warm_up:
                started, started_processor, waited = time.perf_counter(), time.process_time(), 0.0
            before = time.perf_counter()
            scenes = next(batches)
            waited += time.perf_counter() - before
            self.step(scenes)
        seconds, pairs = time.perf_counter() - started, steps * self.recipe.batch_size
        return {
            "pairs_per_second": pairs / seconds,
            "pairs_per_processor_second": pairs / (time.process_time() - started_processor),
            "data_wait": waited / seconds,
        }


def build_plain(name: str, options: Options, bf16: bool = True) -> PlainLoop:
    return PlainLoop(options, library_loss() if name == LIBRARY else info_nce, bf16)


# The measurements


def assert_equal(options: Options, candidates: list[str]) -> dict[str, float]:
    """Assert that all candidates have the same loss on one batch in float32, and read the same pixels of a scene.

    Returns:
        The loss by each candidate.

    Raises:
        AssertionError: losses or pixels differ.
    """
    training = build_ours(OURS, options, bf16=False)
    batch, frames = training.batches[0], training.batches.frames
    pixels_2bFCYX = normalize(batch.pixels_2bFCYX, frames.image_processor)
    losses = {}
    for name in candidates:
        if name in (OURS, FUSED):
            loss = build_ours(name, options, bf16=False).compare(batch)[0].loss
        else:
            loop = build_plain(name, options, bf16=False)
            loop.head.load_state_dict(training.contrast.head.projection.state_dict())
            loss = loop.loss(*(loop.embed(pixels_2bFCYX[side], batch.kept_2bP[side]) for side in range(2)))
            movie_id = frames.movie_ids[0]
            read = normalize(frames.read(movie_id, 3, 4).pixels_FCYX, frames.image_processor)
            torch.testing.assert_close(loop.pairs.read(movie_id, [3, 4, 5, 6]), read, rtol=1e-4, atol=1e-5)
        losses[name] = loss.detach()
        torch.testing.assert_close(losses[name], losses[OURS], rtol=1e-4, atol=1e-5)
    return {name: round(float(loss), 5) for name, loss in losses.items()}


def timed(name: str, options: Options) -> dict[str, float]:
    """Figures of the last `options.steps` steps.

    Returns:
        Pairs per wall second and per processor second of the training process, which other programs disturb less, and
        the share of time spent waiting for data.
    """
    if name in (OURS, FUSED, MOMENTUM):
        training = build_ours(name, options)
        training.run()
        pairs, (before, after) = options.steps * options.batch_size, training.clock
        return {**training.run_folder.read_log()[-1], "pairs_per_processor_second": pairs / (after - before)}
    return build_plain(name, options).run(options.steps, options.steps)


def memory_of(name: str, options: Options) -> dict[str, float]:
    """`memory_of_a_run`, called in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.moco", "--memory-of", name, "--catalog", str(options.catalog)]
    command += ["--batch-size", str(options.batch_size), "--steps", "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_of_a_run(name: str, options: Options) -> dict[str, float]:
    """Peak MiB of the training process and of its worker; memory that they share counts in both."""
    timed(name, options)
    # This process's ru_maxrss starts at its parent's value, so read VmHWM instead.
    kib = {"process_mib": status_kib("VmHWM"), "worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}
    return {part: round(value / 2**10, 1) for part, value in kib.items()}


def largest_costs(training: Training, batch: Batch, steps: int = 3) -> dict[str, float]:
    """The five operations or GPU kernels that take most of a step, with their shares of its time."""
    on_gpu = training.device.type == "cuda"
    training.step(0, batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for step in range(steps):
            training.step(step + 1, batch)
        if on_gpu:
            torch.cuda.synchronize()
    device = DeviceType.CUDA if on_gpu else DeviceType.CPU
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.device_type == device
    }
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:5]
    return {name[:100]: round(spent[name] / sum(spent.values()), 3) for name in largest}


if __name__ == "__main__":
    main()
