"""The tasks of the paper and others, by name: `lvu` is a group of nine, `lvu/scene` one of them.

    >>> read_tasks(["lvu"], Path("lvu_1.0"))                        Task by Task
    >>> read_scenes(["lvu"], Path("lvu_1.0"))                       all scenes that they label, for eval.embed_scenes

Each task is a module: its labels, its figures and how they are measured, its trivial baselines. Read `task.py` and
`lvu.py` first.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_scripts.formats.labeled_scenes import LabeledScene, LabelError

from . import lvu, moderation, movieclip, own, photographs, place_retrieval, place_tagging, scene_boundaries
from .embeddings import (
    Embedded,
    EmbeddingError,
    Embeddings,
    join,
    read_feature_file,
    read_scene_embeddings,
    read_shot_embeddings,
)
from .place_retrieval import RetrievalTask
from .task import ProbedTask, Task


class Group(NamedTuple):
    """How tasks are read.

    Attributes:
        read: reads a task from the labels, by its name in the group.
        names: lists the tasks that the labels contain.
        more: names of tasks that run only if named; None if `read` checks names.
        read_embeddings: reads the folder of embeddings.
    """

    read: Callable[[Path, str], Task]
    names: Callable[[Path], Sequence[str]] = lambda labels: ("",)
    more: Sequence[str] | None = ()
    read_embeddings: Callable[[Path], Embeddings] = read_scene_embeddings


TASKS = {
    "lvu": Group(lvu.read, lvu.names, more=None),
    "lvu_place_retrieval": Group(place_retrieval.read),
    "movienet_places": Group(place_tagging.read),
    "movienet_boundaries": Group(scene_boundaries.read, read_embeddings=read_shot_embeddings),
    "moderation": Group(moderation.read),
    "own": Group(own.read, more=("values",)),
    "photographs": Group(photographs.read, more=None),
    "movieclip": Group(movieclip.read, more=("verified",)),
}


def group_of(names: Sequence[str]) -> str:
    """The group of the tasks.

    Raises:
        ValueError: an unknown group, or several.
    """
    groups = list(dict.fromkeys(name.partition("/")[0] for name in names))
    if len(groups) != 1 or groups[0] not in TASKS:
        raise ValueError(f"task {' '.join(names)!r} must be of one of {', '.join(TASKS)}; lvu/scene is one of lvu")
    return groups[0]


def read_tasks(names: Sequence[str], labels: Path) -> list[Task]:
    """Tasks of one group; a name that is the group's stands for all its tasks.

    Raises:
        ValueError: as `group_of`.
        LabelError: the labels cannot be read; or no such task.
    """
    group = TASKS[group_of(names)]
    wanted = [each for name in names for each in ([name.partition("/")[2]] if "/" in name else group.names(labels))]
    for name in wanted:
        if group.more is not None and name not in ("", *group.more):
            raise LabelError(f"{group_of(names)} has no task {name!r}; it has {', '.join(group.more) or 'one alone'}")
    return [group.read(labels, name) for name in dict.fromkeys(wanted)]


def read_scenes(names: Sequence[str], labels: Path) -> list[LabeledScene]:
    """All scenes that tasks of one group label, once each, for `eval.embed_scenes`.

    If a scene is in several tasks, it counts as a training scene only if it is one in all of them.

    Raises:
        LabelError, ValueError: as `read_tasks`; or a task needs embeddings of single shots; or a scene is a different
            part of a video in different tasks.
    """
    if TASKS[group_of(names)].read_embeddings is read_shot_embeddings:
        raise LabelError(
            f"{names[0]} needs an embedding of each shot: run python -m data_scripts.extract_features --vector "
            "pooler_output instead"
        )
    found: dict[str, LabeledScene] = {}
    for task in read_tasks(names, labels):
        for scene in task.labeled.scenes:
            first = found.setdefault(scene.scene_id, scene)
            if first._replace(split=scene.split) != scene:
                raise LabelError(f"{labels}: scene {scene.scene_id} is not the same part of a video in all tasks")
            if first.split == "train":
                found[scene.scene_id] = scene
    return list(found.values())


__all__ = [
    "TASKS",
    "Embedded",
    "EmbeddingError",
    "Embeddings",
    "ProbedTask",
    "RetrievalTask",
    "Task",
    "group_of",
    "join",
    "read_feature_file",
    "read_scenes",
    "read_tasks",
]
