"""Reading result files of `eval.probe` for the report, and the report's texts about each task group."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from eval.tasks.paper import paper_tables
from modeling_m2s.errors_m2s import UserError


class Group(NamedTuple):
    """Texts of the page about a task group.

    Attributes:
        by_task: whether one table has a column per task; otherwise each task has a table with a column per figure.
        is_sensitive: True if its scenes must not be shown.
    """

    title: str
    protocol: str
    deviations: str
    by_task: bool = False
    is_sensitive: bool = False


PROBED = (
    "Each scene has one embedding, made by an encoder that does not learn here. A probe learns from training scenes, "
    "is selected on validation scenes, and is measured once on test scenes."
)
ADDED = "The paper uses the MLP only; the other probes, the seeds and the intervals are ours."
GROUPS = {
    "lvu": Group(
        "LVU: nine tasks on clips of films",
        PROBED,
        f"{ADDED} Clips without a video are missing here, and the paper does not say how many it had.",
        by_task=True,
    ),
    "lvu_place_retrieval": Group(
        "LVU: retrieval of places",
        "Each validation scene is a query, and its nearest neighbors are sought among the training scenes. Precision "
        "at k is the share of the k nearest that show the same kind of place, averaged over queries.",
        "The paper's table fits 114 queries of the 120 in the files. Many queries have scenes of their own film in the "
        "gallery. The paper leaves these in; rows of other films, which are ours, do not.",
    ),
    "movienet_places": Group(
        "MovieNet: places of scenes",
        f"{PROBED} mAP is the mean of average precision over the classes that occur among the test scenes.",
        f"{ADDED} The list of classes is made from the annotations, because none is published.",
    ),
    "movienet_boundaries": Group(
        "MovieNet: scene boundaries",
        "A probe reads four shots and says whether a scene ends between the second and the third. AP is computed over "
        "the shots of all test films together.",
        f"{ADDED} At a film's ends its first or last shot stands for missing ones.",
    ),
    "moderation": Group(
        "Video moderation",
        f"{PROBED} Average precision is given by class.",
        f"{ADDED} The paper's clips are not public, so these are other clips, and the films of a split are kept apart.",
        is_sensitive=True,
    ),
    "movieclip": Group(
        "MovieCLIP: places of shots",
        PROBED,
        "The paper has no such task. CLIP chose the labels, which favors CLIP unless people verified them.",
        by_task=True,
    ),
    "photographs": Group("Photographs", PROBED, "The paper has no such task.", by_task=True),
    "own": Group("Own labels", PROBED, "The paper has no such task.", by_task=True),
}


class ReportError(UserError, ValueError):
    """Result files cannot be shown, or not together; the message names the file and the fix."""


class Labels(NamedTuple):
    """Properties that distinguish the labels of a task from other labels of the same task name.

    Attributes:
        source: name of their file or folder.
        scenes: number of labeled scenes by split, including those without an embedding.
    """

    source: str
    scenes: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {split}" for split, count in self.scenes)
        classes = f"{len(self.classes)} classes, {shorten(', '.join(self.classes), 80)}" if self.classes else "values"
        return f"{self.source} ({counts} scenes; {classes})"


@dataclass(frozen=True)
class Result:
    """One result file: an encoder on the tasks of a group; `tasks` has the file's content."""

    path: Path
    group: str
    encoder: str
    settings: Mapping[str, Any]
    labels: str
    tasks: Mapping[str, Mapping[str, Any]]
    made_with: Mapping[str, Any]

    def labels_of(self, name: str) -> Labels:
        """The labels that a task was measured on."""
        task = self.tasks[name]
        counts = {split: count + task["missing"][split] for split, count in task["scenes"].items()}
        return Labels(self.labels, tuple(counts.items()), tuple(task["classes"]))


def read_result(path: Path) -> Result:
    """Read a result file of `eval.probe`.

    Raises:
        ReportError: not JSON, or another structure; the message names the file and the key.
        OSError: no such file.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); give result files of python -m eval.probe") from None
    _require(path, "", content, {"task_group": str, "encoder": dict, "labels": str, "tasks": dict, "made_with": dict})
    _require(path, "encoder.", content["encoder"], {"name": str, "settings": dict})
    if content["task_group"] not in GROUPS:
        raise ReportError(f"{path}: task_group {content['task_group']!r} is none of {', '.join(GROUPS)}")
    if not content["tasks"]:
        raise ReportError(f"{path}: tasks is empty; measure at least one task with python -m eval.probe")
    for name, task in content["tasks"].items():
        _check_task(path, f"tasks.{name}", task)
    encoder = content["encoder"]
    return Result(
        path,
        content["task_group"],
        encoder["name"],
        encoder["settings"],
        content["labels"],
        content["tasks"],
        content["made_with"],
    )


def _check_task(path: Path, place: str, task: Any) -> None:
    lists: dict[str, type] = {"problem": str, "classes": list, "figure": str, "higher_is_better": bool}
    tables = dict.fromkeys(("scenes", "missing", "probes", "trivial"), dict)
    _require(path, f"{place}.", task, {**lists, **tables})
    for table in ("scenes", "missing"):
        _require(path, f"{place}.{table}.", task[table], dict.fromkeys((*task["scenes"], measured_split(task)), int))
    for name, each in task["probes"].items():
        where = f"{place}.probes.{name}."
        _require(path, where, each, {"figures": dict})
        for figure, numbers in each["figures"].items():
            _require(path, f"{where}figures.{figure}.", numbers, {"mean": (int, float)})
    for name, figures in task["trivial"].items():
        _require(path, f"{place}.trivial.", task["trivial"], {name: dict})
        _require(path, f"{place}.trivial.{name}.", figures, dict.fromkeys(figures, (int, float)))


def _require(path: Path, place: str, table: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    for key, kind in kinds.items():
        if not isinstance(table, dict) or not isinstance(table.get(key), kind):
            raise ReportError(
                f"{path}: {place}{key} is missing or of another type; write the file anew with python -m eval.probe"
            )


def measured_split(task: Mapping[str, Any]) -> str:
    """The split that figures are measured on: validation for retrieval, as in the paper, otherwise test."""
    return "validation" if "retrieval" in task["probes"] else "test"


def by_group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by task group, in the order of the page.

    Raises:
        ReportError: a group's results do not fit into one table: a task was measured twice for an encoder, two encoders
            share a name, a task differs in problem or figure, or the group does not have a task.
    """
    groups = {name: [result for result in results if result.group == name] for name in GROUPS}
    for name, members in groups.items():
        for number, result in enumerate(members):
            _check_tasks(name, result)
            for other in members[:number]:
                _check_pair(other, result)
    return {name: members for name, members in groups.items() if members}


def _check_tasks(group: str, result: Result) -> None:
    known = paper_tables().get(group, {}).get("columns", [])
    if not (GROUPS[group].by_task and known):
        return
    for task in result.tasks:
        if short_name(task) not in known:
            raise ReportError(f"{result.path}: task {task} is none of {group}'s: {', '.join(known)}")


def _check_pair(first: Result, second: Result) -> None:
    both = f"{first.path} and {second.path}"
    for name in first.tasks.keys() & second.tasks.keys():
        if first.encoder == second.encoder:
            raise ReportError(f"{both} both have {name} of encoder {first.encoder}; give one, or rename the encoder")
        for key in ("problem", "figure", "higher_is_better"):
            if first.tasks[name][key] != second.tasks[name][key]:
                raise ReportError(
                    f"{both} differ in {key} of {name}: they are two tasks of one name; rename one, or leave it out"
                )
    if first.encoder == second.encoder and first.settings != second.settings:
        raise ReportError(f"{both} have two encoders of the name {first.encoder}; rename one")


def short_name(task: str) -> str:
    """The task's name without its group, e.g. `director` for `lvu/director`."""
    return task.split("/", 1)[-1]
