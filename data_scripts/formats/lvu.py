"""LVU's labels of nine tasks on clips of films, as its authors' tables or as MA-LMM's JSON files.

    lvu_1.0/scene/{train,val,test}.csv     class_id class_name youtube_id imdb_id, separated by single spaces
    lvu_1.0/view_count/…                   view_count youtube_id imdb_id
    lvu_1.0/like_ratio/…                   like_count dislike_count youtube_id imdb_id
    lvu/annotation/{train,val,test}.json   MA-LMM: seven classification tasks, clips still on YouTube, no films

The paper's "place" is the task `scene`. Class ids stay as they are in the tables, including the gaps of director and
writer, so that a head has the published ten outputs. MA-LMM's files do not name the film, so each clip counts as a film
of its own; confidence intervals by film are then too narrow.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from data_scripts.catalog.film_names import imdb_id
from data_scripts.formats.label_files import SPLIT_NAMES, LabelRow, gather, label_errors, read_json_file
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError
from data_scripts.stages.text_files import read_table

# Names by class id; "" where no clip has the id. The writer of class 0 is unknown, literally `\N`.
LVU_CLASSES = {
    "relationship": ("friend", "ex_boyfriend_ex_girlfriend", "husband_wife", "boyfriend_girlfriend"),
    "way_speaking": ("explains", "confronts", "discuss", "teaches", "threatens"),
    "scene": ("office", "airport", "school", "hotel", "prison", "restaurant"),
    "director": (
        *("nm0000229", "nm0000217", "", "", "nm0000165"),
        *("nm0001675", "nm0040630", "nm0001392", "nm0000631", "nm0000233"),
    ),
    "writer": (
        *(r"\N", "nm0001220", "nm0000175", "", ""),
        *("nm0000455", "nm0462895", "nm0000230", "", "nm0326040"),
    ),
    "year": ("1930", "1940", "1950", "1960", "1970", "1980", "1990", "2000", "2010"),
    "genre": ("Comedy", "Action-Crime-Adventure", "Romance", "Thriller-Horror"),
}
LVU_TASKS = (*LVU_CLASSES, "view_count", "like_ratio")
FILES = ("train", "val", "test")
Row = dict[str, str]


@label_errors()
def read_lvu(folder: Path, task: str) -> LabeledScenes:
    """One of the nine tasks; every scene is a whole clip, named by its YouTube id.

    Args:
        folder: `lvu_1.0` or MA-LMM's `annotation`.
        task: one of `LVU_TASKS`. The last two have the benchmark's targets, for which mean squared errors are
            published: ln(views) minus a constant, and ten times the share of likes minus a constant.

    Raises:
        LabelError: unknown task or folder; a table with another separator or header, an unknown class, a clip twice.
    """
    if task not in LVU_TASKS:
        raise LabelError(f"task {task!r} is none of LVU's: {', '.join(LVU_TASKS)}")
    if (folder / task / "train.csv").exists():
        rows = _of_tables(folder, task)
    elif (folder / "train.json").exists() and task in LVU_CLASSES:
        rows = _of_json(folder, task)
    else:
        raise LabelError(
            f"{folder}: holds neither {task}/train.csv nor MA-LMM's train.json with {', '.join(LVU_CLASSES)}"
        )
    problem = "single_label_classification" if task in LVU_CLASSES else "regression"
    return gather(f"lvu/{task}", problem, rows, LVU_CLASSES.get(task, ()))


def _of_tables(folder: Path, task: str) -> Iterator[LabelRow]:
    columns, label = TARGETS.get(task, (("class_id", "class_name"), lambda row: _class_index(row, task)))
    for name in FILES:
        path = folder / task / f"{name}.csv"
        for line, row in read_table(path, (*columns, "youtube_id", "imdb_id"), " ", csv.QUOTE_NONE):
            place, video, movie_id = f"{path}, line {line}", row["youtube_id"], imdb_id(row["imdb_id"])
            if not video or movie_id is None:
                raise LabelError(f"{place}: {row['imdb_id']!r} is no IMDb id, or there is no YouTube id")
            try:
                yield LabelRow(place, LabeledScene(video, movie_id, video, SPLIT_NAMES[name]), label(row))
            except (ValueError, ZeroDivisionError) as error:
                raise LabelError(f"{place}: no label of task {task} in {' '.join(row.values())!r} ({error})") from None


def _class_index(row: Row, task: str) -> int:
    classes, index = LVU_CLASSES[task], int(row["class_id"])
    if not 0 <= index < len(classes) or not classes[index] or classes[index] != row["class_name"]:
        known = ", ".join(f"{number} {name}" for number, name in enumerate(classes) if name)
        raise ValueError(f"unknown class; expected one of {known}")
    return index


def _view_count(row: Row) -> float:
    return math.log(int(row["view_count"])) - 11.76425435683139


def _like_ratio(row: Row) -> float:
    likes, dislikes = int(row["like_count"]), int(row["dislike_count"])
    return 10 * likes / (likes + dislikes) - 9.138220535629456


# Columns and targets of the regression tasks; the constants are the authors'.
TARGETS: dict[str, tuple[tuple[str, ...], Callable[[Row], float]]] = {
    "view_count": (("view_count",), _view_count),
    "like_ratio": (("like_count", "dislike_count"), _like_ratio),
}


def _of_json(folder: Path, task: str) -> Iterator[LabelRow]:
    """MA-LMM gives letters only to classes that occur, in the tables' order: (c) of director is class 4."""
    used = [index for index, name in enumerate(LVU_CLASSES[task]) if name]
    letters = {f"({chr(ord('a') + number)})": index for number, index in enumerate(used)}
    for name in FILES:
        path = folder / f"{name}.json"
        content = read_json_file(path)
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise LabelError(f"{path}: expected a dict of clips by their YouTube ids, as MA-LMM has it")
        for video, entry in content.items():
            if f"{task}_answer" not in entry:
                continue
            answer, place = entry[f"{task}_answer"], f"{path}, clip {video}"
            if answer not in letters:
                raise LabelError(f"{place}: {task}_answer {answer!r} is none of {' '.join(letters)}")
            yield LabelRow(place, LabeledScene(video, video, video, SPLIT_NAMES[name]), letters[answer])
