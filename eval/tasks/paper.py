"""The paper's tables 2 to 6, under our names. None of these numbers was measured by this package."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

PAPER_TABLES = Path(__file__).parent.parent / "paper_tables.yaml"


@cache
def paper_tables() -> dict[str, Any]:
    """Tables by task group; numbers are text, as printed."""
    return yaml.load(PAPER_TABLES.read_text(encoding="utf-8"), yaml.BaseLoader)


def paper_rows(task: str, figure: str) -> dict[str, dict[str, str]]:
    """Figures by row of the paper's table, as printed there: percent, or mean squared error.

    Args:
        task: such as `lvu/scene`.
        figure: name of a figure; for LVU the task's main figure, the only one in its table, whose columns are tasks.

    Returns:
        Empty for a task that the paper does not have.
    """
    group, _, name = task.partition("/")
    table = paper_tables().get(group)
    if table is None:
        return {}
    if not name:
        return {row: dict(zip(table["columns"], values, strict=True)) for row, values in table["rows"].items()}
    if name not in table["columns"]:
        return {}
    return {row: {figure: values[table["columns"].index(name)]} for row, values in table["rows"].items()}


def clip_and_best(task: str, figure: str, higher_is_better: bool = True) -> dict[str, dict[str, str]]:
    """The paper's row for CLIP, and its best row in this figure."""
    rows = {row: values for row, values in paper_rows(task, figure).items() if figure in values}
    if not rows:
        return {}
    best = (max if higher_is_better else min)(rows, key=lambda row: float(rows[row][figure]))
    return {row: values for row, values in rows.items() if row.partition(" ")[0] == "CLIP" or row == best}
