"""Scenes without labels as a CSV, for computing their embeddings.

    scene_id,movie_id,video,split,start_seconds,end_seconds
    heat_0001,tt0113277,heat,test,80,85.5
    heat_0002,tt0113277,heat,test,85.5,101

A scene is part of a video, in seconds or, with the columns first_shot and num_shots, in shots; without either it is the
whole video.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_scripts.formats.label_files import SPLIT_NAMES, label_errors
from data_scripts.formats.labeled_scenes import LabeledScene, LabelError, check_scenes
from data_scripts.stages.text_files import read_table

COLUMNS = ("scene_id", "movie_id", "video", "split")


@label_errors()
def read_scenes(path: Path) -> list[LabeledScene]:
    """The scenes of a file; splits may have any name in `SPLIT_NAMES`.

    Raises:
        LabelError: a column or number is missing, a part holds nothing, a scene is named twice, or there are none.
    """
    scenes, places = [], []
    for line, row in read_table(path, COLUMNS):
        places.append(f"{path}, line {line}")
        row["split"] = SPLIT_NAMES.get(row["split"].strip().lower(), row["split"])
        scenes.append(LabeledScene(*(row[column] for column in COLUMNS), *_part(row, places[-1])))
    if not scenes:
        raise LabelError(f"{path} holds no scenes")
    check_scenes(scenes, places)
    return scenes


def _part(row: Mapping[str, str], place: str) -> tuple[tuple | None, tuple | None]:
    """Seconds and shots of a row, each None if the row lacks it."""
    seconds = _numbers(row, ("start_seconds", "end_seconds"), float, place)
    if seconds and not 0 <= seconds[0] < seconds[1] < math.inf:
        raise LabelError(f"{place}: {seconds[0]:g} to {seconds[1]:g} s is no part of a video; give 0 <= start < end")
    shots = _numbers(row, ("first_shot", "num_shots"), int, place)
    if shots and not (shots[0] >= 0 and shots[1] >= 1):
        raise LabelError(
            f"{place}: first_shot {shots[0]} must be at least 0 (the first), num_shots {shots[1]} at least 1"
        )
    return seconds, shots


def _numbers(row: Mapping[str, str], columns: Sequence[str], kind: type, place: str) -> tuple | None:
    cells = [row.get(column, "") for column in columns]
    if not any(cells):
        return None
    try:
        return tuple(map(kind, cells))
    except ValueError:
        raise LabelError(f"{place}: {' and '.join(columns)} are {cells}; give two numbers or neither") from None
