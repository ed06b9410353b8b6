"""Model cards from the records that training and evaluation leave beside a model.

    write_card(Path("runs/moco/model"))        # README.md, and .eval_results/ where a benchmark of the Hub is named

A model's folder has, beside its weights:

    training.json       what the training command wrote: recipe, data, counts, speed, what it ran on
    evaluations.json    what `eval.probe --card` and `eval.scene_retrieval --card` wrote, by task
    README.md           the card; rewritten only if this module wrote it, so a card written by hand stays

Every number on a card is read from a record. A line whose record is missing is left out. Text of records (titles, names
of models and classes) is escaped: it can neither end the card's metadata nor bring HTML or links into the card.
"""

import contextlib
import html
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import (
    DatasetCard,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from .errors_m2s import UserError
from .pretrained_m2s import model_revision

TEMPLATES = Path(__file__).parent / "card_templates"
TRAINING, EVALUATIONS, EVAL_RESULTS = "training.json", "evaluations.json", ".eval_results"
WRITTEN_HERE = "<!-- Written by Movies2Scenes from the records beside it; edit the records, or remove this line. -->"
SOMEWHERE = "FOLDER_OR_HUB_ID"  # in code, until the repository's name is known
LICENSE_FIELDS = ("license", "license_name", "license_link")
IMAGE_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)
MODERATION = {"sex", "violence", "drug-use"}
# The folders of an absolute path within a text: a Unix path, a file:// address or a Windows path.
FOLDERS = re.compile(r"(?<![\w/.])(?:file://)?/(?:[^\s/]+/)+|(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/]+[\\/])+")
MOST_CHARACTERS = 200  # a card shortens longer values


class CardError(UserError, ValueError):
    """A folder whose card cannot be written; the message gives the reason and the fix."""


def write_card(folder: Path, repo_id: str | None = None, license: str | None = None) -> Path:
    """Write the card of a model's folder, and `.eval_results/` for benchmarks of the Hub; returns the card's path.

    Args:
        repo_id: name of its repository, for the code on the card.
        license: SPDX id for the card's header; by default the existing card's.

    Raises:
        CardError: the folder has no model, a record has another form, or the card was written by hand.
        StorageError: a record cannot be read.
    """
    from .storage_m2s import atomic_write

    path = save_card(folder, lambda: model_card(folder, repo_id, license))
    results = eval_results(folder)
    for name, content in results.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    for other in (folder / EVAL_RESULTS).glob("*.yaml"):  # results of weights that are no longer here
        if f"{EVAL_RESULTS}/{other.name}" not in results:
            other.unlink()
    return path


def save_card(folder: Path, make: Callable[[], ModelCard | DatasetCard]) -> Path:
    """Write the card that `make` returns into a folder, unless one written by hand is there; returns its path.

    Raises:
        CardError: the card was written by hand.
    """
    from .storage_m2s import atomic_write

    path = folder / "README.md"
    if not is_ours(path):
        raise CardError(f"{path} was written by hand; remove it, and the card is written from the records")
    card = make()
    with atomic_write(path) as file:
        file.write(str(card).encode())
    return path


def is_ours(path: Path) -> bool:
    """Whether a card may be rewritten: there is none, or it was written here."""
    return not path.exists() or WRITTEN_HERE in path.read_text(encoding="utf-8", errors="replace")


def model_card(folder: Path, repo_id: str | None = None, license: str | None = None) -> ModelCard:
    """The card of a model's folder, from its configuration, `training.json` and `evaluations.json`.

    Raises:
        CardError: the folder has no model, or a record has another form.
        StorageError: a record cannot be read.
    """
    with form_of_records(folder):
        return _model_card(folder, repo_id, license)


@contextlib.contextmanager
def form_of_records(folder: Path) -> Iterator[None]:
    """Raise a CardError where a record lacks a value or holds it in another form."""
    from jinja2 import UndefinedError

    try:
        yield
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise CardError(
            f"{folder}: a record lacks what its card needs ({error!r}); run the command that wrote it again"
        ) from error


def _model_card(folder: Path, repo_id: str | None, license: str | None) -> ModelCard:
    config = read_record(folder / "config.json")
    if not config:
        raise CardError(f"{folder}: no model (config.json)")
    training = read_record(folder / TRAINING) or _results_of_run(folder)
    evaluations = {**training.get("evaluations", {}), **current_evaluations(folder)}
    is_classifier = "M2SSceneForClassification" in (config.get("architectures") or [])
    kind = "classifier" if is_classifier else str(config.get("model_type"))
    title = repo_id or (folder.resolve().parent.name if folder.resolve().name == "model" else folder.resolve().name)
    data = ModelCardData(
        **license_fields(folder / "README.md", license),
        library_name="transformers",
        pipeline_tag="image-feature-extraction" if kind in ("m2s_scene", "m2s_scene_ensemble") else None,
        base_model=_hub_id(training.get("teacher") or training.get("recipe", {}).get("model")),
        tags=[*(["clip"] if kind.startswith("clip") else ["video-feature-extraction"]), "movies2scenes"],
        model_name=one_line(title),
        eval_results=list(_model_index(evaluations)) or None,
    )
    if data.eval_results is None:
        data.pop("model_name")
    figures = [
        figure
        for entry in evaluations.values()
        for probe in entry["probes"].values()
        for figure in probe["figures"].values()
    ]
    return ModelCard(
        render(
            "model.md",
            header=data.to_yaml(),
            written_here=WRITTEN_HERE,
            title=title,
            name=repo_id or SOMEWHERE,
            kind=kind,
            config=config,
            training=training,
            recipe=training.get("recipe", {}),
            counts=training.get("counts", {}),
            tables=[_table(task, entry) for task, entry in evaluations.items()],
            has_intervals=any(figure.get("interval") for figure in figures),
            has_seeds=any("deviation" in figure for figure in figures),
            chosen=any(entry.get("chosen_on") for entry in evaluations.values()),
            preprocessing=_preprocessing(folder, training),
            moderates=bool(MODERATION & set((config.get("id2label") or {}).values())),
        )
    )


def write_training(folder: Path, record: Mapping[str, Any], repo_id: str | None = None) -> Path:
    """Save a training command's record, without paths of this machine, and write the card.

    A card written by hand stays.
    """
    from .storage_m2s import write_json

    write_json(folder / TRAINING, without_paths(record))
    return write_card(folder, repo_id) if is_ours(folder / "README.md") else folder / "README.md"


def add_evaluations(
    folder: Path, revision: str, entries: Mapping[str, Mapping[str, Any]], hub_dataset: str | None = None
) -> Path:
    """Put results on the card of a model's folder, in place of earlier ones of the same tasks.

    Args:
        revision: revision of the measured weights, as `load_encoder` returns it.
        entries: results by task, in `eval.probe`'s form.
        hub_dataset: id of the benchmark's dataset on the Hub, for its leaderboard.

    Raises:
        CardError: the folder holds other weights, or its card was written by hand.
    """
    from .storage_m2s import write_json

    if (found := model_revision(str(folder), None)) != revision:
        raise CardError(
            f"{folder} is revision {found}, but revision {revision} was measured; name its folder by --card"
        )
    if not is_ours(folder / "README.md"):
        raise CardError(f"{folder / 'README.md'} was written by hand; remove it, or leave out --card")
    more = {"revision": revision, **({"hub_dataset": hub_dataset} if hub_dataset else {})}
    known = read_record(folder / EVALUATIONS)
    write_json(folder / EVALUATIONS, {**known, **{task: without_paths({**entries[task], **more}) for task in entries}})
    return write_card(folder)


def current_evaluations(folder: Path) -> dict[str, Any]:
    """The results in `evaluations.json` that belong to the weights in the folder, by task."""
    found = read_record(folder / EVALUATIONS)
    revision = model_revision(str(folder), None) if found else None
    return {task: entry for task, entry in found.items() if entry.get("revision") == revision}


def eval_results(folder: Path) -> dict[str, bytes]:
    """Files with results on datasets of the Hub, by path in a repository; the Hub's leaderboards read them."""
    import yaml

    found: dict[str, list[EvalResultEntry]] = {}
    for task, entry in current_evaluations(folder).items():
        if dataset := entry.get("hub_dataset"):
            best = next(iter(entry["probes"].values()))["figures"][entry["figure"]]
            result = EvalResultEntry(dataset_id=dataset, task_id=task.rpartition("/")[2], value=best["mean"])
            found.setdefault(re.sub(r"[^A-Za-z0-9-]+", "_", dataset), []).append(result)
    return {
        f"{EVAL_RESULTS}/{name}.yaml": yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False).encode()
        for name, entries in sorted(found.items())
    }


def without_paths(value: Any) -> Any:
    """A copy of a record with absolute paths, in values and keys, shortened to the names of their files.

    Keys that become equal are numbered. A path with spaces in the middle of a text keeps all after its first space.
    """
    if isinstance(value, Mapping):
        record: dict[Any, Any] = {}
        for key, each in value.items():
            name = without_paths(key)
            names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
            record[next(one for one in names if one not in record)] = without_paths(each)
        return record
    if isinstance(value, list | tuple):
        return [without_paths(each) for each in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    return Path(value).name if os.path.isabs(value) and "\n" not in value else FOLDERS.sub("", value)


def list_names(leak_guard: Mapping[str, Any]) -> dict[str, Any]:
    """A leak guard's record with lists named by folder and file, because many benchmark files share a name."""
    lists = {"/".join(Path(path).parts[-2:]): count for path, count in leak_guard.get("lists", {}).items()}
    return {**leak_guard, "lists": lists}


def escaped(value: Any) -> str:
    """A value as one line of plain text in Markdown: it makes no HTML, heading, code, table cell or emphasis.

    A bare address may become a link, because it does not hide where it leads.
    """
    text = html.escape(one_line(without_paths(value)), quote=False)
    return re.sub(r"([\\`*|~\[\]]|^#|^[+-](?= )|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def one_line(value: Any) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    text = " ".join(text.split())
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def render(template: str, **values: Any) -> str:
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    class Missing(ChainableUndefined):
        """A missing value: false in a template's condition, an error where it would leave a gap in a line."""

        __str__ = ChainableUndefined._fail_with_undefined_error

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=Missing,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": escaped, "settings": settings_lines, "duration": duration}
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values))


def settings_lines(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, one per line. Each value is JSON, which has no line ends."""
    lines = (
        f"{re.sub(r'[^A-Za-z0-9_.-]', '_', str(name))}: {json.dumps(value, ensure_ascii=True)}"
        for name, value in without_paths(settings).items()
        if value is not None
    )
    return "\n".join(lines)


def duration(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def read_record(path: Path) -> dict[str, Any]:
    """The table in a JSON file; empty if there is no such file."""
    from .storage_m2s import read_json

    return read_json(path) if path.is_file() else {}


def _results_of_run(folder: Path) -> dict[str, Any]:
    """`results.json` of the run that a folder `model` belongs to, without the command, which may contain paths."""
    results = read_record(folder.resolve().parent / "results.json") if folder.resolve().name == "model" else {}
    return {name: value for name, value in without_paths(results).items() if name != "command"}


def license_fields(path: Path, license: str | None) -> dict[str, Any]:
    """The license for a card's header; if none is given, the license of the card that is replaced."""
    if license is not None:
        return {"license": license}
    if not path.is_file():
        return {}
    data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    return {name: data[name] for name in LICENSE_FIELDS if name in data}


def _hub_id(name: Any) -> str | None:
    """`USER/NAME`, if a model's name is a repository's. Records name local folders without their parents."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(@\S+)?", str(name or ""), re.ASCII)
    return found[1] if found else None


def _model_index(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[EvalResult]:
    """Each task's deciding figure, for each probe, with its interval and the trivial baselines."""
    for task, entry in evaluations.items():
        figure = entry["figure"]
        trivial = {name: values[figure] for name, values in entry.get("trivial", {}).items() if figure in values}
        for probe, each in entry["probes"].items():
            if (found := each["figures"].get(figure)) is None:
                continue
            more = {"interval_95": found.get("interval"), "trivial": trivial}
            yield EvalResult(
                task_type=one_line(task.partition("/")[0]).replace("_", "-").replace(" ", "-"),
                task_name=one_line(task),
                dataset_type=one_line(entry.get("hub_dataset") or entry.get("labels") or task),
                dataset_name=one_line(entry.get("labels") or task),
                dataset_split="validation" if entry.get("chosen_on") else "test",
                metric_type=figure,
                metric_name=f"{figure} ({one_line(probe)})",
                metric_value=found["mean"],
                metric_args={name: value for name, value in more.items() if value},
            )


def _table(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A task's figures as rows of text."""
    figures = list(dict.fromkeys(name for probe in entry["probes"].values() for name in probe["figures"]))
    rows = [
        [probe, *(_figure(each["figures"].get(figure)) for figure in figures)]
        for probe, each in entry["probes"].items()
    ]
    rows += [
        [f"{name} (trivial)", *(_figure({"mean": values[figure]} if figure in values else None) for figure in figures)]
        for name, values in entry.get("trivial", {}).items()
    ]
    films = entry.get("test_films") or entry.get("films")
    if films == (entry.get("scenes") or {}).get("test"):
        films = None  # each scene counts as a film of its own: pictures, or clips of unknown films
    return {
        "task": task,
        "entry": entry,
        "films": films,
        "columns": [each.replace("_", " ") for each in figures],
        "rows": rows,
    }


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    deviation = f" ± {found['deviation']:.3f}" if "deviation" in found else ""
    error = f" (standard error {found['standard_error']:.3f})" if "standard_error" in found else ""
    interval = " ({:.3f} to {:.3f})".format(*found["interval"]) if found.get("interval") else ""
    return f"{found['mean']:.3f}{deviation}{error}{interval}"


def _preprocessing(folder: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """How a film's frames are prepared: by the image processor, and by the stage that made the training's shots."""
    found = read_record(folder / "preprocessor_config.json") or read_record(folder / "processor_config.json")
    found = found.get("image_processor", found)
    image = {name: found[name] for name in IMAGE_SETTINGS if name in found}
    return {**({"image": image} if image else {}), **training.get("preprocessing", {})}
