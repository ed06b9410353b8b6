"""Learn which films are similar, from the features of their shots (paper §3.1, supplement 1.1a).

    python -m train.train_mil train/configs/mil.yaml --features catalog/shot_features \\
        --similar catalog/similar_movies --sources co_watch --output runs/mil
    accelerate launch -m train.train_mil …                          several GPUs, the same pairs and windows

What it writes:

    runs/mil/
      model/            the network, for data_scripts.mine_scene_pairs and AutoModel.from_pretrained
      results.json      accuracy, AUC and average precision on held-out films, beside trivial baselines
      curves.png        loss and held-out scores over steps
      log.jsonl, recipe.json, checkpoints/

Ours, where the paper is silent: films are held out, not pairs, and a pair is measured on when both of its films are.
The weights of the lowest held-out loss are kept, and training ends when that has not fallen for `patience_steps`: it
first stays at 0.69, then falls, then rises. Gradients are cut to norm 1: the similarities of CLIP's features have so
large a part in common that plain SGD at 0.1 can diverge in its first steps. For the same reason small catalogs need
`--whiten true --optimizer adamw --learning_rate 0.001` (eval/film_world_pairs.py says how much that does). A film that
is in several pairs of a batch is encoded once, with one draw of dropout. Run again after a kill, the same command goes
on to the same weights.
"""

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from data_scripts.leak_guard import LeakGuardArguments
from data_scripts.ranks import ranks
from data_scripts.shot_features import ShotFeatures
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from modeling_m2s.figures_m2s import encode
from modeling_m2s.storage_m2s import StorageError, atomic_write, write_json
from train.arguments import parse_arguments
from train.curves import draw_curves
from train.film_pairs import FilmReader, LabeledPairs, SimilarFilms
from train.mil_scores import network_scores, trivial_scores
from train.runs import RunFolder, made_with
from train.whitening import unwhiten, whiten

# Arguments that say where things lie or how often something is written; the network does not depend on them.
NOT_OF_THE_RECIPE = ("features", "similar", "movies", "exclude", "output", "checkpoint_steps", "log_steps", "resident")
OF_THE_NETWORK = (
    *("hidden_dim", "activation", "dropout", "max_shots"),
    *("average_kernel", "average_stride", "max_kernel", "max_stride"),
)
# What seeds stand for: pairs of an epoch, windows of long films in a step, pairs to measure on, films to whiten by.
PAIRS, WINDOWS, MEASURED, WHITENED = range(4)
OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


@dataclass(kw_only=True)
class MILArguments(LeakGuardArguments):
    """Everything a run depends on."""

    features: Path = field(metadata={"help": "shot_features dataset"})
    similar: Path = field(metadata={"help": "similar_movies dataset"})
    output: Path = field(metadata={"help": "folder of the run; the network is in its subfolder model/"})
    sources: list[str] = field(default_factory=list, metadata={"help": "co_watch, genre, … (default: all there are)"})
    allow_missing: bool = field(default=False, metadata={"help": "leave out similar films without features"})
    held_out: float = field(
        default=0.1, metadata={"help": "share of the films to measure on; 0: measure nothing, train all epochs"}
    )
    negatives: int = field(default=1, metadata={"help": "dissimilar pairs for every similar one"})
    long_films: str = field(
        default="window", metadata={"help": "window or uniform: which shots of films that are too long"}
    )
    seed: int = field(default=0, metadata={"help": "of films held out, initial weights, pairs and dropout"})

    hidden_dim: int = field(default=512, metadata={"help": "width of E_learnable"})
    activation: str = field(default="relu", metadata={"help": "between its two layers, or none"})
    dropout: float = field(default=0.5, metadata={"help": "after the activation"})
    max_shots: int = field(default=1024, metadata={"help": "shots that are read of a film"})
    average_kernel: int = field(default=16, metadata={"help": "shots of a scene"})
    average_stride: int = field(default=8, metadata={"help": "shots from one scene to the next"})
    max_kernel: int = field(default=16, metadata={"help": "scenes of a neighborhood, of which the best match counts"})
    max_stride: int = field(default=8, metadata={"help": "scenes from one neighborhood to the next"})

    epochs: int = field(default=20, metadata={"help": "passes over all similar pairs"})
    batch_size: int = field(default=256, metadata={"help": "pairs a step, over all processes"})
    optimizer: str = field(
        default="sgd", metadata={"help": "sgd without momentum, the paper's; or adamw", "choices": tuple(OPTIMIZERS)}
    )
    learning_rate: float = field(default=0.1, metadata={"help": "constant"})
    whiten: bool = field(default=False, metadata={"help": "train as if features were whitened; for small catalogs"})
    max_gradient_norm: float = field(
        default=1.0, metadata={"help": "longer gradients are cut to it; 0: never, the paper's plain SGD"}
    )
    patience_steps: int = field(
        default=1000, metadata={"help": "end after so many steps without a lower held-out loss; 0: never"}
    )
    measure_steps: int = field(default=50, metadata={"help": "steps from one measurement to the next"})
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16, weights in float32"})
    resident: bool = field(default=False, metadata={"help": "hold all features in the device's memory"})
    checkpoint_steps: int = field(default=200, metadata={"help": "steps from one checkpoint to the next"})
    log_steps: int = field(default=10, metadata={"help": "steps from one line of the log to the next"})


@dataclass
class Material:
    """All films; those to train on and those held out, each with the pairs among them and a reader of their shots."""

    films: SimilarFilms
    trained: SimilarFilms
    held_out: SimilarFilms
    measured: LabeledPairs | None
    trained_reader: FilmReader
    held_out_reader: FilmReader


class PairLoss(nn.Module):
    """The network on a batch of pairs, each film encoded once, however many pairs it is in."""

    def __init__(self, model: M2SMovieSimilarityModel):
        super().__init__()
        self.model = model

    def forward(self, features_FTD: torch.Tensor, films_P2: torch.Tensor, labels_P: torch.Tensor) -> torch.Tensor:
        windows_FWH = self.model.encode_films(features_FTD)
        logits = self.model.compare(windows_FWH[films_P2[:, 0]], windows_FWH[films_P2[:, 1]]).logits
        return F.cross_entropy(logits.float(), labels_P)


class BestWeights:
    """The weights of the best measurement, saved with every checkpoint."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def keep(self, model: nn.Module) -> None:
        self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(MILArguments, "python -m train.train_mil", argv)
    try:
        with ranks() as state:
            results = train_mil(arguments)
            if state.is_main_process:
                print_summary(results, arguments)
    except (ValueError, OSError, StorageError, StrictDataclassError) as error:
        raise SystemExit(f"train.train_mil: error: {' '.join(str(error).split())}") from None


def train_mil(arguments: MILArguments) -> dict[str, Any]:
    """The whole run: train, keep the best network as `OUTPUT/model` and what was done as `OUTPUT/results.json`.

    Raises:
        ValueError: settings that make no run; no pairs to train or to measure on; a loss that is no number.
        StorageError: inputs that cannot be used; the output folder holds a run of another recipe, or is in use.
    """
    check_arguments(arguments)
    accelerator = Accelerator(mixed_precision="bf16" if arguments.bf16 else "no")
    with accelerator.main_process_first():
        features = ShotFeatures(arguments.features)
    guard = arguments.leak_guard()
    films = SimilarFilms.read(arguments.similar, features, arguments.sources, guard, arguments.allow_missing)
    material = split_films(films, features, arguments, accelerator.device)
    set_seed(arguments.seed)
    sizes = {name: getattr(arguments, name) for name in OF_THE_NETWORK}
    config = M2SMovieSimilarityConfig(feature_dim=features.dim, features=features.record["settings"], **sizes)
    model = M2SMovieSimilarityModel(config)
    set_seed(arguments.seed, device_specific=True)
    recipe = recipe_of(arguments, features, films)
    run = RunFolder(arguments.output, recipe, accelerator)
    with run.held():
        state = train(model, material, arguments, run)
        if accelerator.is_main_process:
            results = {
                "recipe": recipe,
                "counts": count(material),
                "leak_guard": guard.record(),
                "steps": state["step"],
                "best_step": state["best_step"],
                "training_minutes": round(state["seconds"] / 60, 2),
                **measure_at_last(model, features, material, arguments),
                "held_out_films": material.held_out.movie_ids,
                "made_with": made_with(accelerator),
            }
            model.save_pretrained(arguments.output / "model")
            draw_run(run, state["best_step"])
            write_json(arguments.output / "results.json", results)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results if accelerator.is_main_process else {}


def check_arguments(arguments: MILArguments) -> None:
    for name, value in asdict(arguments).items():
        if type(value) is int and name not in ("seed", "patience_steps") and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= arguments.held_out < 1:
        raise ValueError(f"held_out is {arguments.held_out}; it must be a share of the films, below 1")
    if arguments.whiten and arguments.bf16:
        raise ValueError(
            "whiten and bf16: the short directions of features are lost in bfloat16; leave one of them out"
        )


def split_films(films: SimilarFilms, features: ShotFeatures, arguments: MILArguments, device: torch.device) -> Material:
    """Hold out films and draw the pairs of them to measure on.

    Raises:
        ValueError: no pairs on one of the sides, or no films that are not similar.
    """
    trained, held_out = films.split(arguments.held_out, arguments.seed)
    if not len(trained.pairs):
        raise ValueError(
            f"none of the {len(films.pairs)} pairs of similar films lies within the {len(trained.movie_ids)} films to "
            f"train on: hold out fewer than held_out={arguments.held_out}"
        )
    if arguments.held_out and not len(held_out.pairs):
        raise ValueError(
            f"none of the {len(films.pairs)} pairs of similar films lies within the {len(held_out.movie_ids)} "
            f"held-out films: hold out more than held_out={arguments.held_out}, or 0 to measure nothing"
        )
    trained.draw(np.random.default_rng(0), arguments.negatives)  # raises now what it would raise later
    measured = None
    if arguments.held_out:
        measured = held_out.draw(np.random.default_rng([arguments.seed, MEASURED]), arguments.negatives)
    read = (features, arguments.max_shots, arguments.long_films, device, arguments.resident)
    readers = [FilmReader(each.movie_ids, *read) for each in (trained, held_out)]
    return Material(films, trained, held_out, measured, *readers)


def recipe_of(arguments: MILArguments, features: ShotFeatures, films: SimilarFilms) -> dict[str, Any]:
    """What the network depends on: not where data lie, but which they are."""
    kept = {name: value for name, value in asdict(arguments).items() if name not in NOT_OF_THE_RECIPE}
    content = json.dumps([films.movie_ids, films.pairs.tolist(), features.num_shots.tolist()])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {**kept, "features": features.record["settings"], "films_and_pairs": digest}


def count(material: Material) -> dict[str, Any]:
    """Films and similar pairs on both sides, and what is on neither."""
    trained, held_out = material.trained, material.held_out
    return {
        **material.films.counts,
        "trained_films": len(trained.movie_ids),
        "trained_pairs": len(trained.pairs),
        "held_out_films": len(held_out.movie_ids),
        "held_out_pairs": len(held_out.pairs),
        "pairs_across": len(material.films.pairs) - len(trained.pairs) - len(held_out.pairs),
    }


def train(
    model: M2SMovieSimilarityModel, material: Material, arguments: MILArguments, run: RunFolder
) -> dict[str, Any]:
    """All steps, from the latest checkpoint on; the model ends with the best weights.

    Returns:
        The last state: `step`, `best_step`, `best_loss`, `seconds` of training.
    """
    accelerator = run.accelerator
    if arguments.whiten:
        whiten(model.shot_projection, material.trained_reader, [arguments.seed, WHITENED])
    optimizer = OPTIMIZERS[arguments.optimizer](model.parameters(), lr=arguments.learning_rate)
    prepared, optimizer = accelerator.prepare(PairLoss(model), optimizer)
    best = BestWeights()
    accelerator.register_for_checkpointing(best)
    batch_size, steps_per_epoch = plan_steps(len(material.trained.pairs), arguments, accelerator.num_processes)
    num_steps = arguments.epochs * steps_per_epoch
    state = {"seconds": 0.0, "best_step": 0, "best_loss": None, **run.restore()}
    bar = tqdm(total=num_steps, initial=state["step"], desc="training", disable=None if run.is_main else True)
    epoch_pairs: LabeledPairs | None = None
    while not is_over(state, num_steps, material, arguments):
        started = time.monotonic()
        epoch, place = divmod(state["step"], steps_per_epoch)
        if epoch_pairs is None or not place:
            random = np.random.default_rng([arguments.seed, PAIRS, epoch])
            epoch_pairs = material.trained.draw(random, arguments.negatives)
        batch = epoch_pairs.part(place * batch_size, (place + 1) * batch_size)
        windows = np.random.default_rng([arguments.seed, WINDOWS, state["step"]])
        loss = step_loss(prepared, material.trained_reader, batch, windows, accelerator)
        accelerator.backward(loss)
        if arguments.max_gradient_norm:
            accelerator.clip_grad_norm_(prepared.parameters(), arguments.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] += 1
        state["seconds"] += time.monotonic() - started
        bar.update()
        if state["step"] % arguments.log_steps == 0:
            log_loss(loss, state["step"], arguments, run)
        if material.measured and (state["step"] % arguments.measure_steps == 0 or state["step"] == num_steps):
            keep_best(best, model, material, state, run)
        if state["step"] % arguments.checkpoint_steps == 0 or is_over(state, num_steps, material, arguments):
            run.save(**state)
    bar.close()
    if material.measured:
        model.load_state_dict(best.weights)
    if arguments.whiten:
        unwhiten(model.shot_projection)
    return state


def is_over(state: dict[str, Any], num_steps: int, material: Material, arguments: MILArguments) -> bool:
    """After the last step, or when the held-out loss has not fallen for long."""
    has_waited = state["step"] - state["best_step"] >= arguments.patience_steps > 0
    return state["step"] >= num_steps or (material.measured is not None and has_waited)


def plan_steps(num_positives: int, arguments: MILArguments, num_processes: int) -> tuple[int, int]:
    """Pairs a step, and steps an epoch: few pairs make one smaller batch, of many the rest of an epoch is left out."""
    if arguments.batch_size % num_processes:
        raise ValueError(f"batch_size {arguments.batch_size} is not a multiple of the {num_processes} processes")
    num_pairs = num_positives * (1 + arguments.negatives)
    batch_size = min(arguments.batch_size, num_pairs) // num_processes * num_processes
    if not batch_size:
        raise ValueError(f"{num_pairs} pairs of films to train on are too few for {num_processes} processes")
    return batch_size, num_pairs // batch_size


def step_loss(
    model: nn.Module, reader: FilmReader, batch: LabeledPairs, random: np.random.Generator, accelerator: Accelerator
) -> torch.Tensor:
    """The loss of this process's share of a batch: neighbors, since a pair and its negatives have a film in common."""
    size = len(batch.labels) // accelerator.num_processes
    share = batch.part(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    films, numbers = np.unique(share.films, return_inverse=True)
    films_P2 = torch.from_numpy(numbers.reshape(-1, 2)).to(accelerator.device)
    return model(reader.read(films, random), films_P2, torch.from_numpy(share.labels).to(accelerator.device))


def log_loss(loss: torch.Tensor, step: int, arguments: MILArguments, run: RunFolder) -> None:
    """Log the loss over all processes.

    Raises:
        ValueError: it is no number.
    """
    value = run.accelerator.reduce(loss.detach(), reduction="mean").item()
    if not math.isfinite(value):
        raise ValueError(
            f"the loss of step {step} is {value}: training diverged; use a learning_rate below "
            f"{arguments.learning_rate:g}, and another folder"
        )
    run.log(step, loss=round(value, 6))


def keep_best(
    best: BestWeights, model: M2SMovieSimilarityModel, material: Material, state: dict[str, Any], run: RunFolder
) -> None:
    """Measure; keep the weights if the held-out loss is lower than ever. One process decides, for all to agree."""
    found: list[Any] = [None]
    if run.is_main:
        found = [network_scores(model, material.held_out_reader, material.measured)]
        run.log(state["step"], **{f"held_out_{name}": value for name, value in found[0].items()})
    broadcast_object_list(found)
    if state["best_loss"] is None or found[0]["loss"] < state["best_loss"]:
        state["best_loss"], state["best_step"] = found[0]["loss"], state["step"]
        best.keep(model)


def measure_at_last(
    model: M2SMovieSimilarityModel, features: ShotFeatures, material: Material, arguments: MILArguments
) -> dict[str, Any]:
    """Scores on held-out films, of the network and of what needs none."""
    if material.measured is None:
        return {"held_out": None, "baselines": None}
    random = np.random.default_rng([arguments.seed, PAIRS, 0])
    trained = (material.trained.movie_ids, material.trained.draw(random, arguments.negatives))
    return {
        "held_out": network_scores(model, material.held_out_reader, material.measured),
        "baselines": trivial_scores(features, trained, (material.held_out.movie_ids, material.measured)),
    }


def draw_run(run: RunFolder, best_step: int) -> None:
    log = run.read_log()

    def curve(name: str) -> list[tuple[int, float]]:
        return [(line["step"], line[name]) for line in log if name in line]

    panels = {
        "cross-entropy": {"training": curve("loss"), "held-out films": curve("held_out_loss")},
        "held-out films": {name: curve(f"held_out_{name}") for name in ("auc", "average_precision", "accuracy")},
    }
    with atomic_write(run.folder / "curves.png") as file:
        file.write(encode(draw_curves(panels, best_step or None), "PNG"))


def print_summary(results: dict[str, Any], arguments: MILArguments) -> None:
    counts = results["counts"]
    print(
        f"{arguments.output}/model: {results['steps']} steps on {counts['trained_pairs']} pairs of similar films; "
        f"{counts['pairs_across']} pairs with one film held out, {counts['films_excluded']} films excluded, "
        f"{counts['films_without_features']} without features"
    )
    if results["held_out"]:
        print(f"step {results['best_step']} on pairs of {counts['held_out_films']} held-out films:")
        for name, found in {"network": results["held_out"], **results["baselines"]}.items():
            values = (f"{key} {found[key]:.3f}" for key in ("accuracy", "auc", "average_precision") if key in found)
            print(f"  {name:<24}{'  '.join(values)}")
    print(
        f"next: python -m data_scripts.mine_scene_pairs --features {arguments.features} --similar {arguments.similar} "
        f"--model {arguments.output}/model --output SCENE_PAIRS"
    )


if __name__ == "__main__":
    main()
