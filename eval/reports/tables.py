"""The tables of the report: results side by side, with the paper's rows and notes below."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eval.reports.results import GROUPS, Labels, Result, measured_split, short_name
from eval.tasks.paper import paper_tables

MEASURED, TRIVIAL, SCENES = "Measured here", "Trivial baselines, measured here", "Scenes measured on"
PRINTED = "Printed in the paper, not measured here"
NO_VALUE = "–"
NAMES = {
    "mlp": "MLP",
    "knn": "k-NN",
    "nearest": "nearest scene",
    "retrieval": "nearest scenes",
    "retrieval_of_other_films": "nearest scenes of other films",
    "chance_of_other_films": "chance among other films",
    "majority": "majority class",
    "mean": "mean of training values",
    "zero": "always zero",
    "best_constant": "best constant, knowing the test labels",
    "prevalence": "equal scores",
    "cosine_distance": "cosine distance of neighboring shots",
    "scene": "place",
    "mean_squared_error": "MSE",
    "mean_average_precision": "mAP",
    "average_precision": "AP",
    "average_precision_per_film": "AP per film",
    "f1": "F1",
    "f1_per_film": "F1 per film",
    "recall_at_3_seconds": "recall within 3 s",
    "miou": "mIoU",
    **{f"precision_at_{k}": f"P@{k}" for k in (1, 5, 10)},
}


class Column(NamedTuple):
    """A figure of a task. `printed` is its index in the paper's rows, or None if the paper has no such column."""

    task: str
    figure: str
    title: str
    unit: str
    factor: float
    decimals: int
    higher_is_better: bool
    printed: int | None


@dataclass(frozen=True)
class Cell:
    """A number as text, with the deviation over seeds and the interval; both are empty if there are none.

    For a number of scenes, `interval` holds the number of missing ones.
    """

    value: str = NO_VALUE
    deviation: str = ""
    interval: str = ""
    is_best: bool = False


class Row(NamedTuple):
    name: str
    probe: str
    cells: list[Cell]


class Table(NamedTuple):
    """Rows grouped by origin (measured, trivial, printed …), and notes below them."""

    title: str
    columns: list[Column]
    parts: dict[str, list[Row]]
    notes: list[str]


def label(name: str) -> str:
    """The page's name for a probe, baseline, task or figure."""
    return NAMES.get(name, name.replace("_", " "))


def group_tables(group: str, results: Sequence[Result]) -> list[Table]:
    """The tables of a task group: one for all tasks, or one per task."""
    tasks = {name: task for result in reversed(results) for name, task in result.tasks.items()}
    in_order = dict.fromkeys(name for result in results for name in result.tasks)
    paper = paper_tables().get(group, {})
    if GROUPS[group].by_task:
        printed = paper.get("columns", [])
        in_order = sorted(in_order, key=lambda name: printed.index(short_name(name)) if printed else 0)
        shown = [in_order]
    else:
        shown = [[name] for name in in_order]
    tables = []
    for names in shown:
        printed = paper if GROUPS[group].by_task or names == [group] else {}
        tables.append(_table(group, {name: tasks[name] for name in names}, results, printed))
        tables += [_class_table(name, results, printed) for name in names if _has_classes(name, results)]
    return tables


def _has_classes(task: str, results: Sequence[Result]) -> bool:
    return any("by_class" in each for result in results for each in _probes(result, task).values())


def _probes(result: Result, task: str) -> Mapping[str, Any]:
    return result.tasks[task]["probes"] if task in result.tasks else {}


def _class_table(task: str, results: Sequence[Result], paper: Mapping[str, Any]) -> Table:
    """A table with a column per class; a cell has all figures, as in table 2 of the paper."""
    measured = [
        (result.encoder, probe, each["by_class"])
        for result in results
        for probe, each in _probes(result, task).items()
        if "by_class" in each
    ]
    figures = list(measured[0][2])
    classes = list(dict.fromkeys(name for _, _, values in measured for each in values.values() for name in each))
    unit = f"{' / '.join(map(label, figures))}, %"
    columns = [Column(task, "", name, unit, 100, 0, True, None) for name in classes]
    rows = []
    for encoder, probe, values in measured:
        shares = [[values[figure].get(name) for figure in figures] for name in classes]
        cells = [
            Cell(" / ".join(NO_VALUE if share is None else f"{100 * share:.1f}" for share in each)) for each in shares
        ]
        rows.append(Row(encoder, label(probe), cells))
    printed = []
    if figures == paper.get("columns"):
        for name, values in paper.get("by_class", {}).items():
            cells = [Cell(" / ".join(values.get(each, [NO_VALUE]))) for each in classes]
            printed.append(Row(name, "", cells))
    return Table(f"{task} by class", columns, {MEASURED: rows, **({PRINTED: printed} if printed else {})}, [])


def _table(group: str, tasks: Mapping[str, Any], results: Sequence[Result], paper: Mapping[str, Any]) -> Table:
    columns = table_columns(group, tasks, results, paper)
    rows, trivial, scenes = [], [], []
    for encoder in dict.fromkeys(result.encoder for result in results):
        own = {name: task for result in results if result.encoder == encoder for name, task in result.tasks.items()}
        there = [own.get(column.task) for column in columns]
        if not any(there):
            continue
        for probe in dict.fromkeys(probe for task in there if task for probe in task["probes"]):
            found = [
                task["probes"].get(probe, {}).get("figures", {}).get(column.figure) if task else None
                for task, column in zip(there, columns, strict=True)
            ]
            rows.append(Row(encoder, label(probe), [_cell(*pair) for pair in zip(found, columns, strict=True)]))
        for name in dict.fromkeys(name for task in there if task for name in task["trivial"]):
            found = [
                _mean_only(task["trivial"].get(name, {}).get(column.figure)) if task else None
                for task, column in zip(there, columns, strict=True)
            ]
            trivial.append((encoder, label(name), [_cell(*pair) for pair in zip(found, columns, strict=True)]))
        scenes.append((encoder, "", [_count(task) for task in there]))
    printed = [
        Row(name, "", [Cell() if column.printed is None else Cell(numbers[column.printed]) for column in columns])
        for name, numbers in paper.get("rows", {}).items()
    ]
    parts = {MEASURED: rows, TRIVIAL: _without_repetition(trivial), SCENES: _without_repetition(scenes)}
    differing = {name for name in tasks if len(_encoders_by_labels(name, results)) > 1}
    _mark_best(columns, [*parts[MEASURED], *parts[TRIVIAL]], differing)
    title = "" if GROUPS[group].by_task else next(iter(tasks))
    notes = [note for name in tasks for note in task_notes(name, results)]
    return Table(title, columns, {**parts, **({PRINTED: printed} if printed else {})}, notes)


def _encoders_by_labels(task: str, results: Sequence[Result]) -> dict[Labels, list[str]]:
    found: dict[Labels, list[str]] = {}
    for result in results:
        if task in result.tasks:
            found.setdefault(result.labels_of(task), []).append(result.encoder)
    return found


def task_notes(name: str, results: Sequence[Result]) -> list[str]:
    """Notes that a reader of a task's figures needs: rows with different labels, and remarks on encoders."""
    about, notes = label(short_name(name)), []
    sources = _encoders_by_labels(name, results)
    if len(sources) > 1:
        whose = "; ".join(f"{', '.join(encoders)} on {source}" for source, encoders in sources.items())
        notes.append(f"{about}: rows differ in their labels: {whose}. So no number is marked as the best.")
    encoders_of: dict[str, list[str]] = {}
    for result in results:
        for remark in _remarks(result.tasks[name]) if name in result.tasks else ():
            encoders_of.setdefault(remark, []).append(result.encoder)
    return [*notes, *(f"{about}, {', '.join(encoders)}: {remark}." for remark, encoders in encoders_of.items())]


def _remarks(task: Mapping[str, Any]) -> Iterator[str]:
    """Remarks on the scenes and the training of a result."""
    if shared := task.get("shared_films"):
        yield f"{shared:,} of {task['test_films']:,} test films have training scenes too"
    if zeros := sum(task.get("zero_vectors", {}).values()):
        yield f"{zeros:,} scenes read a vector of zeros, as of a shot without keyframe"
    seeds = task["probes"].get("mlp", {}).get("seeds", [])
    ends = [seed["chosen"]["diverged_after"] for seed in seeds if "diverged_after" in seed.get("chosen", {})]
    if ends:
        epochs = ", ".join(map(str, ends))
        yield f"{len(ends)} of {len(seeds)} MLPs diverged, after epochs {epochs}; their best epochs before count"


def table_columns(
    group: str, tasks: Mapping[str, Any], results: Sequence[Result], paper: Mapping[str, Any]
) -> list[Column]:
    """A column per task with its main figure; for a single task, a column per figure, the paper's first."""
    printed = paper.get("columns", [])
    by_task = GROUPS[group].by_task
    if len(tasks) > 1:
        pairs = [(name, task["figure"]) for name, task in tasks.items()]
    else:
        (name,) = tasks
        measured = (
            figure for result in results for each in _probes(result, name).values() for figure in each["figures"]
        )
        first = [] if by_task else printed
        pairs = [(name, figure) for figure in dict.fromkeys((*first, tasks[name]["figure"], *measured))]
    columns = []
    for name, figure in pairs:
        task = tasks[name]
        key = (short_name(name) if figure == task["figure"] else None) if by_task else figure
        place = printed.index(key) if key in printed else None
        is_error = task["problem"] == "regression"
        digits = [numbers[place].partition(".")[2] for numbers in paper["rows"].values()] if place is not None else []
        decimals = max(map(len, digits), default=3 if is_error else 1)
        title, unit = (label(short_name(name)), label(figure)) if len(tasks) > 1 or by_task else (label(figure), "")
        units = ", ".join(
            filter(None, (unit, "lower is better" if not task["higher_is_better"] else "%" * (not is_error)))
        )
        factor = 1 if is_error else 100
        columns.append(Column(name, figure, title, units, factor, decimals, task["higher_is_better"], place))
    return columns


def aligned(value: str, decimals: int) -> str:
    """The number, padded with digit-wide spaces, so that the decimal points of a column align."""
    if value == NO_VALUE:
        return value
    _, point, digits = value.partition(".")
    missing = decimals - len(digits)
    return value + ("" if point or not decimals else "\u2008") + "\u2007" * missing


def _mean_only(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"mean": value}


def _cell(numbers: Mapping[str, Any] | None, column: Column) -> Cell:
    """A figure as a cell; without a value if it was not measured or is not finite."""
    if numbers is None or not math.isfinite(numbers["mean"]):
        return Cell()

    def shown(value: float) -> str:
        return f"{value * column.factor:.{column.decimals}f}"

    deviation, interval = numbers.get("deviation"), numbers.get("interval")
    return Cell(
        shown(numbers["mean"]),
        "" if deviation is None else shown(deviation),
        "" if interval is None else f"[{shown(interval[0])}, {shown(interval[1])}]",
    )


def _count(task: Mapping[str, Any] | None) -> Cell:
    """A cell with the number of test scenes used, and of missing ones."""
    if task is None:
        return Cell()
    used, missing = (task[key][measured_split(task)] for key in ("scenes", "missing"))
    return Cell(f"{used:,}", interval=f"({missing:,} missing)" if missing else "")


def _without_repetition(found: Iterable[tuple[str, str, list[Cell]]]) -> list[Row]:
    """Merge rows that are the same for several encoders; a row names its encoders only if encoders differ."""
    by_name: dict[str, list[tuple[list[Cell], list[str]]]] = {}
    for encoder, name, cells in found:
        same = by_name.setdefault(name, [])
        for other, encoders in same:
            if other == cells:
                encoders.append(encoder)
                break
        else:
            same.append((cells, [encoder]))
    rows = []
    for name, variants in by_name.items():
        for cells, encoders in variants:
            whose = ", ".join(encoders) if len(variants) > 1 else "" if name else "all encoders"
            rows.append(Row(", ".join(filter(None, (name, whose))), "", list(cells)))
    return rows


def _mark_best(columns: Sequence[Column], rows: Sequence[Row], differing: Collection[str]) -> None:
    """Mark the best number of each column, after rounding; a trivial baseline can be the best.

    Args:
        differing: tasks whose rows have different labels, so that no number is marked.
    """
    for place, column in enumerate(columns):
        values = {row.cells[place].value for row in rows} - {NO_VALUE}
        if not values or column.task in differing:
            continue
        best = (max if column.higher_is_better else min)(values, key=float)
        for row in rows:
            cell = row.cells[place]
            if cell.value == best:
                row.cells[place] = Cell(cell.value, cell.deviation, cell.interval, is_best=True)
