"""Photographs, with classes from their folders or the manifest; not in the paper.

    photographs                  a scene is a picture in FOLDER/{train,test}/<class>
    photographs/miniplaces       a scene is a picture of one data set in FOLDER/manifest.tsv
    photographs/miniplaces/9     a scene is nine pictures of a class, from the manifest
    photographs/3                a scene is three pictures of a class, from class folders

If scenes have several pictures, scenes of the same class share pictures, so intervals draw classes.
"""

from dataclasses import replace
from pathlib import Path

from data_scripts.formats.photographs import read_photographs

from .figures import KINDS, accuracy
from .task import ProbedTask


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: as `read_photographs`."""
    data_set, _, pictures = name.rpartition("/") if name.rpartition("/")[2].isdecimal() else (name, "", "1")
    labeled = read_photographs(labels, data_set, int(pictures))
    task = ProbedTask(
        name="/".join(filter(None, ("photographs", name))),
        labeled=labeled,
        **KINDS[labeled.problem]._asdict(),
        probes=("mlp", "linear", "knn", "nearest"),
    )
    if pictures == "1":
        return task
    return replace(task, measure=lambda scores_S, test: accuracy(scores_S, test, test.labels))
