"""A user's own labels as a CSV: clips or parts of videos, with one label or several, or with a value.

    video,start,end,label,film,split
    films/heat.mp4,0:01:20,0:01:25,violence,tt0113277,train
    films/heat.mp4,95.5,101,drug-use|violence,tt0113277,train
    clip_0007.mp4,,,none,tt0133093,test

The columns `video` and `label` are required, in upper or lower case. Cells are separated by commas, semicolons or tabs,
and empty rows are skipped. `start` and `end` are seconds, or [HH:]MM:SS. The whole video is the scene if both are empty
or the file lacks these columns. Labels separated by `|` make a task with several labels per scene. `film` is any name
of the film, by default the video. Without `split`, films are drawn into 70% train, 10% validation and 20% test.

The paper's moderation task has this form: clips of about five seconds with one of four labels, split in these shares
[4.4]. The paper does not say whether its split keeps films apart; ours does.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from data_scripts.formats.label_files import SPLIT_NAMES, LabelRow, draw_splits, gather, label_errors
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError, Problem, Split
from data_scripts.stages.text_files import read_table, text_lines
from modeling_m2s.video_m2s import VIDEO_SUFFIXES

REQUIRED = ("video", "label")
SEPARATORS = (",", ";", "\t")  # without `|`, which metadata tables may use, because it separates labels here
SHARES: Mapping[Split, float] = {"validation": 0.1, "test": 0.2}
NO_LABEL = ("", "nan")  # an empty cell, or what pandas makes of one
TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?)")


class OwnRow(NamedTuple):
    """A row of the file, with its labels as names."""

    place: str
    video: str
    film: str
    seconds: tuple[float, float] | None
    labels: tuple[str, ...]
    split: str


@label_errors()
def read_own_labels(path: Path, problem: Problem | None = None, seed: int = 0) -> LabeledScenes:
    """The task of a file, named after the file.

    Args:
        problem: by default multi-label if any row has several labels, else single-label. Regression must be asked for.
        seed: seed of the split, if the file has none.

    Raises:
        LabelError: no row, a missing column, a time or value that cannot be read, an unknown split, a scene
            twice, parts of two splits that overlap, too few films to draw a split.
    """
    table = _read_table(path)
    if not table:
        raise LabelError(f"{path}: holds a header, but no row")
    has_split = "split" in table[0][1]
    rows = [_row(f"{path}, line {line}", cells) for line, cells in table]
    _check_names(rows, [cells["video"] for _, cells in table])
    if problem is None:
        several = any(len(row.labels) > 1 for row in rows)
        problem = "multi_label_classification" if several else "single_label_classification"
    try:
        drawn = {} if has_split else draw_splits((row.film for row in rows), SHARES, seed)
    except LabelError as error:
        raise LabelError(f"{path}: {error}, or give a column split") from None
    classes = () if problem == "regression" else sorted({label for row in rows for label in row.labels})
    return gather(path.stem, problem, _labeled(rows, problem, classes, drawn), classes)


def _read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped cells, by lower-case column name, of every row that is not empty."""
    first_line = next(text_lines(path), "")
    required, delimiter = REQUIRED, SEPARATORS[0]
    for separator in SEPARATORS:
        names = {name.strip().lower(): name.strip() for name in next(csv.reader([first_line], delimiter=separator), [])}
        if names.keys() >= set(REQUIRED):
            required, delimiter = tuple(names[name] for name in REQUIRED), separator
            break
    rows = (
        (line, {name.lower(): cell.strip() for name, cell in cells.items()})
        for line, cells in read_table(path, required, delimiter)
    )
    return [(line, cells) for line, cells in rows if any(cells.values())]


def _row(place: str, cells: dict[str, str]) -> OwnRow:
    name = PureWindowsPath(cells["video"])  # splits at / and \
    video = name.stem if name.suffix.lower() in VIDEO_SUFFIXES else name.name
    labels = tuple(dict.fromkeys(label.strip() for label in cells["label"].split("|")))
    if not video or any(label.lower() in NO_LABEL for label in labels):
        raise LabelError(
            f"{place}: a row needs a video and a label; video is {cells['video']!r}, label {cells['label']!r}"
        )
    times = [cells.get(column, "") for column in ("start", "end")]
    seconds = tuple(_seconds(time, place) for time in times) if any(times) else None
    if seconds and not seconds[0] < seconds[1]:
        raise LabelError(f"{place}: start {times[0]} is not before end {times[1]}")
    return OwnRow(place, video, cells.get("film", "") or video, seconds, labels, cells.get("split", ""))


def _seconds(time: str, place: str) -> float:
    found = TIME.fullmatch(time)
    if not found:
        raise LabelError(f"{place}: time {time!r} is neither seconds, such as 95.5, nor [HH:]MM:SS; both start and end")
    return 3600 * int(found[1] or 0) + 60 * int(found[2] or 0) + float(found[3])


def _check_names(rows: list[OwnRow], paths: list[str]) -> None:
    """Refuse two videos of one name in different folders, because scenes refer to their videos by name."""
    first: dict[str, str] = {}
    for row, path in zip(rows, (PureWindowsPath(path).as_posix() for path in paths), strict=True):
        if first.setdefault(row.video, path) != path:
            raise LabelError(f"{row.place}: {path} has the name of another video, {first[row.video]}; rename one")


def _labeled(
    rows: list[OwnRow], problem: Problem, classes: list[str], drawn: Mapping[str, Split]
) -> Iterator[LabelRow]:
    indices = {name: index for index, name in enumerate(classes)}
    for row in rows:
        split = drawn.get(row.film) or SPLIT_NAMES.get(row.split.lower())
        if split is None:
            raise LabelError(f"{row.place}: split {row.split!r} is none of {', '.join(SPLIT_NAMES)}")
        if problem != "multi_label_classification" and len(row.labels) > 1:
            raise LabelError(f"{row.place}: {len(row.labels)} labels in a task of one label or value a scene")
        name = row.video if row.seconds is None else f"{row.video}:{row.seconds[0]:.3f}-{row.seconds[1]:.3f}"
        scene = LabeledScene(name, row.film, row.video, split, row.seconds)
        yield LabelRow(row.place, scene, _label(row, problem, indices))


def _label(row: OwnRow, problem: Problem, indices: Mapping[str, int]) -> int | float | list[int]:
    if problem == "multi_label_classification":
        return [indices[label] for label in row.labels]
    if problem == "single_label_classification":
        return indices[row.labels[0]]
    try:
        value = float(row.labels[0])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelError(f"{row.place}: {row.labels[0]!r} is no number; a task of values needs one a row")
    return value
