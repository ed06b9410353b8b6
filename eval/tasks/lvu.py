"""LVU's nine tasks [4.3.1, table 3]: one embedding per clip, accuracy per clip, or mean squared error.

Each task is trained by itself. Most papers give accuracies on all test clips. Many clips are no longer on YouTube, so
our figures are for the remaining clips, and counts are given beside them. Splits have no films in common only in
director, writer, year and genre.
"""

from pathlib import Path

from data_scripts.formats.lvu import LVU_CLASSES, LVU_TASKS, read_lvu

from .figures import KINDS
from .task import ProbedTask


def names(labels: Path) -> tuple[str, ...]:
    """Names of the nine tasks, or of the seven in MA-LMM's files."""
    return tuple(LVU_CLASSES) if (labels / "train.json").exists() else LVU_TASKS


def read(labels: Path, name: str) -> ProbedTask:
    """Raises: LabelError: as `read_lvu`."""
    labeled = read_lvu(labels, name)
    kind = KINDS[labeled.problem]._replace(recipe=f"lvu_{name}.yaml")
    return ProbedTask(name=f"lvu/{name}", labeled=labeled, **kind._asdict())
