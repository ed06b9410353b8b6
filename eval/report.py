"""What encoders reach on the paper's tasks, on one page beside trivial baselines and the paper's own numbers.

    python -m eval.report --results results/lvu-m2s.json results/lvu-clip.json --output report.html
    … --markdown report.md                                        the same tables as Markdown
    … --shots catalog/shots --embeddings runs/lvu-m2s             pictures of scenes: retrieval, predictions
    … --pictures scene15                                          pictures of tasks on photographs

Results are files that `eval.probe` wrote, of any encoders and task groups. The first file of a group is drawn first
wherever two encoders stand side by side, so give ours first and the baseline second. The page is one self-contained
HTML file without scripts. The paper's numbers stand below the measured ones, in rows marked as printed there.

In a group with one table a task, the paper's rows stand under the task that is named like the group.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.report_pictures import RETRIEVAL_SHOTS, Predictions, SceneKeyframes, read_predictions, task_pictures
from modeling_m2s.commands_m2s import run_command
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.storage_m2s import atomic_write

TEMPLATES, PAPER = Path(__file__).parent / "templates", Path(__file__).parent / "paper_tables.yaml"
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


class Group(NamedTuple):
    """What the page says of a task group.

    Attributes:
        by_task: whether a table has a column a task; otherwise each task has a table, with a column a figure.
        is_sensitive: whether its scenes are never shown.
    """

    title: str
    protocol: str
    deviations: str
    by_task: bool = False
    is_sensitive: bool = False


PROBED = (
    "Each scene has one embedding, made by an encoder that does not learn here. A probe learns from training scenes, "
    "is selected on validation scenes, and is measured once on test scenes."
)
ADDED = "The paper uses the MLP only; the other probes, the seeds and the intervals are ours."
GROUPS = {
    "lvu": Group(
        "LVU: nine tasks on clips of films",
        PROBED,
        f"{ADDED} Clips without a video are missing here, and the paper does not say how many it had.",
        by_task=True,
    ),
    "lvu_place_retrieval": Group(
        "LVU: retrieval of places",
        "Each validation scene is a query, and its nearest neighbors are sought among the training scenes. Precision "
        "at k is the share of the k nearest that show the same kind of place, averaged over queries.",
        "The paper's table fits 114 queries of the 120 in the files. Many queries have scenes of their own film in the "
        "gallery. The paper leaves these in; rows of other films, which are ours, do not.",
    ),
    "movienet_places": Group(
        "MovieNet: places of scenes",
        f"{PROBED} mAP is the mean of average precision over the classes that occur among the test scenes.",
        f"{ADDED} The list of classes is made from the annotations, because none is published.",
    ),
    "movienet_boundaries": Group(
        "MovieNet: scene boundaries",
        "A probe reads four shots and says whether a scene ends between the second and the third. AP is computed over "
        "the shots of all test films together.",
        f"{ADDED} At a film's ends its first or last shot stands for missing ones.",
    ),
    "moderation": Group(
        "Video moderation",
        f"{PROBED} Average precision is given by class.",
        f"{ADDED} The paper's clips are not public, so these are other clips, and the films of a split are kept apart.",
        is_sensitive=True,
    ),
    "movieclip": Group(
        "MovieCLIP: places of shots",
        PROBED,
        "The paper has no such task. CLIP chose the labels, which favors CLIP unless people verified them.",
        by_task=True,
    ),
    "photographs": Group("Photographs", PROBED, "The paper has no such task.", by_task=True),
    "own": Group("Own labels", PROBED, "The paper has no such task.", by_task=True),
}


class ReportError(UserError, ValueError):
    """Result files that cannot be shown, or not together; the message names the file and the way out."""


@dataclass
class ReportArguments:
    """Which results are shown, where the page goes, and where pictures come from."""

    results: list[Path] = field(metadata={"help": "result files of eval.probe, of any encoders and tasks; ours first"})
    output: Path = field(metadata={"help": "the page, an HTML file"})
    markdown: Path | None = field(default=None, metadata={"help": "file for the same tables as Markdown"})
    shots: list[Path] = field(
        default_factory=list, metadata={"help": "folders of shots datasets, for pictures of scenes"}
    )
    embeddings: list[Path] = field(
        default_factory=list,
        metadata={"help": "folders of the scene_embeddings that were measured: they tell which shots a scene has"},
    )
    pictures: Path | None = field(default=None, metadata={"help": "folder of photographs that scenes are named after"})
    seed: int = field(default=0, metadata={"help": "seed of the draw of scenes and films that are shown"})

    def __post_init__(self) -> None:
        """Raises: ValueError: embeddings without shots."""
        if self.embeddings and not self.shots:
            raise ValueError("embeddings tell where scenes are, but keyframes are in shots: give --shots as well")


@dataclass(frozen=True)
class Result:
    """One result file: an encoder on the tasks of a group; `tasks` are as the file has them."""

    path: Path
    group: str
    encoder: str
    settings: Mapping[str, Any]
    labels: str
    tasks: Mapping[str, Mapping[str, Any]]
    made_with: Mapping[str, Any]


class Column(NamedTuple):
    """A figure of a task. `printed` is its place in the paper's rows, None where the paper has no such column."""

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
    """A number as it is shown, with the deviation over seeds and the interval, both empty where there are none.

    A number of scenes has that of missing ones in place of the interval.
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
    """Rows under the names of their origin, and what is said below them."""

    title: str
    columns: list[Column]
    parts: dict[str, list[Row]]


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.report", ReportArguments, write_report, argv)


def write_report(arguments: ReportArguments) -> None:
    """Write the page, and the Markdown if asked for.

    Raises:
        ReportError: as `read_result` and `by_group`.
        StorageError: datasets that cannot be read, or an output that cannot be written.
    """
    groups = by_group([read_result(path) for path in arguments.results])
    tables = {name: group_tables(name, results) for name, results in groups.items()}
    keyframes = SceneKeyframes(arguments.shots, arguments.embeddings, arguments.pictures)
    pages = [
        {
            "id": name,
            "about": GROUPS[name],
            "tables": tables[name],
            "made": [provenance(result) for result in results],
            "pictures": group_pictures(name, results, keyframes, arguments.seed),
        }
        for name, results in groups.items()
    ]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["aligned"] = aligned
    encoders = list(dict.fromkeys(result.encoder for results in groups.values() for result in results))
    page = environment.get_template("report.html").render(
        groups=pages,
        encoders=encoders,
        num_files=len(arguments.results),
        printed=PRINTED,
        scenes=SCENES,
        retrieval_shots=RETRIEVAL_SHOTS,
    )
    outputs = {arguments.output: page}
    if arguments.markdown:
        outputs[arguments.markdown] = "\n".join(
            markdown_group(name, tables[name], results) for name, results in groups.items()
        )
    for path, text in outputs.items():
        with atomic_write(path) as file:
            file.write(text.encode())
    print(
        f"{len(groups)} task groups, {len(encoders)} encoders in {arguments.output}, {len(page.encode()) / 1e6:.1f} MB"
    )
    print(f"next: open {arguments.output} in a browser")


def read_result(path: Path) -> Result:
    """A file of `eval.probe`.

    Raises:
        ReportError: no JSON, or not of this form; the message names the file and the key.
        OSError: no such file.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); give result files of python -m eval.probe") from None
    _require(path, "", content, {"task_group": str, "encoder": dict, "labels": str, "tasks": dict, "made_with": dict})
    _require(path, "encoder.", content["encoder"], {"name": str, "settings": dict})
    if content["task_group"] not in GROUPS:
        raise ReportError(f"{path}: task_group {content['task_group']!r} is none of {', '.join(GROUPS)}")
    if not content["tasks"]:
        raise ReportError(f"{path}: tasks is empty; measure at least one task with python -m eval.probe")
    for name, task in content["tasks"].items():
        _check_task(path, f"tasks.{name}", task)
    encoder = content["encoder"]
    return Result(
        path,
        content["task_group"],
        encoder["name"],
        encoder["settings"],
        content["labels"],
        content["tasks"],
        content["made_with"],
    )


def _check_task(path: Path, place: str, task: Any) -> None:
    lists: dict[str, type] = {"problem": str, "classes": list, "figure": str, "higher_is_better": bool}
    _require(path, f"{place}.", task, {**lists, "scenes": dict, "missing": dict, "trivial": dict})
    kind = "retrieval" if "retrieval" in task else "probes"
    _require(path, f"{place}.", task, {kind: dict})
    for table in ("scenes", "missing"):
        _require(path, f"{place}.{table}.", task[table], {_measured_split(task): int})
    for name, each in probes_of(task).items():
        where = f"{place}.{kind}." + (f"{name}." if kind == "probes" else "")
        _require(path, where, each, {"figures": dict})
        for figure, numbers in each["figures"].items():
            _require(path, f"{where}figures.{figure}.", numbers, {"mean": (int, float)})
    for name, figures in task["trivial"].items():
        _require(path, f"{place}.trivial.", task["trivial"], {name: dict})
        _require(path, f"{place}.trivial.{name}.", figures, dict.fromkeys(figures, (int, float)))


def _require(path: Path, place: str, table: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    for key, kind in kinds.items():
        if not isinstance(table, dict) or not isinstance(table.get(key), kind):
            raise ReportError(
                f"{path}: {place}{key} is missing or of another type; write the file anew with python -m eval.probe"
            )


def probes_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Results of a task by the name of the probe; retrieval has no probe, but is named like one."""
    return {"retrieval": task["retrieval"]} if "retrieval" in task else task.get("probes", {})


def is_retrieval(task: Mapping[str, Any]) -> bool:
    """Whether neighbors are sought instead of classes or values predicted."""
    return "retrieval" in probes_of(task)


def _measured_split(task: Mapping[str, Any]) -> str:
    """The split whose scenes a figure is of: the queries of retrieval are validation scenes, as in the paper."""
    return "validation" if is_retrieval(task) else "test"


def by_group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by task group, in the order of the page.

    Raises:
        ReportError: results of a group that do not belong in one table: a task measured twice for an encoder, two
            encoders of one name, a task of one name with other classes, or a task that the group does not have.
    """
    groups = {name: [result for result in results if result.group == name] for name in GROUPS}
    for name, members in groups.items():
        for number, result in enumerate(members):
            _check_tasks(name, result)
            for other in members[:number]:
                _check_pair(other, result)
    return {name: members for name, members in groups.items() if members}


def _check_tasks(group: str, result: Result) -> None:
    known = paper_tables().get(group, {}).get("columns", [])
    if not (GROUPS[group].by_task and known):
        return
    for task in result.tasks:
        if short_name(task) not in known:
            raise ReportError(f"{result.path}: task {task} is none of {group}'s: {', '.join(known)}")


def _check_pair(first: Result, second: Result) -> None:
    both = f"{first.path} and {second.path}"
    for name in first.tasks.keys() & second.tasks.keys():
        if first.encoder == second.encoder:
            raise ReportError(f"{both} both have {name} of encoder {first.encoder}; give one, or rename the encoder")
        for key in ("problem", "classes", "figure", "higher_is_better"):
            if first.tasks[name][key] != second.tasks[name][key]:
                raise ReportError(
                    f"{both} differ in {key} of {name}: they are two tasks of one name; measure both on the same labels"
                )
    if first.encoder == second.encoder and first.settings != second.settings:
        raise ReportError(f"{both} have two encoders of the name {first.encoder}; rename one")


def paper_tables() -> dict[str, Any]:
    """The paper's tables by task group, each number as a string, as it is printed."""
    return yaml.load(PAPER.read_text(encoding="utf-8"), yaml.BaseLoader)


def short_name(task: str) -> str:
    """`director` of `lvu/director`."""
    return task.split("/", 1)[-1]


def label(name: str) -> str:
    """How a probe, baseline, task or figure is called on the page."""
    return NAMES.get(name, name.replace("_", " "))


def group_tables(group: str, results: Sequence[Result]) -> list[Table]:
    """The tables of a task group: one for all tasks, or one for each."""
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
    return any("by_class" in each for result in results for each in probes_of(result.tasks.get(task, {})).values())


def _class_table(task: str, results: Sequence[Result], paper: Mapping[str, Any]) -> Table:
    """A column a class; a cell has all figures, as in table 2 of the paper."""
    measured = [
        (result.encoder, probe, each["by_class"])
        for result in results
        for probe, each in probes_of(result.tasks.get(task, {})).items()
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
    return Table(f"{task} by class", columns, {MEASURED: rows, **({PRINTED: printed} if printed else {})})


def _table(group: str, tasks: Mapping[str, Any], results: Sequence[Result], paper: Mapping[str, Any]) -> Table:
    columns = table_columns(group, tasks, results, paper)
    rows, trivial, scenes = [], [], []
    for encoder in dict.fromkeys(result.encoder for result in results):
        own = {name: task for result in results if result.encoder == encoder for name, task in result.tasks.items()}
        there = [own.get(column.task) for column in columns]
        if not any(there):
            continue
        for probe in dict.fromkeys(probe for task in there if task for probe in probes_of(task)):
            found = [
                probes_of(task).get(probe, {}).get("figures", {}).get(column.figure) if task else None
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
    _mark_best(columns, [*parts[MEASURED], *parts[TRIVIAL]])
    title = "" if GROUPS[group].by_task else next(iter(tasks))
    return Table(title, columns, {**parts, **({PRINTED: printed} if printed else {})})


def table_columns(
    group: str, tasks: Mapping[str, Any], results: Sequence[Result], paper: Mapping[str, Any]
) -> list[Column]:
    """A column a task, for its main figure; for a single task a column a figure, the paper's first."""
    printed = paper.get("columns", [])
    by_task = GROUPS[group].by_task
    if len(tasks) > 1:
        pairs = [(name, task["figure"]) for name, task in tasks.items()]
    else:
        (name,) = tasks
        measured = (
            figure
            for result in results
            for each in probes_of(result.tasks[name] if name in result.tasks else tasks[name]).values()
            for figure in each["figures"]
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
    """A number with spaces of the width of digits after it, so that points of a column stand below each other."""
    if value == NO_VALUE:
        return value
    _, point, digits = value.partition(".")
    missing = decimals - len(digits)
    return value + ("" if point or not decimals else "\u2008") + "\u2007" * missing


def _mean_only(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"mean": value}


def _cell(numbers: Mapping[str, Any] | None, column: Column) -> Cell:
    """A figure as it is shown; no value where it was not measured or is not finite."""
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
    """Test scenes used, and below them those that are missing."""
    if task is None:
        return Cell()
    used, missing = (task[key][_measured_split(task)] for key in ("scenes", "missing"))
    return Cell(f"{used:,}", interval=f"({missing:,} missing)" if missing else "")


def _without_repetition(found: Iterable[tuple[str, str, list[Cell]]]) -> list[Row]:
    """Rows that are the same for several encoders once; a row names its encoders only where they differ."""
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


def _mark_best(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Mark the best number of each column, as shown; a trivial baseline can be the best."""
    for place, column in enumerate(columns):
        values = {row.cells[place].value for row in rows} - {NO_VALUE}
        if not values:
            continue
        best = (max if column.higher_is_better else min)(values, key=float)
        for row in rows:
            cell = row.cells[place]
            if cell.value == best:
                row.cells[place] = Cell(cell.value, cell.deviation, cell.interval, is_best=True)


def provenance(result: Result) -> dict[str, str]:
    """How a result was made: model and revision, settings, label source, seeds, versions."""
    seeds = sorted(
        {len(each["seeds"]) for task in result.tasks.values() for each in probes_of(task).values() if "seeds" in each}
    )
    others = {name: value for name, value in result.settings.items() if name not in ("model", "revision")}
    return {
        "encoder": result.encoder,
        "model": str(result.settings.get("model", "not recorded")),
        "revision": str(result.settings.get("revision", "not recorded")),
        "settings": _listed(others) or "none",
        "labels": result.labels,
        "seeds": " to ".join(dict.fromkeys((str(seeds[0]), str(seeds[-1])))) if seeds else "none",
        "versions": _listed(result.made_with) or "not recorded",
    }


def _listed(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items())


def group_pictures(group: str, results: Sequence[Result], keyframes: SceneKeyframes, seed: int) -> list[dict[str, Any]]:
    """Pictures of each task of a group; none of sensitive scenes."""
    if GROUPS[group].is_sensitive:
        return []
    shown = []
    predictions = [Predictions(result.encoder, read_predictions(result.path)) for result in results]
    for name in dict.fromkeys(name for result in results for name in result.tasks):
        task = next(result.tasks[name] for result in results if name in result.tasks)
        pictures = task_pictures(name, task, group == "movienet_boundaries", predictions, keyframes, seed)
        if pictures:
            shown.append({"name": name, **pictures})
    return shown


def markdown_group(name: str, tables: Sequence[Table], results: Sequence[Result]) -> str:
    """The tables of a task group as Markdown, with what is said below them."""
    about = GROUPS[name]
    lines = [f"## {about.title}", ""]
    for table in tables:
        lines += [f"### {_escaped(table.title)}", ""] if table.title else []
        for origin, rows in table.parts.items():
            header = [
                "encoder",
                "probe",
                *(f"{each.title} ({each.unit})" if each.unit else each.title for each in table.columns),
            ]
            lines += [f"**{origin}**", "", _markdown_row(header)]
            lines.append(_markdown_row(["---", "---", *("---:" for _ in table.columns)]))
            lines += [_markdown_row([row.name, row.probe, *map(_markdown_cell, row.cells)]) for row in rows]
            lines.append("")
    lines += [f"{about.protocol} {about.deviations}", ""]
    for made in map(provenance, results):
        lines.append("- " + "; ".join(f"{key}: {_escaped(value)}" for key, value in made.items()))
    return "\n".join([*lines, ""])


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _markdown_cell(cell: Cell) -> str:
    deviation = f"± {cell.deviation}" if cell.deviation else ""
    return " ".join(filter(None, (f"**{cell.value}**" if cell.is_best else cell.value, deviation, cell.interval)))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
