"""Nine LVU probes × 5 seeds, trained together and one after the other.

    OMP_NUM_THREADS=2 python -m benchmarks.probes       minutes; with 2 threads, only on a quiet machine

The tasks have LVU's sizes and classes, random embeddings of 512 numbers with a weak trace of the label, and the paper's
recipes with 2 epochs in place of 400 or 500. "One after the other" is the obvious loop: `nn.Sequential`, autograd,
`torch.optim.SGD`, batches by index, validation after each epoch, the best weights kept. Before anything is timed, both
train each task without dropout from the same weights in the same order, and their test logits are asserted equal.

Counted beforehand, for one core of 95 GFLOP/s: five matrix products per step and layer of 512×512. At batch 16, which
half of the probes use, that is 42 MFLOP or 0.44 ms. Each step of the loop also calls some fifty small operations,
allocates and stores 2.1 MB of gradients, and reads them again: 0.3 to 0.7 ms. One core can thus gain two to three times
at batch 16 and less at larger batches. A gain of five times is possible only if the loop also loses time to threads or
to a GPU's launches.
"""

import copy
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import alternate, write_result
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes
from eval.probes import ProbeJob, ProbeTask, default_metric, read_recipe, train_probes
from eval.probes.mlp import Draws
from m2s.commands import run_command

CONFIGS = Path(__file__).parent.parent / "eval/configs"
# Numbers of training, validation and test scenes, and of classes (0: regression).
LVU = {
    "scene": (557, 120, 86, 6),
    "director": (680, 163, 107, 10),
    "relationship": (149, 53, 42, 4),
    "way_speaking": (939, 205, 201, 5),
    "writer": (769, 174, 168, 10),
    "year": (770, 165, 143, 9),
    "genre": (3063, 597, 647, 4),
    "view_count": (577, 124, 126, 0),
    "like_ratio": (658, 142, 140, 0),
}
TOGETHER, ONE_BY_ONE = "together", "one after the other"


def task_of(name: str, width: int = 512) -> ProbeTask:
    """A task of LVU's size with random embeddings; the label shifts one number of each."""
    *sizes, classes = LVU[name]
    random = np.random.default_rng(len(name))
    splits = np.repeat(["train", "validation", "test"], sizes).tolist()
    scenes = tuple(LabeledScene(f"{n}", f"{n}", f"{n}", split) for n, split in enumerate(splits))
    embeddings = random.normal(size=(len(scenes), width)).astype(np.float32)
    if not classes:
        labels = random.normal(size=len(scenes))
        embeddings[:, 0] += labels
        return ProbeTask(LabeledScenes(name, "regression", scenes, labels), embeddings)
    labels = random.integers(classes, size=len(scenes))
    embeddings[:, :classes] += 2 * np.eye(classes)[labels]
    names = tuple(map(str, range(classes)))
    return ProbeTask(LabeledScenes(name, "single_label_classification", scenes, labels, names), embeddings)


def jobs_of(seeds: int, epochs: int, **changed: float) -> list[ProbeJob]:
    recipes = {name: replace(read_recipe(CONFIGS / f"lvu_{name}.yaml"), epochs=epochs, **changed) for name in LVU}
    return [ProbeJob(task, recipes[name], seed) for name in LVU for task in [task_of(name)] for seed in range(seeds)]


def train_alone(job: ProbeJob) -> np.ndarray:
    """Train by the obvious loop; returns the logits of the test scenes with the weights of the best epoch."""
    task, recipe, draws = job.task, job.recipe, Draws(job.seed)
    regression = task.problem == "regression"
    dtype = torch.float32 if regression else torch.int64
    (train, labels), (validation, _), (test, _) = (
        (torch.from_numpy(task.inputs(split)), torch.from_numpy(task.labels(split)).to(dtype))
        for split in ("train", "validation", "test")
    )
    model = network(task.width, recipe.hidden_size, task.num_outputs, recipe.dropout, draws)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate)
    metric, best_metric, best = default_metric(task.problem), -np.inf, model.state_dict()
    for _ in range(recipe.epochs):
        order = torch.from_numpy(draws.order(len(train)))
        model.train()
        for batch in order.split(recipe.batch_size):
            optimizer.zero_grad()
            logits = model(train[batch])
            loss = F.mse_loss(logits[:, 0], labels[batch]) if regression else F.cross_entropy(logits, labels[batch])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            scores = model(validation).numpy()
        reached = metric(scores[:, 0] if regression else scores, task.labels("validation"))
        if reached > best_metric:
            best_metric, best = reached, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    with torch.no_grad():
        return model(test).numpy()


def network(width: int, hidden: int, outputs: int, dropout: float, draws: Draws) -> nn.Sequential:
    """The layers of `M2SSceneForClassification.classifier`, with the weights that this probe begins with."""
    model = nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )
    with torch.no_grad():
        for layer in (model[0], model[3], model[6]):
            weights, biases = draws.layer(layer.in_features, layer.out_features)
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(biases))
    return model


def assert_same() -> None:
    """Assert that both ways learn the same without dropout.

    The learning rate is 0.01: at like_ratio's own rate of 0.1, rounding errors grow to 0.02 in two epochs.
    """
    jobs = jobs_of(seeds=1, epochs=2, dropout=0.0, learning_rate=0.01)
    for job, result in zip(jobs, train_probes(jobs, progress=False), strict=True):
        assert result.mlp is not None
        np.testing.assert_allclose(
            result.mlp.logits(job.task.inputs("test")), train_alone(job), rtol=1e-4, atol=1e-5, err_msg=result.task
        )


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    epochs: int = field(default=2, metadata={"help": "number of epochs to train"})
    runs: int = field(default=3, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.probes", Options, run, argv)


def run(options: Options) -> None:
    assert_same()
    jobs = jobs_of(seeds=5, epochs=options.epochs)
    times = alternate(
        {
            TOGETHER: partial(train_probes, jobs, progress=False),
            ONE_BY_ONE: lambda: [train_alone(job) for job in jobs],
        },
        options.runs,
    )
    threads = torch.get_num_threads()
    # Work is proportional to scenes × epochs; each recipe has its own number of epochs.
    per_epoch = sum(len(job.task.labels("train")) for job in jobs) * options.epochs
    paper = sum(
        len(job.task.labels("train")) * read_recipe(CONFIGS / f"lvu_{job.task.labeled.task}.yaml").epochs
        for job in jobs
    )
    content = {
        "threads": threads,
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "probes": len(jobs),
        "epochs": options.epochs,
        **times,
        "times_as_fast": round(times[ONE_BY_ONE]["wall_seconds"] / times[TOGETHER]["wall_seconds"], 2),
        "times_as_fast_in_processor_time": round(times[ONE_BY_ONE]["cpu_seconds"] / times[TOGETHER]["cpu_seconds"], 2),
        "paper_recipe_cpu_minutes": round(times[TOGETHER]["cpu_seconds"] * paper / per_epoch / 60, 1),
    }
    write_result(f"probes-{threads}threads", "float32", content)


if __name__ == "__main__":
    main()
