"""The page of `eval.report`, put together from its tables and pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_scripts.mining.atlas import page_environment
from eval.report import ReportArguments
from eval.reports.pictures import RETRIEVAL_SHOTS, Predictions, SceneKeyframes, read_predictions, task_pictures
from eval.reports.results import GROUPS, Result, by_group, read_result
from eval.reports.tables import PRINTED, SCENES, Cell, Table, aligned, group_tables
from modeling_m2s.storage_m2s import atomic_write

TEMPLATES = Path(__file__).parent / "templates"


def write_report(arguments: ReportArguments) -> None:
    """Write the page, and the Markdown if asked for.

    Raises:
        ReportError: as `read_result` and `by_group`.
        StorageError: a dataset cannot be read, or an output cannot be written.
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
    environment = page_environment(TEMPLATES)
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


def provenance(result: Result) -> dict[str, str]:
    """How a result was made: model and revision, settings, label source, seeds, versions."""
    seeds = sorted(
        {len(each["seeds"]) for task in result.tasks.values() for each in task["probes"].values() if "seeds" in each}
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
    """Pictures for each task of a group, from the encoders with the same labels as the first; none if sensitive."""
    if GROUPS[group].is_sensitive:
        return []
    shown = []
    predictions = [Predictions(result.encoder, read_predictions(result.path)) for result in results]
    for name in dict.fromkeys(name for result in results for name in result.tasks):
        having = [pair for pair in zip(results, predictions, strict=True) if name in pair[0].tasks]
        first = having[0][0]
        comparable = [found for result, found in having if result.labels_of(name) == first.labels_of(name)]
        pictures = task_pictures(name, first.tasks[name], group == "movienet_boundaries", comparable, keyframes, seed)
        if pictures:
            shown.append({"name": name, **pictures})
    return shown


def markdown_group(name: str, tables: Sequence[Table], results: Sequence[Result]) -> str:
    """The tables of a task group as Markdown, with the notes below them."""
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
        lines += [line for note in table.notes for line in (_escaped(note), "")]
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
