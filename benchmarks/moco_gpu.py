"""Contrastive training on a GPU: pairs a second by attention kernel, memory, waits for data, and the film world.

    python -m benchmarks.moco_gpu --device cuda --seconds 540       on one GPU; at most ten minutes
    python -m benchmarks.moco_gpu --device cpu                      everything at tiny size, to try the script

It needs the package with its `eval` extra and no network: ViT-B/16 has random weights of the right shapes. The result
is written after each part, so an interrupted call keeps the parts it has measured. `--parts film_world` gives the third
part all the time.

1. Speed: steps of the paper's recipe (momentum contrast, nine shots, 128 pairs, a queue of 65,536 keys, bfloat16) on
   one batch in GPU memory. Variants are cuDNN's attention, FlashAttention and PyTorch's own choice, with and without
   compilation, and with half of the patches. Each row holds pairs/s, the share of the rate of a large matrix product in
   this run, the peak memory and the seconds of the first step. Before that, the loss of eight pairs by each kernel is
   compared with float32 attention written out. The first row also has the five largest costs.
2. Data: the same recipe through the DataLoader, from JPEG keyframes whose short side has 224 pixels, with all cores as
   workers. The result is the pairs/s that the workers decode without training, and the share of time that training
   waits for data.
3. Film world: contrast on pairs mined in the whitened space of m2s-clip-tiny, by `train/configs/moco_film_world.yaml`
   as it is, and by `moco_film_world_momentum.yaml` for as many steps as the time allows, at most 20,000. Both are
   measured on scenes of films that were neither mined nor trained on, beside the frozen encoder. Another process makes
   the world during part 1.

Predicted for an H200, whose largest matrix product reaches 788 TFLOP/s:

    a pair            416.7 GFLOP forward; query forward and backward, and key forward, are four times that: 1.67 TFLOP
    at 100 %          788 / 1.67 = 473 pairs/s. The goal, 50 %, is 237: a step of 128 pairs then takes 0.54 s
    attention         28 % of the operations. FlashAttention 2 reaches 300 TFLOP/s at heads of 64, cuDNN's 400 to 450:
                      1.55 against about 1.1 ms a pair, so cuDNN's should be 15 to 20 % faster over the whole step
    half the patches  0.72 TFLOP: at most 1,093 pairs/s, 2.3 times as many
    memory            about 50 bytes per token, layer and unit of width with autocast: 0.8 GB a scene, 104 GB a batch.
                      Compiled, fewer copies are kept, perhaps 70 GB
    data              237 pairs/s are 4,266 keyframes/s; 16 cores decode 5,000 to 8,000 at 2 to 3 ms each, so waiting
                      stays below 2 % with little to spare. A batch is 347 MB, and each worker keeps two ready
    film world        a step of 64 pairs is limited by starting kernels, 15 to 20 ms; 20,000 steps take five minutes

Possible failures: a kernel that the GPU or this PyTorch lacks leaves a row with the error. A step that does not fit
into memory is tried again in two parts, then four, and the row says so. Workers hand batches over through /dev/shm,
whatever the sharing strategy. If /dev/shm is too small for one worker per core, fewer workers start, and decoding may
then be the limit. Variants that time does not allow are listed as not reached. If momentum contrast collapses, the row
holds the message.
"""

import contextlib
import gc
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from benchmarks.harness import RESULTS, write_result
from benchmarks.moco import build_training, draw_patches, largest_costs, num_patches, write_catalog
from benchmarks.moco_world import World, WorldSizes, compare_objectives, world_in_background
from data_scripts.readers.decoded import decoded, default_workers
from data_scripts.readers.scene_frames import SceneFrames
from m2s.commands import run_command
from modeling_m2s import M2SSceneConfig, M2SSceneModel
from train.moco import loop
from train.moco.loop import Training
from train.moco.pairs import Batch
from train.moco.recipe import MoCoData, MoCoRecipe
from train.speed import peak_memory_gb, peak_operations

# None: PyTorch chooses.
KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "default": None}
PARTS = ("speed", "data", "film_world")
SPEED_SHARE = 0.45  # after this share of the time, no further variant begins
TOLERANCE = 0.03  # relative, in bfloat16; absolute for a loss below 1
SHARPER = 6  # factor on the random attention weights, which are too small to reveal a wrong kernel


class Variant(NamedTuple):
    kernel: str
    compiled: bool
    patch_dropout: float


# The most important first, because time may run out.
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
    """Sizes for a GPU; `tiny` has those for trying the script on a CPU."""

    vision: dict[str, int]
    batch_size: int = 128
    queue_size: int = 65536
    compared_pairs: int = 8
    warm_up: int = 3
    steps: int = 8
    films: int = 20
    shots_per_film: int = 500
    data_warm_up: int = 48  # more batches than the workers have ready when training begins
    data_steps: int = 32
    world: WorldSizes = field(default_factory=WorldSizes)

    @classmethod
    def tiny(cls) -> "Sizes":
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        small = {"batch_size": 4, "queue_size": 16, "compared_pairs": 2, "warm_up": 1, "steps": 1}
        data = {"films": 3, "shots_per_film": 12, "data_warm_up": 2, "data_steps": 2}
        world = WorldSizes(films=12, batch_size=4, steps=4, probe_steps=2)
        return cls(vision={**vision, "image_size": 32, "patch_size": 16}, **small, **data, world=world)


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    device: Literal["cuda", "cpu"] = field(
        default="cuda", metadata={"help": "device to measure; cpu tries the script at tiny sizes"}
    )
    seconds: float = field(default=540.0, metadata={"help": "time for the whole script"})
    results: Path | None = field(
        default=None, metadata={"help": "folder for the result file; on a CPU it is only printed by default"}
    )
    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": f"parts to run, of {', '.join(PARTS)}; by default all"}
    )

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ValueError(f"--parts {' '.join(unknown)}: not among {', '.join(PARTS)}")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.moco_gpu", Options, run, argv)


def run(options: Options) -> None:
    on_gpu = options.device == "cuda"
    sizes = Sizes(vision={"patch_size": 16}) if on_gpu else Sizes.tiny()
    if on_gpu and not torch.cuda.is_available():
        raise ValueError("no GPU here; --device cpu tries the script at tiny sizes")
    with tempfile.TemporaryDirectory() as name:
        Benchmark(options, sizes, Path(name)).run()


class Benchmark:
    """The three parts, run within a time limit."""

    def __init__(self, options: Options, sizes: Sizes, folder: Path):
        self.options, self.sizes, self.folder = options, sizes, folder
        self.device = torch.device(options.device)
        self.deadline = time.perf_counter() + options.seconds
        on_gpu = self.device.type == "cuda"
        self.peak = peak_operations(self.device, torch.bfloat16, 2.0 if on_gpu else 0.1)
        self.content: dict[str, Any] = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu, tiny sizes: the figures say nothing",
            "largest_product_teraflops": round(self.peak / 1e12, 3),
            "sizes": {**vars(sizes), "world": sizes.world._asdict()},
        }
        size = sizes.vision.get("image_size", 224)
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        pairs = 2 * sizes.batch_size
        write_catalog(folder, sizes.films, sizes.shots_per_film, pairs, (size * 16 // 9, size))

    def run(self) -> None:
        """Run all parts. If one fails, its error is written into the result, and the others still run.

        Raises:
            SystemExit: a part failed.
        """
        parts = {"speed": self.speeds, "data": self.data, "film_world": self.film_world}
        folder, failed = self.folder / "world", False
        making = "film_world" in self.options.parts
        with world_in_background(folder, self.sizes.world.films) if making else contextlib.nullcontext() as world:
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
        on_gpu = self.device.type == "cuda"  # figures from a CPU must not pass as a GPU's
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
        """The loss of a few pairs by each kernel in bfloat16, and the embeddings' distance from those in float32."""
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
        """A batch of noise on the device; with zeros, arithmetic would be faster than with pictures."""
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
        """Losses by each kernel, and a row for each variant that the part's share of time allows."""
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
        """Times of steps on one batch, which is split into parts if it does not fit into the GPU's memory."""
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

    def data(self) -> dict[str, Any]:
        """Rates of decoding without training, and of training from JPEG."""
        free_memory()
        steps = self.sizes.data_warm_up + self.sizes.data_steps
        training = self.build(VARIANTS[0], max_steps=2 * self.sizes.data_warm_up)
        item_bytes = training.batches.item_bytes
        loader = decoded(training.batches, range(steps), None, self.device, item_bytes)
        for step in range(steps):
            next(loader)
            if step + 1 == self.sizes.data_warm_up:
                started = time.perf_counter()
        rate = self.sizes.data_steps * self.sizes.batch_size / (time.perf_counter() - started)
        del loader
        training.run()  # with the training loop's own choice of kernels
        line = training.run_folder.read_log()[-1]
        names = ("pairs_per_second", "share_of_peak", "data_wait", "memory_gb")
        return {
            "workers": 1 if self.device.type == "cpu" else default_workers(item_bytes),
            "shared_memory_free_gb": round(shutil.disk_usage("/dev/shm").free / 1e9, 1),
            "decoded_pairs_per_second_without_training": round(rate, 1),
            "training": {name: line[name] for name in names},
        }

    # 3. Film world

    def film_world(self) -> dict[str, Any]:
        free_memory()
        world = World(self.folder / "world", self.device)
        return compare_objectives(world, self.sizes.world, self.deadline)


class FilledTraining(Training):
    """A training whose queue begins with noise: encoding 65,536 true keys takes a minute and changes no step's cost."""

    def start(self) -> None:
        noise = torch.randn(len(self.queue.keys_KC), self.queue.keys_KC.shape[1], device=self.device)
        films = torch.zeros(len(noise), dtype=torch.long, device=self.device)
        self.queue.push(F.normalize(noise, dim=-1), films, -1)


@contextlib.contextmanager
def using(kernel: SDPBackend | None) -> Iterator[None]:
    """Make the training loop compute attention with one kernel on a GPU; with None, PyTorch chooses the kernel."""

    def chosen(*_: Any, **__: Any) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel)

    with mock.patch.object(loop, "sdpa_kernel", chosen):
        yield


@contextlib.contextmanager
def trial_compiler(device: torch.device) -> Iterator[None]:
    """Run compiled modules uncompiled on a CPU, which only tries the script."""
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


if __name__ == "__main__":
    main()
