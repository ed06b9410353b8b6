"""A user's own labels, as CSV: one label per scene, several labels, or, with `own/values`, a number.

Each of the three has its own MLP recipe, `own*.yaml`; give another with `--recipe`.
"""

from pathlib import Path

from data_scripts.formats.own_labels import read_own_labels

from .figures import KINDS
from .task import ProbedTask


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: as `read_own_labels`."""
    labeled = read_own_labels(labels, "regression" if name == "values" else None)
    return ProbedTask(name="own/values" if name else "own", labeled=labeled, **KINDS[labeled.problem]._asdict())
