"""The training loop of movie similarity: steps, measurements on held-out films, early stopping."""

import math
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from modeling_m2s import M2SMovieSimilarityModel
from train.arguments import RunArguments
from train.mil.pairs import PAIRS, WHITENED, WINDOWS, FilmReader, LabeledPairs, Material
from train.mil.recipe import MILRecipe
from train.mil.scores import network_scores
from train.mil.whitening import unwhiten, whiten
from train.runs import BestWeights, RunFolder

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


class PairLoss(nn.Module):
    """The loss of a batch of pairs; each film is encoded once, even if it is in several pairs."""

    def __init__(self, model: M2SMovieSimilarityModel):
        super().__init__()
        self.model = model

    def forward(self, features_FTD: torch.Tensor, films_P2: torch.Tensor, labels_P: torch.Tensor) -> torch.Tensor:
        windows_FWH = self.model.encode_films(features_FTD)
        logits = self.model.compare(windows_FWH[films_P2[:, 0]], windows_FWH[films_P2[:, 1]]).logits
        return F.cross_entropy(logits.float(), labels_P)


def train(
    model: M2SMovieSimilarityModel, material: Material, recipe: MILRecipe, run: RunFolder, arguments: RunArguments
) -> dict[str, Any]:
    """Train all steps, from the latest checkpoint on; the model ends with the best weights.

    Returns:
        The last state: `step`, `best_step`, `best_loss`, `seconds` of training.

    Raises:
        ValueError: the loss, a weight or an output of the network is not finite; processes cannot share a batch.
    """
    accelerator = run.accelerator
    if recipe.whiten:
        whiten(model.shot_projection, material.trained_reader, [recipe.seed, WHITENED])
    optimizer = OPTIMIZERS[recipe.optimizer](model.parameters(), lr=recipe.learning_rate)
    prepared, optimizer = accelerator.prepare(PairLoss(model), optimizer)
    best = BestWeights()
    accelerator.register_for_checkpointing(best)
    batch_size, steps_per_epoch = plan_steps(len(material.trained.pairs), recipe, accelerator.num_processes)
    num_steps = recipe.epochs * steps_per_epoch
    state = {"seconds": 0.0, "best_step": 0, "best_loss": None, **run.restore()}
    bar = tqdm(total=num_steps, initial=state["step"], desc="training", disable=None if run.is_main else True)
    epoch_pairs: LabeledPairs | None = None
    while not is_over(state, num_steps, material, recipe):
        started = time.monotonic()
        epoch, place = divmod(state["step"], steps_per_epoch)
        if epoch_pairs is None or not place:
            random = np.random.default_rng([recipe.seed, PAIRS, epoch])
            epoch_pairs = material.trained.draw(random, recipe.negatives)
        batch = epoch_pairs.part(place * batch_size, (place + 1) * batch_size)
        windows = np.random.default_rng([recipe.seed, WINDOWS, state["step"]])
        loss = step_loss(prepared, material.trained_reader, batch, windows, accelerator)
        accelerator.backward(loss)
        if recipe.max_gradient_norm:
            accelerator.clip_grad_norm_(prepared.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] += 1
        state["seconds"] += time.monotonic() - started
        bar.update()
        if state["step"] % arguments.log_steps == 0:
            log_loss(loss, state["step"], recipe, run)
        if material.measured and (state["step"] % recipe.measure_steps == 0 or state["step"] == num_steps):
            keep_best(best, model, material, state, run)
        if state["step"] % arguments.checkpoint_steps == 0 or is_over(state, num_steps, material, recipe):
            run.save(**state)
    bar.close()
    if material.measured:
        model.load_state_dict(best.weights)
    if recipe.whiten:
        unwhiten(model.shot_projection)
    return state


def is_over(state: dict[str, Any], num_steps: int, material: Material, recipe: MILRecipe) -> bool:
    """Whether all steps are done, or the held-out loss has not fallen for `patience_steps`."""
    is_measured = material.measured is not None and state["best_loss"] is not None
    has_waited = state["step"] - state["best_step"] >= recipe.patience_steps > 0
    return state["step"] >= num_steps or (is_measured and has_waited)


def plan_steps(num_positives: int, recipe: MILRecipe, num_processes: int) -> tuple[int, int]:
    """Pairs per step, and steps per epoch.

    If there are fewer pairs than a batch, the batch is smaller. Otherwise, pairs at the end of an epoch that fill no
    batch are left out.
    """
    if recipe.batch_size % num_processes:
        raise ValueError(f"batch_size {recipe.batch_size} is not a multiple of the {num_processes} processes")
    num_pairs = num_positives * (1 + recipe.negatives)
    batch_size = min(recipe.batch_size, num_pairs) // num_processes * num_processes
    if not batch_size:
        raise ValueError(f"{num_pairs} pairs of films to train on are too few for {num_processes} processes")
    return batch_size, num_pairs // batch_size


def step_loss(
    model: nn.Module, reader: FilmReader, batch: LabeledPairs, random: np.random.Generator, accelerator: Accelerator
) -> torch.Tensor:
    """The loss of this process's share of a batch.

    A share is consecutive pairs, because a pair and its negatives have a film in common, which is then encoded once.
    """
    size = len(batch.labels) // accelerator.num_processes
    share = batch.part(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    films, numbers = np.unique(share.films, return_inverse=True)
    films_P2 = torch.from_numpy(numbers.reshape(-1, 2)).to(accelerator.device)
    return model(reader.read(films, random), films_P2, torch.from_numpy(share.labels).to(accelerator.device))


def log_loss(loss: torch.Tensor, step: int, recipe: MILRecipe, run: RunFolder) -> None:
    """Log the mean loss over all processes.

    Raises:
        ValueError: the loss is not finite.
    """
    value = run.accelerator.reduce(loss.detach(), reduction="mean").item()
    if not math.isfinite(value):
        raise ValueError(
            f"the loss of step {step} is {value}: training diverged; use a learning_rate below "
            f"{recipe.learning_rate:g}, and another folder"
        )
    run.log(step, loss=round(value, 6))


def keep_best(
    best: BestWeights, model: M2SMovieSimilarityModel, material: Material, state: dict[str, Any], run: RunFolder
) -> None:
    """Measure, and keep the weights if the held-out loss is the lowest so far. One process decides, so all agree."""
    found: list[Any] = [None]
    if run.is_main:
        found = [network_scores(model, material.held_out_reader, material.measured)]
        run.log(state["step"], **{f"held_out_{name}": value for name, value in found[0].items()})
    broadcast_object_list(found)
    if state["best_loss"] is None or found[0]["loss"] < state["best_loss"]:
        state["best_loss"], state["best_step"] = found[0]["loss"], state["step"]
        best.keep(model)
