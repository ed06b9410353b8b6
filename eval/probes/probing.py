"""Tasks joined with embeddings, probed and recorded: the work of `eval.probe`."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data_scripts.formats.labeled_scenes import SPLITS, LabeledScenes
from eval.probe import ProbeArguments
from eval.probes import (
    ProbeJob,
    ProbeRecipe,
    ProbeResult,
    ProbeTask,
    export_classifier,
    knn_probe,
    linear_probe,
    read_recipe,
    train_probes,
)
from eval.tasks import (
    TASKS,
    Embedded,
    EmbeddingError,
    Embeddings,
    ProbedTask,
    RetrievalTask,
    Task,
    group_of,
    join,
    read_feature_file,
    read_tasks,
)
from eval.tasks.paper import clip_and_best
from eval.tasks.place_retrieval import retrieve
from modeling_m2s import __version__
from modeling_m2s.cards_m2s import add_evaluations, write_training
from modeling_m2s.pretrained_m2s import ModelError, load_encoder
from modeling_m2s.storage_m2s import atomic_write, write_json

CONFIGS = Path(__file__).parents[1] / "configs"
# A classifier of frames can reproduce only embeddings with these settings.
EXPORTABLE = {"encoder": "scene", "vector": "pooler_output", "read": "evenly", "average_neighbors": None}
PREDICTIONS = pa.schema(
    {
        "task": pa.string(),
        "scene_id": pa.string(),
        "movie_id": pa.string(),
        "label": pa.list_(pa.int64()),
        "value": pa.float64(),
        "scores": pa.list_(pa.float64()),
        "neighbors": pa.list_(pa.string()),
        "neighbor_labels": pa.list_(pa.int64()),
    }
)


class Measured(NamedTuple):
    """A task's entry in the results, and a row for each predicted scene."""

    entry: dict[str, Any]
    predictions: pa.Table


def probe(arguments: ProbeArguments, command: str = "") -> dict[str, Any]:
    """Measure all tasks, write the results and the predictions, and return the results.

    Raises:
        CardError: `card` is a folder of other weights, or its card was written by hand.
        LabelError: the labels cannot be read.
        EmbeddingError: the embeddings cannot be used, or belong to other scenes.
        ProbeError: a task cannot be learned, or training diverged.
        ValueError: an unknown task, or an option that its group does not have.
    """
    group = group_of(arguments.task)
    embeddings = (
        read_feature_file(arguments.features)
        if arguments.features
        else TASKS[group].read_embeddings(arguments.embeddings)
    )
    tasks = read_tasks(arguments.task, arguments.labels)
    joined = [join(task, embeddings) for task in tasks]
    if isinstance(tasks[0], RetrievalTask):
        if arguments.probes or arguments.recipe or arguments.export:
            raise ValueError(f"{group} trains nothing: leave out probes, recipe and export")
        measured = [measure_retrieval(task, embedded) for task, embedded in zip(tasks, joined, strict=True)]
    else:
        measured = measure_probes(tasks, joined, embeddings, arguments)
    record = {
        "task_group": group,
        "encoder": {"name": arguments.name or embeddings.name, "settings": embeddings.settings},
        "labels": arguments.labels.resolve().name,
        "tasks": {task.name: each.entry for task, each in zip(tasks, measured, strict=True)},
        "made_with": made_with(arguments.device),
        "command": command,
    }
    write_predictions(
        arguments.output.with_suffix(".predictions.parquet"), pa.concat_tables(each.predictions for each in measured)
    )
    write_json(arguments.output, record)
    if arguments.card:
        add_evaluations(
            arguments.card, str(embeddings.settings.get("revision")), card_entries(record), arguments.hub_dataset
        )
    if arguments.export:
        for task in tasks:
            write_training(arguments.export / task.name, training_record(task.name, record))
    return record


def card_entries(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The results by task, as model cards show them: figures and facts, without seeds and classes."""
    left_out = ("probes", "classes")
    settings = record["encoder"]["settings"]
    return {
        name: {
            **{key: value for key, value in entry.items() if key not in left_out},
            "labels": record["labels"],
            "measured_with": {key: value for key, value in settings.items() if key not in ("model", "revision")},
            "probes": {probe: {"figures": each["figures"]} for probe, each in entry["probes"].items()},
        }
        for name, entry in record["tasks"].items()
    }


def training_record(task: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The card's record of an exported classifier, the best MLP on validation; its figures are those of all seeds."""
    entry = card_entries(record)[task]
    return {
        "made_by": "eval.probe",
        "encoder": record["encoder"]["settings"],
        "recipe": record["tasks"][task]["probes"]["mlp"]["recipe"],
        "labels": record["labels"],
        "scenes": entry["scenes"],
        "evaluations": {task: {**entry, "probes": {"mlp, all seeds": entry["probes"]["mlp"]}}},
        "made_with": record["made_with"],
    }


def measure_retrieval(task: Task, embedded: Embedded) -> Measured:
    retrieved = retrieve(embedded)
    entry = {**_facts(task, embedded), "probes": retrieved.figures, "trivial": _rounded(retrieved.trivial)}
    labeled, neighbors = embedded.labeled, retrieved.neighbors_Qk.tolist()
    label_of = dict(zip((scene.scene_id for scene in labeled.scenes), labeled.labels.tolist(), strict=True))
    columns = {"neighbors": neighbors, "neighbor_labels": [[label_of[each] for each in row] for row in neighbors]}
    return Measured(entry, _predictions(task.name, part(labeled, "validation"), **columns))


def measure_probes(
    tasks: Sequence[ProbedTask], joined: Sequence[Embedded], embeddings: Embeddings, arguments: ProbeArguments
) -> list[Measured]:
    """Train all probes, and measure them on the test scenes."""
    probe_tasks = [ProbeTask(embedded.labeled, embedded.embeddings_ED, embedded.rows_NW) for embedded in joined]
    recipes = [read_recipe(arguments.recipe or CONFIGS / task.recipe) for task in tasks]
    probes = [arguments.probes or task.probes for task in tasks]
    export = exporter(arguments, embeddings, probe_tasks) if arguments.export else None
    jobs = [
        ProbeJob(probe_task, recipe, seed, task.select)
        for task, probe_task, recipe, names in zip(tasks, probe_tasks, recipes, probes, strict=True)
        for seed in range(arguments.seeds if "mlp" in names else 0)
    ]
    trained = iter(train_probes(jobs, arguments.device))
    measured = []
    for task, embedded, probe_task, recipe, names in zip(tasks, joined, probe_tasks, recipes, probes, strict=True):
        results = {name: _simple(name, probe_task, task) for name in names if name != "mlp"}
        if "mlp" in names:
            results = {"mlp": [next(trained) for _ in range(arguments.seeds)], **results}
            if export:
                export(task, max(results["mlp"], key=lambda result: result.validation_metric))
        measured.append(_measured(task, embedded, probe_task, recipe, results))
    return measured


def _simple(name: str, probe_task: ProbeTask, task: ProbedTask) -> list[ProbeResult]:
    if name == "linear":
        return [linear_probe(probe_task, metric=task.select)]
    neighbors = {"neighbors": (1,)} if name == "nearest" else {}
    return [knn_probe(probe_task, **neighbors, metric=task.select)]


def _measured(
    task: ProbedTask,
    embedded: Embedded,
    probe_task: ProbeTask,
    recipe: ProbeRecipe,
    results: Mapping[str, Sequence[ProbeResult]],
) -> Measured:
    test = part(embedded.labeled, "test")
    probes = {name: _probe_entry(task, test, each) for name, each in results.items()}
    if "mlp" in probes:
        probes["mlp"] = {"recipe": asdict(recipe), **probes["mlp"]}
    entry = {**_facts(task, embedded), "probes": probes, "trivial": _rounded(task.trivial(probe_task))}
    scores = np.mean([result.test_scores for result in next(iter(results.values()))], axis=0)
    return Measured(entry, _predictions(task.name, test, scores=scores.reshape(len(test), -1).tolist()))


def _probe_entry(task: ProbedTask, test: LabeledScenes, results: Sequence[ProbeResult]) -> dict[str, Any]:
    figures = task.measure([result.test_scores for result in results], test)
    entry: dict[str, Any] = {"figures": {name: figure.as_json() for name, figure in figures.items()}}
    if results[0].mlp is None:
        return {"chosen": results[0].chosen, **entry}
    seeds = [
        {**{name: round(float(figure.values_S[seed]), 6) for name, figure in figures.items()}, "chosen": result.chosen}
        for seed, result in enumerate(results)
    ]
    return {"seeds": seeds, **entry}


def _facts(task: Task, embedded: Embedded) -> dict[str, Any]:
    labeled = embedded.labeled
    training, test = ({scene.movie_id for scene in part(labeled, split).scenes} for split in ("train", "test"))
    return {
        "problem": labeled.problem,
        "classes": list(labeled.classes),
        "scenes": {split: len(labeled.of_split(split)) for split in SPLITS},
        "missing": embedded.missing,
        **({"zero_vectors": embedded.zeros} if any(embedded.zeros.values()) else {}),
        "films": len({scene.movie_id for scene in labeled.scenes}),
        **({"test_films": len(test), "shared_films": len(training & test)} if test else {}),
        "figure": task.figure,
        "higher_is_better": task.higher_is_better,
    }


def _rounded(baselines: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 6) for key, value in values.items()} for name, values in baselines.items()}


def part(labeled: LabeledScenes, split: str) -> LabeledScenes:
    """The scenes of a split."""
    numbers = labeled.of_split(split)
    return replace(labeled, scenes=tuple(labeled.scenes[number] for number in numbers), labels=labeled.labels[numbers])


def _predictions(name: str, labeled: LabeledScenes, **predicted: list) -> pa.Table:
    """One row per scene; `predicted` holds columns of `PREDICTIONS`, and missing ones are empty."""
    count, labels = len(labeled), labeled.labels
    values = labels.tolist() if labeled.problem == "regression" else [float("nan")] * count
    if labeled.problem == "regression":
        indices: list[list[int]] = [[] for _ in range(count)]
    else:
        indices = [np.flatnonzero(each).tolist() if labels.ndim == 2 else [int(each)] for each in labels]
    columns = {
        "task": [name] * count,
        "scene_id": [scene.scene_id for scene in labeled.scenes],
        "movie_id": [scene.movie_id for scene in labeled.scenes],
        "label": indices,
        "value": values,
        **{column: predicted.get(column, [None] * count) for column in ("scores", "neighbors", "neighbor_labels")},
    }
    return pa.table(columns, PREDICTIONS)


def write_predictions(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as file:
        pq.write_table(table, file)


def exporter(
    arguments: ProbeArguments, embeddings: Embeddings, probe_tasks: Sequence[ProbeTask]
) -> Callable[[ProbedTask, ProbeResult], None]:
    """A function that saves a task's MLP with the encoder of the embeddings.

    Raises:
        EmbeddingError: a classifier of frames cannot reproduce the embeddings, the model has another revision, or it
            cannot be found by its recorded name.
        ModelError: the given model cannot be loaded.
    """
    settings = embeddings.settings
    for name, needed in EXPORTABLE.items():
        if settings.get(name) != needed:
            raise EmbeddingError(
                f"{embeddings.source}: {name} is {settings.get(name)!r}, but a classifier of frames has {needed!r}; "
                "embed the scenes again with --encoder scene and its default settings, or leave out export"
            )
    if any(probe_task.rows.shape[1] > 1 for probe_task in probe_tasks):
        raise EmbeddingError("a probe of several shots side by side cannot be exported; leave out export")
    encoder, image_processor, revision = _encoder_of(arguments, embeddings)
    if revision != settings["revision"]:
        raise EmbeddingError(
            f"{embeddings.source} has embeddings of revision {settings['revision']} of {settings['model']}, but "
            f"{arguments.model or settings['model']} is revision {revision}; name the right one by --model"
        )

    def export(task: ProbedTask, best: ProbeResult) -> None:
        labeled = task.labeled
        folder = arguments.export / task.name
        export_classifier(encoder, image_processor, best.mlp, labeled.classes, labeled.problem, folder)

    return export


def _encoder_of(arguments: ProbeArguments, embeddings: Embeddings) -> tuple:
    """The encoder, loaded from --model or by its recorded name, which is not a full path; see `load_encoder`."""
    if arguments.model:
        return load_encoder(arguments.model)
    try:
        return load_encoder(embeddings.settings["model"])
    except (ModelError, KeyError) as error:
        raise EmbeddingError(
            f"{embeddings.source}: its encoder {embeddings.settings.get('model')} cannot be loaded by that name; give "
            f"--model, the encoder's folder or Hub id ({error})"
        ) from error


def made_with(device: str) -> dict[str, Any]:
    """Device and versions that made the results."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "scikit-learn")}
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "movies2scenes": __version__, **versions}


def print_results(record: Mapping[str, Any]) -> None:
    """Print a table per task: our figures, the trivial baselines, and the paper's printed numbers."""
    print(f"{record['task_group']}, {record['encoder']['name']} (percent; squared errors as they are)")
    for name, entry in record["tasks"].items():
        for line in table_lines(name, entry):
            print(line)


def table_lines(name: str, entry: Mapping[str, Any]) -> list[str]:
    """The table of one task as aligned text."""
    figures = list(next(iter(entry["probes"].values()))["figures"])
    scenes = ", ".join(f"{entry['scenes'][split]} {split}" for split in SPLITS)
    missing = sum(entry["missing"].values())
    rows = [
        [label, *(_cell(each["figures"][figure], figure) for figure in figures)]
        for label, each in entry["probes"].items()
    ]
    rows += [
        [f"{label} (trivial)", *(_number(values[figure], figure) if figure in values else "" for figure in figures)]
        for label, values in entry["trivial"].items()
    ]
    rows += [
        [f"{label} (printed in the paper)", *(values.get(figure, "") for figure in figures)]
        for label, values in clip_and_best(name, entry["figure"], entry["higher_is_better"]).items()
    ]
    rows = [["", *(figure.replace("_", " ") for figure in figures)], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += _notes(entry)
    return ["", f"{name}: {scenes} scenes; {missing} without embedding", *(f"  {line}" for line in lines)]


def _notes(entry: Mapping[str, Any]) -> list[str]:
    """Notes that belong under a task's table."""
    notes = []
    if entry.get("shared_films"):
        notes.append(f"{entry['shared_films']} of {entry['test_films']} test films are also in train")
    if "zero_vectors" in entry:
        notes.append(
            f"{sum(entry['zero_vectors'].values())} scenes read a vector of zeros, as of a shot without keyframe"
        )
    seeds = entry["probes"].get("mlp", {}).get("seeds", ())
    diverged = [seed["chosen"]["diverged_after"] for seed in seeds if "diverged_after" in seed["chosen"]]
    if diverged:
        notes.append(
            f"mlp: {len(diverged)} of {len(seeds)} seeds diverged, after epochs {', '.join(map(str, diverged))}; their "
            "best epochs before that are measured; lower the recipe's learning_rate"
        )
    return notes


def _cell(figure: Mapping[str, Any], name: str) -> str:
    deviation = f" ± {_number(figure['deviation'], name)}" if "deviation" in figure else ""
    ends = ", ".join(_number(end, name) for end in figure["interval"] or ())
    return f"{_number(figure['mean'], name)}{deviation}{f' [{ends}]' if ends else ''}"


def _number(value: float, figure: str) -> str:
    return f"{value:.3f}" if figure == "mean_squared_error" else f"{100 * value:.1f}"
