"""The paper's probe, an MLP with two hidden layers and ReLU, trained by plain SGD (§4.2, supplement 1.2–1.4).

    >>> jobs = [ProbeJob(task, recipe, seed) for task, recipe in tasks for seed in range(5)]
    >>> results = train_probes(jobs)

Many probes train at once: those with the same problem and batch size are one computation on stacked weights. Gradients
are written out by hand: one matrix product computes a gradient and subtracts it in place, so no gradient is ever
stored. All random numbers of a probe come from its own seed, so it learns the same alone and beside any others.

Operations per training sample: 2·(2·D·H + 3·H² + 3·H·C), forward and backward, 2.6 MFLOP at D = H = 512. Nine LVU
tasks × 5 seeds by the paper's recipes are 17 million samples, 44 TFLOP. Memory traffic per step of a probe:
4·(3·D·H + 4·H²) bytes of weights, 7.3 MB. At batch 16 that is 6 FLOP a byte, which needs more bandwidth than a core
has. A CPU therefore trains only as many probes at a time as fit into its cache, with one thread per core; a GPU trains
all probes of a group.

Probes with the same batch size take steps together, each through epochs of its own. A probe leaves the group after its
last step, so nothing more is computed for it. Only the last batch of an epoch is padded, with samples of weight zero:
2 % of LVU's samples. Padding all probes to one batch size instead would compute eight times too much for half of them.

The paper does not name the initial weights (here as in `torch.nn.Linear`), nor the figure that decides on validation.

Shapes: P probes, B samples of a batch, S batches of an epoch, D numbers of an input, H hidden units, C classes, E
embeddings, W embeddings per input, N samples of a split, T training samples of all tasks.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from threading import Event

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from data_scripts.formats.labeled_scenes import Split
from m2s.commands import parse

from .tasks import Metric, ProbeError, ProbeResult, ProbeTask, default_metric

CACHE_BYTES = 2**23  # weights that a core trains at a time: its part of a usual last-level cache
BLOCK = 8192  # samples that are scored at a time, to limit memory
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True)
class ProbeRecipe:
    """How an MLP is trained; eval/configs has the paper's values for each task."""

    hidden_size: int = field(default=512, metadata={"help": "width of both hidden layers"})
    learning_rate: float = field(default=0.1, metadata={"help": "learning rate of SGD without momentum"})
    batch_size: int = field(default=64, metadata={"help": "number of scenes in a step"})
    epochs: int = field(default=400, metadata={"help": "passes over the training scenes"})
    dropout: float = field(default=0.25, metadata={"help": "share of hidden units left out, in both hidden layers"})
    standardize: bool = field(
        default=False,
        metadata={
            "help": "give inputs, and values to predict, mean 0 and variance 1 over the training scenes (the paper "
            "does not)"
        },
    )
    validate_every: int = field(default=1, metadata={"help": "epochs between two looks at the validation scenes"})

    def __post_init__(self) -> None:
        """Raises: ValueError: a number out of its range."""
        for name in ("hidden_size", "batch_size", "epochs", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")


def read_recipe(path: Path | str) -> ProbeRecipe:
    """Read a recipe from a YAML file.

    Raises:
        ValueError: it cannot be read or names an unknown field, or as `ProbeRecipe`.
    """
    return parse(ProbeRecipe, [str(path)])[0]


@dataclass(frozen=True)
class ProbeJob:
    """One probe to train: a task, a recipe, a seed of at least 0, and the figure that decides on validation."""

    task: ProbeTask
    recipe: ProbeRecipe
    seed: int = 0
    metric: Metric | None = None  # by default accuracy, mean average precision or −MSE


@dataclass(frozen=True)
class MLP:
    """A trained probe that takes raw embeddings; with `standardize`, the statistics are folded into its layers.

    Attributes:
        weights: weights of three layers, (D, H), (H, H) and (H, C), float32.
        biases: their biases, (H,), (H,) and (C,).
        dropout: dropout during training.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    dropout: float

    def logits(self, inputs_ND: np.ndarray) -> np.ndarray:
        """Logits (N, C), float32; for regression, values (N, 1)."""
        layers = tuple(
            (torch.from_numpy(weight), torch.from_numpy(bias))
            for weight, bias in zip(self.weights, self.biases, strict=True)
        )
        return _forward(torch.from_numpy(np.asarray(inputs_ND, np.float32)), layers).numpy()


def train_probes(
    jobs: Sequence[ProbeJob],
    device: torch.device | str = "cpu",
    probes_at_once: int | None = None,
    progress: bool = True,
) -> list[ProbeResult]:
    """Train all probes; each keeps the weights of its best epoch on validation, the first among ties.

    Args:
        probes_at_once: most probes in one computation; by default as many as a CPU's cache holds, on a GPU all.
        progress: show a progress bar in a terminal.

    Returns:
        A result for each job, in order; `chosen` is `{"epoch": …}`, counted from 1, and `mlp` the network. A probe that
        diverges keeps its best epoch before that; `chosen` then also has `diverged_after`, the first epoch after which
        its numbers were infinite.

    Raises:
        ProbeError: training diverged before any validation.
    """
    device = torch.device(device)
    chunks = _chunks(jobs, device, probes_at_once)
    results: dict[int, ProbeResult] = {}
    stop = Event()
    with tqdm(total=sum(map(_num_steps, jobs)), desc="probes", disable=None if progress else True) as bar:

        def train(chunk: list[int]) -> None:
            group = _Group([jobs[number] for number in chunk], device)
            results.update(zip(chunk, group.train(bar, stop), strict=True))

        if device.type == "cpu":
            _in_threads(train, chunks, stop)
        else:
            for chunk in chunks:
                train(chunk)
    return [results[number] for number in range(len(jobs))]


def _in_threads(train: Callable[[list[int]], None], chunks: list[list[int]], stop: Event) -> None:
    """Train one chunk per core. If the cores shared each small product, they would wait for each other at its end."""
    threads = torch.get_num_threads()
    if min(threads, len(chunks)) == 1:
        for chunk in chunks:
            train(chunk)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for future in as_completed([pool.submit(train, chunk) for chunk in chunks]):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _shape(job: ProbeJob) -> tuple:
    """Properties that all probes of one computation share."""
    return job.task.problem, _batch_size(job), job.recipe.hidden_size, job.task.width, job.task.rows.shape[1]


def _batch_size(job: ProbeJob) -> int:
    return min(job.recipe.batch_size, len(job.task.labels("train")))


def _steps_per_epoch(job: ProbeJob) -> int:
    return -(-len(job.task.labels("train")) // _batch_size(job))


def _num_steps(job: ProbeJob) -> int:
    return job.recipe.epochs * _steps_per_epoch(job)


def _chunks(jobs: Sequence[ProbeJob], device: torch.device, probes_at_once: int | None) -> list[list[int]]:
    """Job numbers of each computation, the jobs with the most steps first, and the longest computation first."""

    def key(number: int) -> tuple:
        return *map(str, _shape(jobs[number])), -_num_steps(jobs[number])

    chunks = []
    for _, same in groupby(sorted(range(len(jobs)), key=key), key=lambda number: _shape(jobs[number])):
        numbers = list(same)
        most = probes_at_once or _at_once(jobs[numbers[0]], device) or len(numbers)
        chunks += [part.tolist() for part in np.array_split(numbers, -(-len(numbers) // most))]
    return sorted(chunks, key=lambda chunk: -sum(_num_steps(jobs[each]) * _batch_size(jobs[each]) for each in chunk))


def _at_once(job: ProbeJob, device: torch.device) -> int | None:
    """Number of probes whose weights fit into a CPU's cache; None, no limit, on a GPU."""
    hidden = job.recipe.hidden_size
    return max(1, CACHE_BYTES // (4 * hidden * (job.task.width + hidden))) if device.type == "cpu" else None


class Draws:
    """The random numbers of one probe: three streams from its seed, so that dropout does not change the order."""

    def __init__(self, seed: int):
        weights, order, dropout = np.random.SeedSequence(seed).spawn(3)
        self._weights, self._order = np.random.default_rng(weights), np.random.default_rng(order)
        self._dropout = np.random.SFC64(dropout)  # NumPy's fastest generator

    def layer(self, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights (inputs, outputs) and biases, distributed as those of `torch.nn.Linear`."""
        bound = inputs**-0.5
        weights = self._weights.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
        return weights, self._weights.uniform(-bound, bound, outputs).astype(np.float32)

    def order(self, count: int) -> np.ndarray:
        return self._order.permutation(count)

    def dropout_bits(self, count: int) -> np.ndarray:
        """Uniform int16 numbers, see `dropout_threshold`; they cost a quarter of float32 ones."""
        return self._dropout.random_raw(-(-count // 4)).view(np.int16)[:count]


def dropout_threshold(dropout: float) -> int:
    """Units with bits of at least this value are kept: a share of 1 − dropout, to within 1e-5."""
    return min(round(dropout * 2**16), 2**16 - 1) - 2**15


class _Member:
    """The state of one probe in a group: its batches and its best epoch."""

    def __init__(self, job: ProbeJob, first_target: int, first_embedding: int):
        self.job, self.task, self.draws = job, job.task, Draws(job.seed)
        self.steps_per_epoch, self.num_steps = _steps_per_epoch(job), _num_steps(job)
        self.first_target, self.first_embedding = first_target, first_embedding
        self.metric = job.metric or default_metric(job.task.problem)
        self.best_metric, self.best_epoch = -np.inf, 0
        self.best_layers: Layers = ()
        self.best_scores = np.empty(0)
        self.diverged_after: int | None = None
        self.value_mean, self.value_deviation = _value_statistics(job)
        count = len(self.task.labels("train"))
        self.place_SB = np.arange(self.steps_per_epoch * _batch_size(job)).reshape(self.steps_per_epoch, -1)
        real_SB = self.place_SB < count
        # One factor on a sample's gradient holds the mean over the batch and the learning rate.
        self.weight_SB = (real_SB * self._scale() / real_SB.sum(1, keepdims=True)).astype(np.float32)
        self.training_rows_NW = self.rows("train")

    def _scale(self) -> float:
        """The learning rate times the ratio of the loss's derivative by a logit to (prediction − target)."""
        of_loss = {"regression": 2.0, "multi_label_classification": 1 / self.task.num_outputs}
        return self.job.recipe.learning_rate * of_loss.get(self.task.problem, 1.0)

    def rows(self, split: Split) -> np.ndarray:
        """Rows (N, W) in the group's table of the embeddings of a split's samples."""
        return self.task.rows[self.task.numbers[split]] + self.first_embedding

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embedding rows (B, W), target rows (B,) and weights (B,) of a step's samples."""
        position = step % self.steps_per_epoch
        if position == 0:
            count = len(self.training_rows_NW)
            self.sample_SB = np.resize(self.draws.order(count), self.place_SB.size).reshape(self.place_SB.shape)
        samples_B = self.sample_SB[position]
        return self.training_rows_NW[samples_B], samples_B + self.first_target, self.weight_SB[position]

    def is_due(self, step: int) -> bool:
        """Whether validation follows a step: at the end of a due epoch or of the last one, but not after divergence."""
        if self.diverged_after:
            return False
        epoch, rest = divmod(step + 1, self.steps_per_epoch)
        return not rest and (epoch % self.job.recipe.validate_every == 0 or step + 1 == self.num_steps)

    def see(self, step: int, scores: np.ndarray, layers: Layers) -> None:
        """Keep the weights if their validation scores are the best so far, and all numbers are finite."""
        epoch = (step + 1) // self.steps_per_epoch
        # The sigmoid of infinity is finite, so check the weights as well as the scores.
        parts = (part for layer in layers for part in layer)
        if not np.isfinite(scores).all() or not all(part.isfinite().all() for part in parts):
            if not self.best_epoch:
                raise ProbeError(
                    f"{self.task.labeled.task}, seed {self.job.seed}: the weights are infinite after epoch {epoch}; "
                    f"learning_rate={self.job.recipe.learning_rate} is too high for these embeddings: lower it, or "
                    "set standardize"
                )
            self.diverged_after = epoch
            return
        reached = self.metric(scores, self.task.labels("validation"))
        if not self.best_epoch or reached > self.best_metric:
            self.best_metric, self.best_epoch, self.best_scores = reached, epoch, scores
            self.best_layers = tuple((weight.clone(), bias.clone()) for weight, bias in layers)


class _Group:
    """Probes of one problem, batch size and width, trained as one computation."""

    def __init__(self, jobs: Sequence[ProbeJob], device: torch.device):
        self.device, self.problem = device, jobs[0].task.problem
        self.statistics = {id(job.task): _statistics(job.task) for job in jobs if job.recipe.standardize}
        self._gather_tables(jobs)
        hidden, width = jobs[0].recipe.hidden_size, jobs[0].task.width
        num_classes = max(job.task.num_outputs for job in jobs)
        sizes = (width, hidden, hidden, num_classes)
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = [
            (torch.zeros(len(jobs), inputs, outputs), torch.zeros(len(jobs), 1, outputs))
            for inputs, outputs in pairwise(sizes)
        ]
        for number, member in enumerate(self.members):
            for (weight, bias), inputs in zip(self._of(number, member.task.num_outputs), sizes, strict=False):
                weight[:], bias[:] = map(torch.from_numpy, member.draws.layer(inputs, weight.shape[1]))
            # Classes that only other tasks have get probability 0, and so no gradient.
            self.layers[-1][1][number, :, member.task.num_outputs :] = -torch.inf
        self.layers = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]
        dropout_P = [job.recipe.dropout for job in jobs]
        self.has_dropout = any(dropout_P)
        self.threshold_P111 = self._column([dropout_threshold(each) for each in dropout_P], torch.int16)[..., None]
        self.scale_P11 = self._column([1 / (1 - each) for each in dropout_P], torch.float32)

    def _column(self, values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)[:, None, None]

    def _gather_tables(self, jobs: Sequence[ProbeJob]) -> None:
        """Make one table of embeddings and one of training targets for all members; shared arrays are stored once."""
        num_classes = max(job.task.num_outputs for job in jobs)
        tables: dict[tuple, torch.Tensor] = {}
        targets: dict[tuple, torch.Tensor] = {}
        members = []
        for job in jobs:
            statistics = self.statistics.get(id(job.task)) if job.recipe.standardize else None
            key = id(job.task.embeddings_ED), statistics and id(job.task)
            if key not in tables:
                embeddings_ED = torch.from_numpy(job.task.embeddings_ED).float()
                if statistics:
                    mean_D, deviation_D = map(torch.from_numpy, statistics)
                    embeddings_ED = (embeddings_ED - mean_D) / deviation_D
                tables[key] = embeddings_ED
            targets.setdefault((id(job.task), job.recipe.standardize), _targets(job, num_classes))
            members.append((job, _first(targets, (id(job.task), job.recipe.standardize)), _first(tables, key)))
        self.members = [_Member(*member) for member in members]
        table_ED, *others = tables.values()
        self.table_ED = (torch.cat([table_ED, *others]) if others else table_ED).to(self.device)
        self.target_TC = torch.cat(list(targets.values())).to(self.device)

    def train(self, bar: tqdm, stop: Event) -> list[ProbeResult]:
        """Train the members, which must be sorted by decreasing number of steps, and return their results.

        Raises:
            CancelledError: `stop` was set.
        """
        active = len(self.members)
        for step in range(self.members[0].num_steps):
            if stop.is_set():
                raise CancelledError
            while self.members[active - 1].num_steps <= step:
                active -= 1
            self._step([member.batch(step) for member in self.members[:active]])
            for number, member in enumerate(self.members[:active]):
                if member.is_due(step):
                    layers = self._of(number, member.task.num_outputs)
                    member.see(step, self._scores(member, layers, "validation"), layers)
            bar.update(active)
        return [self._result(member) for member in self.members]

    def _step(self, batches: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """One step of SGD of the first `len(batches)` probes, each on its batch."""
        count = len(batches)
        rows_PBW, targets_PB, weight_PB = (
            torch.from_numpy(np.stack(each)).to(self.device) for each in zip(*batches, strict=True)
        )
        layers = [(weight[:count], bias[:count]) for weight, bias in self.layers]
        kept_P2BH = self._kept(batches)
        inputs = [self.table_ED.index_select(0, rows_PBW.flatten()).view(*targets_PB.shape, -1)]
        for number, (weight, bias) in enumerate(layers[:2]):
            hidden_PBH = torch.baddbmm(bias, inputs[-1], weight).relu_()
            if kept_P2BH is not None:
                hidden_PBH.mul_(kept_P2BH[:, number]).mul_(self.scale_P11[:count])
            inputs.append(hidden_PBH)
        predicted_PBC = _activated(torch.baddbmm(layers[2][1], inputs[2], layers[2][0]), self.problem)
        target_PBC = self.target_TC.index_select(0, targets_PB.flatten()).view_as(predicted_PBC)
        change = (predicted_PBC - target_PBC).mul_(weight_PB[..., None])
        for number in (2, 1, 0):
            weight, bias = layers[number]
            behind = torch.bmm(change, weight.mT) if number else None
            weight.baddbmm_(inputs[number].mT, change, alpha=-1)
            bias.sub_(change.sum(1, keepdim=True))
            if behind is not None:
                # A hidden unit is positive if ReLU passed it and dropout kept it.
                change = torch.ops.aten.threshold_backward(behind, inputs[number], 0)
                if kept_P2BH is not None:
                    change.mul_(self.scale_P11[:count])

    def _kept(self, batches: Sequence[tuple]) -> torch.Tensor | None:
        """Which hidden units dropout keeps, (P, 2, B, H)."""
        if not self.has_dropout:
            return None
        shape = 2, len(batches[0][1]), self.layers[1][0].shape[1]
        bits = np.stack([member.draws.dropout_bits(np.prod(shape)) for member in self.members[: len(batches)]])
        return torch.from_numpy(bits).to(self.device).view(-1, *shape) >= self.threshold_P111[: len(batches)]

    def _of(self, number: int, num_classes: int) -> Layers:
        """Views of one probe's layers, limited to its task's classes."""
        (w1, b1), (w2, b2), (w3, b3) = ((weight[number], bias[number, 0]) for weight, bias in self.layers)
        return (w1, b1), (w2, b2), (w3[:, :num_classes], b3[:num_classes])

    def _scores(self, member: _Member, layers: Layers, split: Split) -> np.ndarray:
        """Scores of a member's samples, as in `ProbeResult`."""
        logits = [
            _forward(self.table_ED[rows.to(self.device)].flatten(1), layers)
            for rows in torch.from_numpy(member.rows(split)).split(BLOCK)
        ]
        scores_NC = _activated(torch.cat(logits).double(), self.problem).cpu().numpy()
        if self.problem == "regression":
            return scores_NC[:, 0] * member.value_deviation + member.value_mean
        return scores_NC

    def _result(self, member: _Member) -> ProbeResult:
        weights, biases = (
            tuple(part.cpu().numpy() for part in parts) for parts in zip(*member.best_layers, strict=True)
        )
        if member.job.recipe.standardize:
            mean_D, deviation_D = (
                np.tile(each, member.task.rows.shape[1]) for each in self.statistics[id(member.task)]
            )
            first_DH = weights[0] / deviation_D[:, None].astype(np.float64)
            first_H = biases[0] - mean_D @ first_DH
            last_HC, last_C = (part.astype(np.float64) * member.value_deviation for part in (weights[2], biases[2]))
            weights = (first_DH.astype(np.float32), weights[1], last_HC.astype(np.float32))
            biases = (first_H.astype(np.float32), biases[1], (last_C + member.value_mean).astype(np.float32))
        diverged = {"diverged_after": member.diverged_after} if member.diverged_after else {}
        return ProbeResult(
            task=member.task.labeled.task,
            validation_scores=member.best_scores,
            test_scores=self._scores(member, member.best_layers, "test"),
            validation_metric=member.best_metric,
            chosen={"epoch": member.best_epoch, **diverged},
            mlp=MLP(weights, biases, member.job.recipe.dropout),
        )


def _first(tables: dict, key: object) -> int:
    """Index of a key's first row after joining the tables in order."""
    return sum(len(table) for table in list(tables.values())[: list(tables).index(key)])


def _statistics(task: ProbeTask) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of the training embeddings; the deviation is 1 if they do not vary."""
    read_ED = task.embeddings_ED[np.unique(task.rows[task.numbers["train"]])].astype(np.float64)
    deviation_D = read_ED.std(0)
    return read_ED.mean(0).astype(np.float32), np.where(deviation_D > 0, deviation_D, 1).astype(np.float32)


def _value_statistics(job: ProbeJob) -> tuple[float, float]:
    """Mean and standard deviation that standardize a probe's target values; 0 and 1 without standardization."""
    if job.task.problem != "regression" or not job.recipe.standardize:
        return 0.0, 1.0
    values = job.task.labels("train")
    return float(values.mean()), float(values.std())


def _targets(job: ProbeJob, num_classes: int) -> torch.Tensor:
    """Desired outputs (N, C) of the training samples."""
    task, labels = job.task, torch.from_numpy(job.task.labels("train"))
    if task.problem == "single_label_classification":
        return F.one_hot(labels.long(), num_classes).float()
    if task.problem == "regression":
        mean, deviation = _value_statistics(job)
        labels = (labels - mean) / deviation
    return F.pad(labels.float().view(len(labels), -1), (0, num_classes - task.num_outputs))


def _activated(logits: torch.Tensor, problem: str) -> torch.Tensor:
    """Probabilities from logits; for regression, the values unchanged."""
    if problem == "single_label_classification":
        return logits.softmax(-1)
    return logits.sigmoid() if problem == "multi_label_classification" else logits


def _forward(inputs_ND: torch.Tensor, layers: Layers) -> torch.Tensor:
    """Logits (N, C) without dropout."""
    (w1, b1), (w2, b2), (w3, b3) = layers
    hidden_NH = torch.addmm(b1, inputs_ND, w1).relu_()
    hidden_NH = torch.addmm(b2, hidden_NH, w2).relu_()
    return torch.addmm(b3, hidden_NH, w3)
