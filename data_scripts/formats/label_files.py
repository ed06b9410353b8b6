"""Shared by the readers of label files: gather rows into a task, read JSON, name splits, draw with a seed."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError, Problem, Split, check_scenes
from data_scripts.stages.text_files import MetadataError, text_lines

# Splits by the names that label files have for them.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class LabelRow(NamedTuple):
    """A labeled scene as its file has it.

    Attributes:
        place: file and line, for messages.
        label: index of its class, indices of its classes, or its value.
    """

    place: str
    scene: LabeledScene
    label: int | float | Sequence[int]


def gather(task: str, problem: Problem, rows: Iterable[LabelRow], classes: Sequence[str] = ()) -> LabeledScenes:
    """Gather the rows of label files into a task.

    Raises:
        LabelError: no rows, or what `LabeledScenes` refuses; the message names file and line.
    """
    rows = list(rows)
    if not rows:
        raise LabelError(f"{task}: the files hold no labeled scene")
    scenes = tuple(row.scene for row in rows)
    check_scenes(scenes, [row.place for row in rows])
    labels: list[Any] = [row.label for row in rows]
    if problem == "multi_label_classification":
        labels_NC = np.zeros((len(rows), len(classes)), bool)
        for number, indices in enumerate(labels):
            labels_NC[number, list(indices)] = True
        return LabeledScenes(task, problem, scenes, labels_NC, tuple(classes))
    labels_N = np.array(labels, np.float64 if problem == "regression" else np.int64)
    return LabeledScenes(task, problem, scenes, labels_N, tuple(classes))


@contextmanager
def label_errors() -> Iterator[None]:
    """Raise the errors of `text_files` as `LabelError`; also a decorator."""
    try:
        yield
    except MetadataError as error:
        raise LabelError(str(error)) from None


def read_json_file(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        MetadataError: the file is not JSON, or not text that `text_lines` can read.
    """
    try:
        return json.loads("".join(text_lines(path)))
    except json.JSONDecodeError as error:
        raise MetadataError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from None


def shuffled(names: Iterable[str], seed: int | str) -> list[str]:
    """The distinct names in pseudo-random order; adding or removing a name does not reorder the others."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def draw_splits(names: Iterable[str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """A split for each name: `shares` of the names, at least one each, go to validation or test, the rest to train.

    Raises:
        LabelError: too few names.
    """
    order = shuffled(names, seed)
    counts = {split: max(1, round(share * len(order))) for split, share in shares.items()}
    drawn: list[Split] = [split for split, count in counts.items() for _ in range(count)]
    if len(drawn) >= len(order):
        raise LabelError(f"{len(order)} films or pictures are too few to draw {' and '.join(shares)} from: add more")
    drawn += ["train"] * (len(order) - len(drawn))
    return dict(zip(order, drawn, strict=True))
