"""Learn which films are similar, from the features of their shots (paper §3.1, supplement 1.1a).

    python -m train.train_mil train/configs/mil.yaml --features catalog/shot_features \\
        --similar catalog/similar_movies --sources co_watch --output runs/mil
    accelerate launch -m train.train_mil …                          several GPUs, the same run

What it writes:

    runs/mil/
      model/            the network, for data_scripts.mine_scene_pairs and AutoModel.from_pretrained
      results.json      accuracy, AUC and average precision on held-out films, beside trivial baselines
      curves.png        loss and held-out AUC over steps
      log.jsonl, recipe.json, checkpoints/

Films are held out, not pairs: a pair is measured on when both of its films are. The weights of the best held-out AUC
are kept, and training ends when that has not risen for `patience_steps`: the paper's plain SGD first stays at a loss
of 0.69, then learns, then overfits. (The paper trains 20 epochs and does not say that it measures.) Run again after a
kill, the same command goes on where it was and ends in the same weights.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from huggingface_hub.errors import StrictDataclassError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from data_scripts.leak_guard import LeakGuard
from data_scripts.ranks import ranks
from data_scripts.shot_features import ShotFeatures, has_keyframe
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from modeling_m2s.figures_m2s import encode
from modeling_m2s.storage_m2s import StorageError, atomic_write, write_json
from train.arguments import parse_arguments
from train.curves import draw_curves
from train.film_pairs import FilmReader, SimilarFilms
from train.runs import RunFolder, made_with

# Arguments that say where things lie or how often something is written; the network does not depend on them.
NOT_OF_THE_RECIPE = ("features", "similar", "movies", "exclude", "output", "checkpoint_steps", "log_steps", "resident")
OF_THE_NETWORK = (
    *("hidden_dim", "activation", "dropout", "max_shots"),
    *("average_kernel", "average_stride", "max_kernel", "max_stride"),
)
# What seeds stand for: pairs of an epoch, windows of long films in a step, pairs to measure on.
PAIRS, WINDOWS, MEASURED = range(3)
MEASURED_AT_ONCE = 32


@dataclass
class MILArguments:
    """Everything a run depends on."""

    features: Path = field(metadata={"help": "shot_features dataset"})
    similar: Path = field(metadata={"help": "similar_movies dataset"})
    output: Path = field(metadata={"help": "folder of the run; the network is in its subfolder model/"})
    sources: list[str] = field(default_factory=list, metadata={"help": "co_watch, genre, … (default: all there are)"})
    exclude: list[Path] = field(
        default_factory=list, metadata={"help": "benchmarks' lists of films never to train on, or files of IMDb ids"}
    )
    movies: Path | None = field(
        default=None, metadata={"help": "movies dataset: titles, to find excluded films without IMDb id by"}
    )
    require_imdb_id: bool = field(default=False, metadata={"help": "leave out all films without IMDb id"})
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
    learning_rate: float = field(default=0.1, metadata={"help": "of SGD without momentum, constant"})
    patience_steps: int = field(default=1000, metadata={"help": "steps without a better held-out AUC; 0: never stop"})
    measure_steps: int = field(default=50, metadata={"help": "steps from one measurement to the next"})
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16, weights in float32"})
    resident: bool = field(default=False, metadata={"help": "hold all features in the device's memory"})
    checkpoint_steps: int = field(default=200, metadata={"help": "steps from one checkpoint to the next"})
    log_steps: int = field(default=10, metadata={"help": "steps from one line of the log to the next"})


class PairLoss(nn.Module):
    """The network on a batch of pairs, each film encoded once, however many pairs it is in."""

    def __init__(self, model: M2SMovieSimilarityModel):
        super().__init__()
        self.model = model

    def forward(self, features_FTD: torch.Tensor, pairs_P2: torch.Tensor, labels_P: torch.Tensor) -> torch.Tensor:
        windows_FWH = self.model.encode_films(features_FTD)
        logits = self.model.compare(windows_FWH[pairs_P2[:, 0]], windows_FWH[pairs_P2[:, 1]]).logits
        return F.cross_entropy(logits.float(), labels_P)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(MILArguments, "python -m train.train_mil", argv)
    try:
        with ranks():
            results = train_mil(arguments)
    except (ValueError, OSError, StorageError, StrictDataclassError) as error:
        raise SystemExit(f"train.train_mil: error: {' '.join(str(error).split())}") from None
    if int(os.environ.get("RANK", 0)) == 0:
        found, trivial = results["held_out"], results["baselines"]
        print(
            f"{arguments.output}/model, from step {results['best_step']} of {results['steps']}\n"
            f"{found['pairs']} pairs of held-out films: accuracy {found['accuracy']:.3f} (majority "
            f"{trivial['majority']['accuracy']:.3f}, mean features {trivial['mean_features']['accuracy']:.3f}), "
            f"AUC {found['auc']:.3f} (mean features {trivial['mean_features']['auc']:.3f})\n"
            f"next: python -m data_scripts.mine_scene_pairs --model {arguments.output}/model …"
        )


def train_mil(arguments: MILArguments) -> dict[str, Any]:
    """The whole run: train, keep the best network as `OUTPUT/model` and what was done as `OUTPUT/results.json`.

    Raises:
        ValueError: settings that make no run; no pairs to train or to measure on.
        StorageError: inputs that cannot be used; the output folder holds a run of another recipe, or is in use.
    """
    check_arguments(arguments)
    accelerator = Accelerator(mixed_precision="bf16" if arguments.bf16 else "no")
    with accelerator.main_process_first():
        features = ShotFeatures(arguments.features)
    guard = LeakGuard.read(arguments.exclude, arguments.movies, require_imdb_id=arguments.require_imdb_id)
    films = SimilarFilms.read(arguments.similar, features, arguments.sources, guard, arguments.allow_missing)
    train_films, held_out_films = films.split(arguments.held_out, arguments.seed)
    if arguments.held_out and not len(held_out_films.pairs):
        raise ValueError(
            f"none of the {len(films.pairs)} pairs of similar films lies within the {len(held_out_films.movie_ids)} "
            f"held-out films: hold out more than held_out={arguments.held_out}, or 0 to measure nothing"
        )
    measured = (
        held_out_films.draw(np.random.default_rng([arguments.seed, MEASURED]), arguments.negatives)
        if arguments.held_out
        else None
    )
    train_films.draw(np.random.default_rng(0), arguments.negatives)  # raises now what it would raise later

    set_seed(arguments.seed)
    model = M2SMovieSimilarityModel(
        M2SMovieSimilarityConfig(
            feature_dim=features.dim,
            features=features.record["settings"],
            **{name: getattr(arguments, name) for name in OF_THE_NETWORK},
        )
    )
    readers = [
        FilmReader(
            features, each.movie_ids, arguments.max_shots, arguments.long_films, accelerator.device, arguments.resident
        )
        for each in (train_films, held_out_films)
    ]
    recipe = recipe_of(arguments, features, films)
    run = RunFolder(arguments.output, recipe, accelerator)
    with run.held():
        state = train(model, train_films, readers, measured, arguments, run)
        results = {
            "recipe": recipe,
            "counts": {
                **films.counts,
                "train_films": len(train_films.movie_ids),
                "train_pairs": len(train_films.pairs),
            },
            "leak_guard": guard.record(),
            "steps": state["step"],
            "best_step": state["best_step"],
            "training_minutes": round(state["seconds"] / 60, 2),
            "held_out": measured and measure(model, readers[1], *measured),
            "baselines": measured and baselines(features, train_films, held_out_films, measured, arguments),
            "held_out_films": held_out_films.movie_ids,
            "made_with": made_with(accelerator),
        }
        if accelerator.is_main_process:
            model.save_pretrained(arguments.output / "model")
            draw_run(run, state["best_step"])
            write_json(arguments.output / "results.json", results)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results


def check_arguments(arguments: MILArguments) -> None:
    for name, value in asdict(arguments).items():
        if type(value) is int and name not in ("seed", "patience_steps") and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= arguments.held_out < 1:
        raise ValueError(f"held_out is {arguments.held_out}; it must be a share of the films, below 1")


def recipe_of(arguments: MILArguments, features: ShotFeatures, films: SimilarFilms) -> dict[str, Any]:
    """What the network depends on: not where data lie, but which they are."""
    kept = {name: value for name, value in asdict(arguments).items() if name not in NOT_OF_THE_RECIPE}
    content = json.dumps([films.movie_ids, films.pairs.tolist(), features.num_shots.tolist()])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {**kept, "features": features.record["settings"], "films_and_pairs": digest}


def train(
    model: M2SMovieSimilarityModel,
    films: SimilarFilms,
    readers: list[FilmReader],
    measured: tuple[np.ndarray, np.ndarray] | None,
    arguments: MILArguments,
    run: RunFolder,
) -> dict[str, Any]:
    """All steps, from the latest checkpoint on; returns the last state: `step`, `best_step`, `seconds` of training."""
    accelerator = run.accelerator
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate)
    prepared, optimizer = accelerator.prepare(PairLoss(model), optimizer)
    best = BestWeights()
    accelerator.register_for_checkpointing(best)
    batch_size, steps_per_epoch = plan_steps(len(films.pairs), arguments, accelerator.num_processes)
    num_steps = arguments.epochs * steps_per_epoch
    state = {"seconds": 0.0, "best_step": 0, "best_auc": -1.0, "stopped": False, **run.restore()}
    bar = tqdm(total=num_steps, initial=state["step"], desc="training", disable=None if run.is_main else True)
    for step in range(state["step"], 0 if state["stopped"] else num_steps):
        if step % steps_per_epoch == 0 or step == state["step"]:
            batches = list(epoch_batches(films, step // steps_per_epoch, batch_size, steps_per_epoch, arguments))
        started = time.monotonic()
        batch, labels = batches[step % steps_per_epoch]
        random = np.random.default_rng([arguments.seed, WINDOWS, step])
        loss = step_loss(prepared, readers[0], batch, labels, random, accelerator)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] += 1
        state["seconds"] += time.monotonic() - started
        bar.update()
        is_last = state["step"] == num_steps
        if state["step"] % arguments.log_steps == 0:
            run.log(state["step"], loss=round(accelerator.reduce(loss.detach(), reduction="mean").item(), 6))
        if measured and (state["step"] % arguments.measure_steps == 0 or is_last):
            keep_best(best, model, readers[1], measured, state, run)
            waited = state["step"] - state["best_step"]
            is_over = bool(arguments.patience_steps) and waited >= arguments.patience_steps
            state["stopped"] = is_last = is_last or is_over
        if state["step"] % arguments.checkpoint_steps == 0 or is_last:
            run.save(**state)
        if is_last:
            break
    bar.close()
    if measured:
        model.load_state_dict(best.weights)
    return state


def plan_steps(num_positives: int, arguments: MILArguments, num_processes: int) -> tuple[int, int]:
    """Pairs a step, and steps an epoch: few pairs make one smaller batch, of many the rest of an epoch is left out."""
    num_pairs = num_positives * (1 + arguments.negatives)
    batch_size = min(arguments.batch_size, num_pairs) // num_processes * num_processes
    if not batch_size:
        raise ValueError(f"{num_pairs} pairs of films to train on are too few for {num_processes} processes")
    return batch_size, num_pairs // batch_size


def epoch_batches(
    films: SimilarFilms, epoch: int, batch_size: int, steps: int, arguments: MILArguments
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (batch, 2) and labels (batch,) of every step of an epoch, the same whatever the number of processes."""
    pairs, labels = films.draw(np.random.default_rng([arguments.seed, PAIRS, epoch]), arguments.negatives)
    for start in range(0, steps * batch_size, batch_size):
        yield pairs[start : start + batch_size], labels[start : start + batch_size]


def step_loss(
    model: nn.Module,
    reader: FilmReader,
    pairs: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
    accelerator: Accelerator,
) -> torch.Tensor:
    """The loss of this process's share of a batch: neighbors, since a pair and its negatives have a film in common."""
    size = len(pairs) // accelerator.num_processes
    mine = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    films, numbers = np.unique(pairs[mine], return_inverse=True)
    numbers_P2 = torch.from_numpy(numbers.reshape(-1, 2)).to(accelerator.device)
    labels_P = torch.from_numpy(labels[mine]).to(accelerator.device)
    return model(reader.read(films, random), numbers_P2, labels_P)


class BestWeights:
    """The weights of the best measurement, saved with every checkpoint."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def keep(self, model: nn.Module) -> None:
        self.weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights


def keep_best(
    best: BestWeights,
    model: M2SMovieSimilarityModel,
    reader: FilmReader,
    measured: tuple[np.ndarray, np.ndarray],
    state: dict[str, Any],
    run: RunFolder,
) -> None:
    """Measure; keep the weights if held-out AUC is higher than ever. One process decides, for all to agree."""
    found: list[Any] = [None]
    if run.is_main:
        found = [measure(model, reader, *measured)]
        run.log(state["step"], **{f"held_out_{name}": value for name, value in found[0].items()})
    broadcast_object_list(found)
    if found[0]["auc"] > state["best_auc"]:
        state["best_auc"], state["best_step"] = found[0]["auc"], state["step"]
        best.keep(model)


@torch.no_grad()
def measure(
    model: M2SMovieSimilarityModel, reader: FilmReader, pairs: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Accuracy, AUC, average precision and cross-entropy on pairs of films; both orders of the two are averaged."""
    model.eval()
    probabilities = np.zeros(len(pairs))
    for start in range(0, len(pairs), MEASURED_AT_ONCE):
        films, numbers = np.unique(pairs[start : start + MEASURED_AT_ONCE], return_inverse=True)
        windows = model.encode_films(reader.read(films))[torch.from_numpy(numbers.reshape(-1, 2)).to(reader.device)]
        orders = [model.compare(windows[:, a], windows[:, b]).logits.softmax(-1)[:, 1] for a, b in ((0, 1), (1, 0))]
        probabilities[start : start + MEASURED_AT_ONCE] = torch.stack(orders).mean(0).double().cpu().numpy()
    model.train()
    return {"pairs": len(pairs), **scores(labels, probabilities)}


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": round(float(((probabilities > 0.5) == labels).mean()), 4),
        "auc": round(float(roc_auc_score(labels, probabilities)), 4),
        "average_precision": round(float(average_precision_score(labels, probabilities)), 4),
        "loss": round(float(log_loss(labels, probabilities, labels=[0, 1])), 4),
    }


def baselines(
    features: ShotFeatures,
    train_films: SimilarFilms,
    held_out_films: SimilarFilms,
    measured: tuple[np.ndarray, np.ndarray],
    arguments: MILArguments,
) -> dict[str, dict[str, float]]:
    """What needs no network: the more frequent answer, and the cosine of the films' mean features.

    A logistic regression on the pairs to train on turns the cosine into an answer.
    """
    drawn = train_films.draw(np.random.default_rng([arguments.seed, PAIRS, 0]), arguments.negatives)
    means = [
        np.stack([mean_feature(features[name]) for name in each.movie_ids]) for each in (train_films, held_out_films)
    ]
    (train_cosines, train_labels), (cosines, labels) = (
        (np.einsum("nd,nd->n", mean[pairs[:, 0]], mean[pairs[:, 1]])[:, None], each)
        for mean, (pairs, each) in zip(means, (drawn, measured), strict=True)
    )
    fitted = LogisticRegression(C=1e6).fit(train_cosines, train_labels)
    majority = int(2 * train_labels.sum() >= len(train_labels))
    return {
        "majority": {"accuracy": round(float((labels == majority).mean()), 4)},
        "mean_features": scores(labels, fitted.predict_proba(cosines)[:, 1]),
    }


def mean_feature(features_TD: np.ndarray) -> np.ndarray:
    """Mean (D,) over the shots that have features, of length one."""
    mean = features_TD[has_keyframe(features_TD)].astype(np.float32).sum(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def draw_run(run: RunFolder, best_step: int) -> None:
    log = run.read_log()

    def curve(name: str) -> list[tuple[int, float]]:
        return [(line["step"], line[name]) for line in log if name in line]

    panels = {
        "cross-entropy": {"training": curve("loss"), "held-out films": curve("held_out_loss")},
        "held-out films": {name: curve(f"held_out_{name}") for name in ("auc", "accuracy")},
    }
    with atomic_write(run.folder / "curves.png") as file:
        file.write(encode(draw_curves(panels, best_step), "PNG"))


if __name__ == "__main__":
    main()
