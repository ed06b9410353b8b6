"""The training loop of scene contrast: steps, logging, stopping, checkpoints."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from data_scripts.readers.decoded import decoded
from modeling_m2s.pretrained_m2s import computing_format
from train.arguments import RunArguments
from train.moco import contrast as contrasts
from train.moco.contrast import Contrast, FilmSimilarity, Queue
from train.moco.model import SceneContrast, step_operations
from train.moco.pairs import START, Batch, PairBatches, kept_patches
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes
from train.runs import BestWeights, RunFolder
from train.speed import peak_memory_gb, peak_operations

WHITENED_SCENES = 1024  # scenes that the whitening is fitted to
# Training has collapsed if the embeddings' spread is below this and below a fifth of its first value.
COLLAPSED = 0.05
NAMED_FRAMES = 5  # unreadable frames that a message names
JUDGED_FRAMES = 1000  # frames after which the share of unreadable ones is checked
# With fewer tokens, PyTorch's fused attention makes a step on a CPU a fifth slower because of its backward pass.
EAGER_TOKENS = 512
# cuDNN's attention is the fastest of these on recent GPUs; PyTorch's own order puts others first.
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def learning_rate_scale(step: int, num_steps: int, recipe: MoCoRecipe) -> float:
    """A step's share of the peak learning rate: a linear warm-up, then a cosine down to 0, or constant."""
    warmup = round(recipe.warmup_share * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup))) / 2


@dataclass
class Speedometer:
    """Counts pairs, seconds of training and seconds of waiting for data since the last line of the log."""

    pair_operations: float
    peak: float
    started: float = 0.0
    waited: float = 0.0
    pairs: int = 0

    def restart(self) -> None:
        self.started, self.waited, self.pairs = time.perf_counter(), 0.0, 0

    def seconds(self) -> float:
        """Seconds since the last restart, without pauses."""
        return time.perf_counter() - self.started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a block; it begins when the steps before it are done on the device."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before

    def read(self) -> dict[str, float]:
        """Pairs a second over all processes, share of the devices' peak, share of the time spent waiting for data."""
        seconds = self.seconds()
        rate = self.pairs / seconds
        return {
            "pairs_per_second": round(rate, 2),
            "share_of_peak": round(rate * self.pair_operations / self.peak, 4),
            "data_wait": round(self.waited / seconds, 4),
        }


class Training:
    """A contrastive training on pairs of scenes: `run()` does all remaining steps.

    Attributes:
        contrast: the trained network; `network` is the same, wrapped by accelerate.
        keys: with the momentum objective, the slowly following copy of the network. It and `queue` are not wrapped.
        state: step, seconds, frames read, unreadable frames, best step and its precision; saved with checkpoints.
    """

    def __init__(
        self,
        contrast: SceneContrast,
        batches: PairBatches,
        recipe: MoCoRecipe,
        data: MoCoData,
        run: RunFolder,
        arguments: RunArguments,
        labeled: LabeledScenes | None = None,
    ):
        self.recipe, self.data, self.run_folder, self.arguments, self.labeled = recipe, data, run, arguments, labeled
        self.accelerator, self.contrast, self.batches = run.accelerator, contrast, batches
        self.device = self.accelerator.device
        self.num_steps = recipe.epochs * batches.plan.steps_per_epoch
        self.num_steps = min(self.num_steps, recipe.max_steps or self.num_steps)
        similar = torch.from_numpy(batches.pairs.films_P2)
        self.similarity = FilmSimilarity(similar, len(batches.pairs.movie_ids)).to(self.device)
        contrast.to(self.device)
        frames = min(recipe.shots_per_scene, int(batches.pairs.num_shots_P.max())) * recipe.frames_per_shot
        kept = kept_patches(batches.patches, recipe)
        if self.device.type == "cpu" and frames * kept < EAGER_TOKENS:
            contrast.encoder.set_attn_implementation("eager")
        self.keys: SceneContrast | None = None
        if recipe.objective == "momentum":
            self.keys = copy.deepcopy(contrast).requires_grad_(False)
            self.queue = Queue(recipe.queue_size, contrast.encoder.config.contrastive_dim, self.device)
            self.accelerator.register_for_checkpointing(self.keys, self.queue)
        self.best = BestWeights()
        self.accelerator.register_for_checkpointing(self.best)
        if data.compile:
            contrast.encoder.compile()
            if self.keys:
                self.keys.encoder.compile()
        head_rate = recipe.learning_rate if recipe.head_learning_rate is None else recipe.head_learning_rate
        head = {"params": list(contrast.head.parameters()), "rate": head_rate}
        trained = [parameter for parameter in contrast.encoder.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "rate": recipe.learning_rate}, head]
        optimizer = torch.optim.Adam(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        self.network, self.optimizer = self.accelerator.prepare(contrast, optimizer)
        self.state: dict[str, Any] = {}
        self.frames, self.unreadable = 0, list[tuple[str, int]]()  # this process's frames, not yet in the state
        self.dtype = computing_format(recipe.bf16, self.device)
        self.speed = Speedometer(
            step_operations(contrast.encoder, recipe, frames),
            peak_operations(self.device, self.dtype) * self.accelerator.num_processes,
        )

    def run(self) -> dict[str, Any]:
        """Train all steps from the latest checkpoint on; with labeled scenes, the encoder ends with the best weights.

        Returns:
            The last state.

        Raises:
            ValueError: the loss is not finite, the embeddings collapsed, or too many frames cannot be decoded.
        """
        fresh = {"seconds": 0.0, "frames": 0, "unreadable": 0, "best_step": 0, "best_precision": None}
        self.state = {**fresh, **self.run_folder.restore()}
        state = self.state
        if not state["step"]:
            self.start()
        steps = range(state["step"], self.num_steps)
        hidden = None if self.run_folder.is_main else True
        self.speed.restart()
        with tqdm(total=self.num_steps, initial=state["step"], desc="training", disable=hidden) as bar:
            for step, batch in zip(steps, self.waiting(steps, self.batches), strict=True):
                self.frames += batch.num_frames
                self.unreadable += batch.unreadable
                contrast, gradient_norm = self.step(step, batch.to(self.device))
                state["step"] = step + 1
                self.speed.pairs += self.recipe.batch_size
                bar.update()
                self.after_step(contrast, gradient_norm)
        if self.labeled:
            self.contrast.encoder.load_state_dict(self.best.weights)
        return state

    def after_step(self, contrast: Contrast, gradient_norm: Tensor) -> None:
        """Log, measure and save when due; all three after the last step."""
        step, is_last = self.state["step"], self.state["step"] == self.num_steps
        if step % self.arguments.log_steps == 0 or is_last:
            self.log(step, contrast, gradient_norm)
        if self.labeled and (step % self.recipe.measure_steps == 0 or is_last):
            with self.speed.paused():
                self.measure()
        if step % self.arguments.checkpoint_steps == 0 or is_last:
            self.count_frames()
            with self.speed.paused():  # the seconds since the last line of the log are not yet in the state
                self.run_folder.save(**{**self.state, "seconds": self.state["seconds"] + self.speed.seconds()})

    def waiting(self, steps: range, batches: PairBatches) -> Iterator[Batch]:
        """The batches of some steps; the time spent waiting for them is counted."""
        loader = decoded(batches, steps, self.data.num_workers, self.device, batches.item_bytes)
        for _ in steps:
            before = time.perf_counter()
            batch = next(loader)
            self.speed.waited += time.perf_counter() - before
            yield batch

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Use autocast according to the recipe, and the fastest attention on a GPU."""
        on_gpu = self.device.type == "cuda"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
            sdpa_kernel(ATTENTION, set_priority=True) if on_gpu else contextlib.nullcontext(),
        ):
            yield

    @torch.no_grad()
    def start(self) -> None:
        """Before the first step, compute the statistics for whitening and fill the queue with keys.

        With a queue of noise, the loss would rise until real keys have replaced it.
        """
        recipe = self.recipe
        needed = max(recipe.queue_size if self.keys else 0, WHITENED_SCENES if recipe.whiten else 0)
        batches = copy.copy(self.batches)
        batches.stream, batches.plan = START, copy.copy(self.batches.plan)
        features, films = [], []
        for batch in self.waiting(range(-(-needed // (2 * recipe.batch_size))), batches):
            for number in range(recipe.accumulation):
                part = batch.to(self.device).part(number, recipe.accumulation)
                with self.computing():
                    features.append(self.contrast.encode(*part[:3]).float().flatten(0, 1))
                films.append(part.films_2B.flatten())
        if recipe.whiten:
            self.contrast.head.whiten(torch.cat(features)[:WHITENED_SCENES])
            for buffer in (self.contrast.head.mean_D, self.contrast.head.axes_DD):
                buffer.copy_(broadcast(buffer))
        if self.keys:
            self.keys.load_state_dict(self.contrast.state_dict())
            for features_BD, film_B in zip(features, films, strict=True):
                self.queue.push(self.keys.head(features_BD), film_B, -1)

    def step(self, step: int, batch: Batch) -> tuple[Contrast, Tensor]:
        """One step: compute loss and gradient of every part of the batch, then update weights, key encoder and queue.

        Returns:
            The contrast of the last part, with the mean loss of all parts, and the norm of the gradient.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate_scale(step, self.num_steps, self.recipe)
        parts, losses, pushed = self.recipe.accumulation, [], []
        for number in range(parts):
            part, is_last = batch.part(number, parts), number == parts - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.network):
                contrast, keys = self.compare(part)
                self.accelerator.backward(contrast.loss / parts)
            losses.append(contrast.loss.detach())
            pushed.append(keys)
        gradients = [each.grad for each in self.contrast.parameters() if each.grad is not None]
        gradient_norm = torch.nn.utils.get_total_norm(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.keys:
            progress = step / self.num_steps
            momentum = contrasts.scheduled_momentum(self.recipe.momentum, self.recipe.momentum_schedule, progress)
            contrasts.update_key_encoder(self.keys, self.contrast, momentum)
            for key_BC, film_B in pushed:
                self.queue.push(key_BC, film_B, step)
        return contrast._replace(loss=torch.stack(losses).mean()), gradient_norm

    def compare(self, part: Batch) -> tuple[Contrast, tuple[Tensor, Tensor]]:
        """The contrast of pairs of scenes, and the keys, with their films, that they add to the queue."""
        recipe = self.recipe
        if self.keys is None:
            with self.computing():
                first_BC, second_BC = self.network(*part[:3])
            masked_BB = self.masked(part.films_2B[0], part.films_2B[1])
            self.embeddings, self.masks = first_BC.detach(), masked_BB
            return contrasts.in_batch_contrast(first_BC, second_BC, recipe.temperature, masked_BB), (None, None)
        queries, keys = (part, part.swapped()) if recipe.symmetric else (part.side(0), part.side(1))
        with self.computing(), torch.no_grad():
            key_BC = self.keys(*keys[:3]).flatten(0, 1)
        with self.computing():
            query_BC = self.network(*queries[:3]).flatten(0, 1)
        masked_BK = self.masked(queries.films_2B.flatten(), self.queue.films_K)
        self.embeddings, self.masks = query_BC.detach(), masked_BK
        contrast = contrasts.momentum_contrast(query_BC, key_BC, self.queue.keys_KC, recipe.temperature, masked_BK)
        return contrast, (key_BC, keys.films_2B.flatten())

    def masked(self, query_B: Tensor, key_K: Tensor) -> Tensor | None:
        if self.recipe.mask == "none":
            return None
        return self.similarity.masked(query_B, key_K, self.recipe.mask == "similar")

    def log(self, step: int, contrast: Contrast, gradient_norm: Tensor) -> None:
        """Write a line of the log, and raise an error if training has failed.

        Raises:
            ValueError: the loss is not finite, or the embeddings are nearly equal.
        """
        loss, spread = contrast.loss.item(), contrasts.spread(self.embeddings).item()
        self.count_frames()
        self.state["seconds"] += self.speed.seconds()
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of step {step} is {loss}: training diverged. Use a learning_rate below "
                f"{self.recipe.learning_rate:g}, and another folder"
            )
        values = {
            "loss": round(loss, 6),
            "top_1": round(contrasts.accuracy(contrast, 1).item(), 4),
            "top_5": round(contrasts.accuracy(contrast, 5).item(), 4),
            "spread": round(spread, 4),
            "gradient_norm": round(float(gradient_norm), 5),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "masked_share": 0.0 if self.masks is None else round(self.masks.float().mean().item(), 4),
        }
        if self.keys:
            ages = contrasts.similarity_by_age(self.embeddings, self.queue)
            values |= {f"similarity_age_{age}": round(value, 4) for age, value in enumerate(ages, 1)}
        values |= {**self.speed.read(), "memory_gb": round(peak_memory_gb(self.device), 3)}
        self.run_folder.log(step, **values)
        self.speed.restart()
        first = self.state.setdefault("first_spread", spread)
        if spread < min(COLLAPSED, first / 5):
            raise ValueError(
                f"the embeddings of step {step} are nearly all alike (spread {spread:.3f}): training collapsed. Use a "
                "lower learning_rate, a higher temperature or objective in_batch, and another folder"
            )

    def count_frames(self) -> None:
        """Add the frames that all processes have read since the last call, and the unreadable ones, to the state.

        Raises:
            ValueError: the share of unreadable frames is above the threshold; raised on all processes.
        """
        state, names = self.state, [f"{movie_id} shot {shot}" for movie_id, shot in self.unreadable]
        counts = torch.tensor([self.frames, len(names)], device=self.device)
        read, unreadable = self.accelerator.reduce(counts, reduction="sum").tolist()
        self.frames, self.unreadable = 0, []
        state["frames"], state["unreadable"] = state["frames"] + read, state["unreadable"] + unreadable
        if not unreadable:
            return
        named = f", such as {', '.join(names[:NAMED_FRAMES])}" if names else ""
        is_judged = state["frames"] >= JUDGED_FRAMES or state["step"] == self.num_steps
        if is_judged and state["unreadable"] > self.data.max_unreadable * state["frames"]:
            raise ValueError(
                f"{state['unreadable']} of {state['frames']} frames do not decode{named}: more than "
                f"max_unreadable={self.data.max_unreadable:g}. Run python -m data_scripts.check {self.data.shots}"
            )
        if self.run_folder.is_main:
            tqdm.write(f"{unreadable} keyframes do not decode{named}")

    def measure(self) -> None:
        """Measure retrieval among the labeled scenes, and keep the most precise weights. One process decides."""
        found: list[Any] = [None]
        if self.run_folder.is_main:
            found = [self.labeled.measure(self.contrast.encoder, self.recipe.bf16)]
            self.run_folder.log(self.state["step"], **found[0])
        broadcast_object_list(found)
        best = self.state["best_precision"]
        if best is None or found[0]["precision_at_1"] > best:
            self.state["best_precision"], self.state["best_step"] = found[0]["precision_at_1"], self.state["step"]
            self.best.keep(self.contrast.encoder)
