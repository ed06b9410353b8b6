"""Photographs with the class that their folder or the manifest names; not in the paper.

    photographs                  a scene is a picture of FOLDER/{train,test}/<class>
    photographs/miniplaces       … of FOLDER/manifest.tsv, those of one data set
    photographs/miniplaces/9     a scene is nine pictures of a class
    photographs/3                three, of class folders

Scenes of several pictures share them with other scenes of their class, so intervals draw classes there.
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
