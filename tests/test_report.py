"""The report: tables equal the result files cell by cell, the paper's are marked, pictures are the right ones."""

import base64
import json
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from eval.report import main
from eval.reports.pictures import Predictions, SceneKeyframes, boundary_films, retrieved, task_pictures
from eval.reports.results import GROUPS, by_group, read_result
from eval.reports.tables import PRINTED, TRIVIAL, aligned, group_tables
from modeling_m2s.storage_m2s import FilmDataset

PAPER = yaml.safe_load((Path(__file__).parent.parent / "eval/paper_tables.yaml").read_text())
CLASSES = ["office", "airport | gate", "<school>"]
VOID = {"meta", "img", "br"}
FIGURES = {
    "lvu_place_retrieval": ["precision_at_1", "precision_at_5", "precision_at_10"],
    "movienet_places": ["mean_average_precision"],
    "movienet_boundaries": ["average_precision", "f1"],
    "moderation": ["average", "sex", "violence", "drug-use"],
}
TASKS = {
    "lvu": ["lvu/view_count", "lvu/scene", "lvu/director"],
    "lvu_place_retrieval": ["lvu_place_retrieval"],
    "movienet_places": ["movienet_places"],
    "movienet_boundaries": ["movienet_boundaries", "bbc"],
    "moderation": ["moderation"],
    "movieclip": ["movieclip/place"],
    "photographs": ["photographs/scene15", "photographs/miniplaces"],
    "own": ["own"],
}


def make_task(name: str, group: str, random: np.random.Generator, missing: int) -> dict:
    is_error = name.endswith("view_count")
    figures = FIGURES.get(group, ["mean_squared_error" if is_error else "accuracy"])

    def numbers(with_deviation: bool) -> dict:
        found = {}
        for figure in figures:
            mean = float(random.uniform(2, 5) if is_error else random.uniform(0.2, 0.9))
            found[figure] = {"mean": mean, "interval": [mean - 0.1, mean + 0.08]}
            if with_deviation:
                found[figure]["deviation"] = float(random.uniform(0.01, 0.05))
        return {"figures": found}

    task = {
        "problem": "regression" if is_error else "single_label_classification",
        "classes": [] if is_error else CLASSES,
        "scenes": {"train": 557, "validation": 1120 - missing, "test": 86 - missing},
        "missing": {"train": 0, "validation": missing, "test": missing},
        "films": 300,
        "figure": figures[0],
        "higher_is_better": not is_error,
        "trivial": {"mean": {figures[0]: 4.09}} if is_error else {"majority": {figures[0]: 0.267}},
    }
    if group == "lvu_place_retrieval":
        return {**task, "probes": {"retrieval": numbers(False)}}
    seeds = [{figures[0]: 0.5, "chosen": {"epoch": 3}} for _ in range(5)]
    return {**task, "probes": {"mlp": {"seeds": seeds, **numbers(True)}, "linear": numbers(False)}}


def make_result(group: str, encoder: str, seed: int, missing: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {
        "task_group": group,
        "encoder": {"name": encoder, "settings": {"model": f"lab/{encoder}", "revision": "abc123", "kind": "scene"}},
        "labels": "lvu_1.0",
        "tasks": {name: make_task(name, group, random, missing) for name in TASKS[group]},
        "made_with": {"device": "x86_64", "torch": "2.9.1"},
        "command": "python -m eval.probe",
    }


def write(folder: Path, **contents: dict) -> list[Path]:
    paths = []
    for name, content in contents.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


@pytest.fixture
def results(tmp_path) -> list[Path]:
    """All task groups for two encoders; the second lacks four scenes."""
    return [
        path
        for seed, group in enumerate(TASKS)
        for path in write(
            tmp_path,
            **{f"{group}-ours": make_result(group, "ours", seed)},
            **{f"{group}-clip": make_result(group, "clip", 100 + seed, missing=4)},
        )
    ]


def flags(folder: Path, results: list[Path], *more: str) -> list[str]:
    outputs = ["--output", str(folder / "report.html"), "--markdown", str(folder / "report.md")]
    return ["--results", *map(str, results), *outputs, *more]


class Page(HTMLParser):
    """Elements, text, and rows of tables by their origin; fails where tags are not nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.section = ""
        self.cells: list[tuple[str, str, list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))
        if tag == "section" and attributes.get("id"):
            self.section = attributes["id"]
        if tag == "tr" and (origin := self.origin()):
            self.cells.append((self.section, origin, []))
        elif tag in ("td", "th") and self.origin():
            self.cells[-1][2].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        if self.origin() and any(tag in ("td", "th") for tag, _ in self.open):
            self.cells[-1][2][-1] += data

    def origin(self) -> str | None:
        return next((attributes["data-origin"] for _, attributes in self.open if "data-origin" in attributes), None)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def markdown_tables(text: str) -> dict[tuple[str, str, str], list[list[str]]]:
    """Cells by task group, task and origin."""
    tables, group, task, origin = {}, "", "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            group, task = line[3:], ""
        elif line.startswith("### "):
            task = line[4:]
        elif line.startswith("**"):
            origin = line.strip("*")
        elif line.startswith("|"):
            tables.setdefault((group, task, origin), []).append([cell.strip() for cell in line[1:-1].split(" | ")])
    return tables


def shown(numbers: dict | None, factor: int, decimals: int) -> str:
    """What a cell must say, but for bold type."""
    if numbers is None:
        return "–"
    text = f"{factor * numbers['mean']:.{decimals}f}"
    if "deviation" in numbers:
        text += f" ± {factor * numbers['deviation']:.{decimals}f}"
    if "interval" in numbers:
        text += " [{0:.{2}f}, {1:.{2}f}]".format(*(factor * end for end in numbers["interval"]), decimals)
    return text


def test_the_markdown_of_lvu_cell_by_cell(results, tmp_path):
    main(flags(tmp_path, results))
    tables = markdown_tables((tmp_path / "report.md").read_text())
    title = GROUPS["lvu"].title
    measured = tables[title, "", "Measured here"]
    ours, clip = (json.loads((tmp_path / f"lvu-{name}.json").read_text())["tasks"] for name in ("ours", "clip"))
    columns = [("lvu/scene", "accuracy", 100, 1), ("lvu/director", "accuracy", 100, 1)]
    columns.append(("lvu/view_count", "mean_squared_error", 1, 2))
    header = ["encoder", "probe", "place (accuracy, %)", "director (accuracy, %)", "view count (MSE, lower is better)"]
    assert measured[0] == header
    expected = [
        [name, probe, *(shown(tasks[task]["probes"][key]["figures"][figure], *form) for task, figure, *form in columns)]
        for name, tasks in (("ours", ours), ("clip", clip))
        for key, probe in (("mlp", "MLP"), ("linear", "linear"))
    ]
    assert [[cell.replace("**", "") for cell in row] for row in measured[2:]] == expected
    trivial = tables[title, "", TRIVIAL][2:]
    assert [[cell.replace("**", "") for cell in row] for row in trivial] == [
        ["majority class", "", "26.7", "26.7", "–"],
        ["mean of training values", "", "–", "–", "4.09"],
    ]
    assert tables[title, "", "Scenes measured on"][2:] == [
        ["ours", "", "86", "86", "86"],
        ["clip", "", "82 (4 missing)", "82 (4 missing)", "82 (4 missing)"],
    ]
    for place, (task, figure, factor, decimals) in enumerate(columns):
        means = [
            float(f"{factor * each['figures'][figure]['mean']:.{decimals}f}")
            for tasks in (ours, clip)
            for each in tasks[task]["probes"].values()
        ]
        best = min([*means, 4.09]) if factor == 1 else max([*means, 26.7])
        bold = [row[2 + place] for row in measured[2:] + trivial if "**" in row[2 + place]]
        assert len(bold) == 1 and float(bold[0].split("**")[1]) == best
    printed = {row[0]: row[2:] for row in tables[title, "", PRINTED][2:]}
    assert {name: [float(cell) for cell in cells] for name, cells in printed.items()} == {
        name: [numbers[PAPER["lvu"]["columns"].index(task)] for task in ("scene", "director", "view_count")]
        for name, numbers in PAPER["lvu"]["rows"].items()
    }


@pytest.mark.parametrize("group", FIGURES)
def test_groups_with_a_column_a_figure(group, results, tmp_path):
    main(flags(tmp_path, results))
    tables = markdown_tables((tmp_path / "report.md").read_text())
    paper = PAPER[group]
    figures = [*paper["columns"], *(figure for figure in FIGURES[group] if figure not in paper["columns"])]
    for number, task in enumerate(TASKS[group]):
        measured = tables[GROUPS[group].title, task, "Measured here"]
        for row, (name, probe) in zip(measured[2:], rows_of(group), strict=True):
            content = json.loads((tmp_path / f"{group}-{name}.json").read_text())["tasks"][task]
            numbers = content["probes"][probe]["figures"]
            decimals = [
                max(len(str(each[paper["columns"].index(figure)]).partition(".")[2]) for each in paper["rows"].values())
                if figure in paper["columns"] and number == 0
                else 1
                for figure in figures
            ]
            expected = [shown(numbers[each], 100, digits) for each, digits in zip(figures, decimals, strict=True)]
            assert [cell.replace("**", "") for cell in row[2:]] == expected
        # The paper's rows belong to the task that is named like the group.
        printed = tables.get((GROUPS[group].title, task, PRINTED))
        assert (printed is None) == (number > 0)
        if printed:
            found = {row[0]: [cell for cell in row[2:] if cell != "–"] for row in printed[2:]}
            assert {name: [float(cell) for cell in cells] for name, cells in found.items()} == paper["rows"]


def rows_of(group: str) -> list[tuple[str, str]]:
    probes = ("retrieval",) if group == "lvu_place_retrieval" else ("mlp", "linear")
    return [(name, probe) for name in ("ours", "clip") for probe in probes]


def test_retrieval_by_class_stands_beside_the_papers(tmp_path):
    result = make_result("lvu_place_retrieval", "ours", 0)
    shares = {"precision_at_1": 0.4, "precision_at_5": 0.345, "precision_at_10": 0.2967}
    by_class = {figure: {"prison": share, "office": share / 2} for figure, share in shares.items()}
    result["tasks"]["lvu_place_retrieval"]["probes"]["retrieval"]["by_class"] = by_class
    main(flags(tmp_path, write(tmp_path, a=result)))
    tables = markdown_tables((tmp_path / "report.md").read_text())
    title = GROUPS["lvu_place_retrieval"].title, "lvu_place_retrieval by class"
    unit = "(P@1 / P@5 / P@10, %)"
    header = ["encoder", "probe", f"prison {unit}", f"office {unit}"]
    assert tables[*title, "Measured here"][0] == header
    assert tables[*title, "Measured here"][2:] == [
        ["ours", "nearest scenes", "40.0 / 34.5 / 29.7", "20.0 / 17.2 / 14.8"]
    ]
    printed = {
        row[0]: [[float(each) for each in cell.split("/")] for cell in row[2:]] for row in tables[*title, PRINTED][2:]
    }
    paper = PAPER["lvu_place_retrieval"]["by_class"]
    assert printed == {name: [values["prison"], values["office"]] for name, values in paper.items()}


def test_queries_are_counted_where_scenes_are_retrieved(results, tmp_path):
    main(flags(tmp_path, results))
    tables = markdown_tables((tmp_path / "report.md").read_text())
    rows = tables[GROUPS["lvu_place_retrieval"].title, "lvu_place_retrieval", "Scenes measured on"][2:]
    assert [row[2] for row in rows] == ["1,120", "1,116 (4 missing)"]


def test_every_number_of_the_paper_is_marked_and_no_other(results, tmp_path):
    main(flags(tmp_path, results))
    page = Page((tmp_path / "report.html").read_text())
    for group in TASKS:
        rows = [(origin, cells) for section, origin, cells in page.cells if section == group]
        printed = [cells for origin, cells in rows if origin == "paper"]
        names = {cells[0] for cells in printed[1:]}
        paper = PAPER.get(group, {}).get("rows", {})
        assert names == set(paper)
        if printed:
            assert printed[0] == [PRINTED]
        measured = [cells for origin, cells in rows if origin == "measured"]
        assert not {cells[0] for cells in measured} & set(paper)
        assert {"ours", "clip"} <= {cells[0] for cells in measured}
        for cells in printed[1:]:
            numbers = [float(cell) for cell in map(str.strip, cells[2:]) if cell != "–"]
            assert set(numbers) <= {float(each) for each in paper[cells[0]]} and numbers
    outside = [cells for section, origin, cells in page.cells if origin not in ("paper", "measured")]
    assert outside == []


def test_numbers_are_printed_as_in_the_paper(results, tmp_path):
    main(flags(tmp_path, results))
    rows = markdown_tables((tmp_path / "report.md").read_text())[GROUPS["lvu"].title, "", PRINTED]
    assert next(row for row in rows if row[0] == "SlowFast R101")[2:] == ["54.7", "44.9", "3.77"]
    assert (aligned("53", 1), aligned("54.9", 1), aligned("0.2", 3)) == ("53\u2008\u2007", "54.9", "0.2\u2007\u2007")


def test_the_page_needs_nothing_but_itself_and_says_how_results_were_made(results, tmp_path, capsys):
    main(flags(tmp_path, results))
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    links = [value for _, each in page.elements for name, value in each.items() if name in ("src", "href", "srcset")]
    anchors = {f"#{each['id']}" for _, each in page.elements if "id" in each}
    assert links and set(links) <= anchors
    assert not page.all("script") and not page.all("link") and "url(" not in text and "@import" not in text
    for words in (
        "abc123",
        "lab/clip",
        "lvu_1.0",
        "torch 2.9.1",
        "kind scene",
        "Pictures of this task are never shown",
    ):
        assert words in page.text
    for about in GROUPS.values():
        assert about.protocol in page.text and about.deviations in page.text
    assert "8 task groups, 2 encoders in " in capsys.readouterr().out


def test_baselines_that_differ_between_encoders_are_named(tmp_path):
    ours, clip = make_result("own", "ours", 0), make_result("own", "clip", 1)
    clip["tasks"]["own"]["trivial"] = {"majority": {"accuracy": 0.3}, "chance": {"accuracy": float("nan")}}
    groups = by_group([read_result(path) for path in write(tmp_path, a=ours, b=clip)])
    (table,) = group_tables("own", groups["own"])
    found = [(row.name, row.cells[0].value) for row in table.parts[TRIVIAL]]
    assert found == [("majority class, ours", "26.7"), ("majority class, clip", "30.0"), ("chance", "–")]


@pytest.mark.parametrize("differing", ["source", "classes", "scenes"])
def test_rows_of_different_labels_are_no_rivals(differing, tmp_path):
    ours, clip = make_result("lvu", "ours", 0), make_result("lvu", "clip", 1, missing=4)
    if differing == "source":
        clip["labels"] = "relabeled"
    elif differing == "classes":
        clip["tasks"]["lvu/scene"]["classes"] = ["office", "airport", "school"]
    else:
        clip["tasks"]["lvu/scene"]["missing"]["test"] = 0
    groups = by_group([read_result(path) for path in write(tmp_path, a=ours, b=clip)])
    (table,) = group_tables("lvu", groups["lvu"])
    best = [sum(row.cells[place].is_best for part in table.parts.values() for row in part) for place in range(3)]
    assert best == ([0, 0, 0] if differing == "source" else [0, 1, 1])
    assert len(table.notes) == best.count(0)
    assert table.notes[0].startswith("place: rows differ in their labels: ours on lvu_1.0 (557 train, 1,120 validation")
    main(flags(tmp_path, [tmp_path / "a.json", tmp_path / "b.json"]))
    assert table.notes[0].replace("|", "\\|") in (tmp_path / "report.md").read_text()
    assert table.notes[0] in Page((tmp_path / "report.html").read_text()).text


def test_pictures_are_of_encoders_with_the_same_labels(media, tmp_path):
    ours, clip = make_result("own", "ours", 0), make_result("own", "clip", 1)
    clip["tasks"]["own"]["classes"] = CLASSES[::-1]
    paths = write(tmp_path, a=ours, b=clip)
    for path in paths:
        write_predictions(path, scene_rows("own"))
    main(flags(tmp_path, paths, *media))
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.all("article")) == 6 and page.text.count("80%") == 6


def test_films_of_two_splits_and_diverged_mlps_are_noted(tmp_path):
    result = make_result("own", "ours", 0)
    task = result["tasks"]["own"]
    task["shared_films"] = 12
    task["test_films"], task["zero_vectors"] = 60, {"train": 2, "validation": 0, "test": 1}
    task["probes"]["mlp"]["figures"]["accuracy"]["interval"] = None
    for seed, epoch in ((1, 7), (3, 2)):
        task["probes"]["mlp"]["seeds"][seed] = {"accuracy": 0.5, "chosen": {"epoch": 1, "diverged_after": epoch}}
    groups = by_group([read_result(path) for path in write(tmp_path, a=result)])
    (table,) = group_tables("own", groups["own"])
    assert table.notes == [
        "own, ours: 12 of 60 test films have training scenes too.",
        "own, ours: 3 scenes read a vector of zeros, as of a shot without keyframe.",
        "own, ours: 2 of 5 MLPs diverged, after epochs 7, 2; their best epochs before count.",
    ]
    assert [row.cells[0].interval == "" for row in table.parts["Measured here"]] == [True, False]


def test_tasks_of_an_encoder_may_come_from_two_files(tmp_path):
    first, second = make_result("lvu", "ours", 0), make_result("lvu", "ours", 0)
    second["tasks"] = {"lvu/scene": first["tasks"].pop("lvu/scene")}
    main(flags(tmp_path, write(tmp_path, a=first, b=second)))
    rows = markdown_tables((tmp_path / "report.md").read_text())[GROUPS["lvu"].title, "", "Measured here"]
    assert [row[:2] for row in rows[2:]] == [["ours", "MLP"], ["ours", "linear"]]
    assert "–" not in str(rows)


def without(content: dict, *keys: str) -> dict:
    """A copy without one key."""
    copy = json.loads(json.dumps(content))
    table = copy
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]
    return copy


LVU = make_result("lvu", "ours", 0)
OTHER_PROBLEM = make_result("lvu", "clip", 1)
OTHER_PROBLEM["tasks"]["lvu/scene"]["problem"] = "multi_label_classification"
OTHER_TASK = make_result("lvu", "clip", 1)
OTHER_TASK["tasks"]["movienet/place"] = OTHER_TASK["tasks"].pop("lvu/scene")
OTHER_SETTINGS = make_result("lvu", "ours", 1)
OTHER_SETTINGS["tasks"] = {"lvu/genre": OTHER_SETTINGS["tasks"]["lvu/scene"]}
OTHER_SETTINGS["encoder"]["settings"]["revision"] = "def456"
MLP = ("tasks", "lvu/scene", "probes", "mlp", "figures")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a": LVU, "b": OTHER_PROBLEM}, "a.json and .*b.json differ in problem of lvu/scene"),
        ({"a": LVU, "b": OTHER_TASK}, "b.json: task movienet/place is none of lvu's: scene, director"),
        ({"a": LVU, "b": LVU}, "a.json and .*b.json both have lvu/.* of encoder ours"),
        ({"a": LVU, "b": OTHER_SETTINGS}, "a.json and .*b.json have two encoders of the name ours"),
        ({"a": {**LVU, "task_group": "ava"}}, "a.json: task_group 'ava' is none of lvu, "),
        ({"a": {**LVU, "tasks": {}}}, "a.json: tasks is empty"),
        ({"a": [LVU]}, "a.json: task_group is missing"),
        ({"a": without(LVU, "made_with")}, "a.json: made_with is missing"),
        ({"a": without(LVU, "encoder", "settings")}, "a.json: encoder.settings is missing"),
        ({"a": without(LVU, "tasks", "lvu/scene", "figure")}, "a.json: tasks.lvu/scene.figure is missing"),
        ({"a": without(LVU, "tasks", "lvu/scene", "probes")}, "a.json: tasks.lvu/scene.probes is missing"),
        ({"a": without(LVU, "tasks", "lvu/scene", "missing", "test")}, "a.json: tasks.lvu/scene.missing.test is"),
        ({"a": without(LVU, *MLP, "accuracy", "mean")}, r"mlp.figures.accuracy.mean is missing or of another type"),
    ],
)
def test_results_that_make_no_report_are_named(contents, words, tmp_path):
    with pytest.raises(SystemExit, match=f"eval.report: error: .*{words}"):
        main(flags(tmp_path, write(tmp_path, **contents)))
    assert not (tmp_path / "report.html").exists()


def test_files_and_flags_that_make_no_report_are_named(results, tmp_path):
    (tmp_path / "half.json").write_text('{"task_group": "lv')
    for more, words in (
        ([tmp_path / "half.json"], "half.json is not JSON"),
        ([tmp_path / "nowhere.json"], "nowhere.json"),
        ([*results, "--embeddings", "x"], "give --shots as well"),
        ([*results, "--shots", tmp_path / "x"], "x: no finished shots dataset"),
    ):
        with pytest.raises(SystemExit, match=f"eval.report: error: .*{words}"):
            main(flags(tmp_path, list(more)))
    (tmp_path / "own-ours.predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(SystemExit, match=r"own-ours\.predictions\.parquet: no predictions"):
        main(flags(tmp_path, [tmp_path / "own-ours.json"]))


# Pictures: films of single-colored shots of two seconds.

NUM_SHOTS = {"film1": 40, "film2": 40}


def color(movie_id: str, shot: int) -> tuple[int, int, int]:
    """Every shot has its own."""
    return (100 * int(movie_id[-1]), 6 * shot, 255 - 6 * shot)


def jpeg(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def media(tmp_path) -> list[str]:
    """Flags of shots and embeddings: scenes a0 … a7 of film1 and b0 … b7 of film2, five shots each.

    Shot 6 of film1, in scene a1, has no keyframe; the one of shot 7 is broken; scene a2 has none at all.
    """
    shots = FilmDataset(tmp_path / "shots", "shots")
    shots.begin({})
    rows = []
    for movie_id, count in NUM_SHOTS.items():
        for shot in range(count):
            content = jpeg(Image.new("RGB", (256, 144), color(movie_id, shot)))
            keyframes = [{"bytes": content, "path": None}]
            if movie_id == "film1" and (shot == 6 or 10 <= shot < 15):
                keyframes = []
            if (movie_id, shot) == ("film1", 7):
                keyframes = [{"bytes": content[:100], "path": None}]
            place = {"start_frame": 48 * shot, "end_frame": 48 * shot + 48, "keyframe_frames": [48 * shot + 24]}
            times = {"start_seconds": 2.0 * shot, "end_seconds": 2.0 * shot + 2}
            rows.append({"movie_id": movie_id, "shot_index": shot, **place, **times, "keyframes": keyframes})
    shots.write_all(rows)
    embeddings = FilmDataset(tmp_path / "embeddings", "scene_embeddings")
    embeddings.begin({})
    same = {"start_seconds": 0.0, "end_seconds": 0.0, "embedding": [0.0], "model": "m", "revision": "r"}
    scenes = [
        (f"{name}{number}", film, number) for name, film in (("a", "film1"), ("b", "film2")) for number in range(8)
    ]
    embeddings.write_all(
        [
            {"scene_id": scene_id, "movie_id": movie_id, "first_shot": 5 * number, "num_shots": 5, **same}
            for scene_id, movie_id, number in scenes
        ]
    )
    return ["--shots", str(tmp_path / "shots"), "--embeddings", str(tmp_path / "embeddings")]


def write_predictions(result: Path, rows: list[dict]) -> None:
    empty = {"label": [], "value": float("nan"), "scores": [], "neighbors": []}
    pq.write_table(
        pa.Table.from_pylist([{**empty, **row} for row in rows]),
        result.with_suffix("").with_suffix(".predictions.parquet"),
    )


def scene_rows(task: str, wrong: set[str] = frozenset()) -> list[dict]:
    """Scenes of film1 of class 0, of film2 of class 1; the wrong ones get the next class."""
    rows = []
    for scene_id in [f"{film}{number}" for film in "ab" for number in range(8)]:
        truth = "ab".index(scene_id[0])
        scores = [0.1, 0.1, 0.1]
        scores[(truth + (scene_id in wrong)) % 3] = 0.8
        movie_id = f"film{truth + 1}"
        rows.append({"task": task, "scene_id": scene_id, "movie_id": movie_id, "label": [truth], "scores": scores})
    return rows


def images(page: Page) -> list[tuple[str, Image.Image]]:
    return [(each["alt"], Image.open(BytesIO(base64.b64decode(each["src"].split(",")[1])))) for each in page.all("img")]


def test_predictions_show_the_shots_and_classes_of_scenes(media, tmp_path):
    ours, clip = write(tmp_path, a=make_result("own", "ours", 0), b=make_result("own", "clip", 1))
    write_predictions(ours, scene_rows("own", wrong={"b1", "b5"}))
    write_predictions(clip, scene_rows("own", wrong={"a0"}))
    main(flags(tmp_path, [ours, clip], *media))
    page = Page((tmp_path / "report.html").read_text())
    found = images(page)
    assert len(found) >= 6 * 3
    for alt, picture in found:
        movie_id, shot = alt.split(",")[0].removeprefix("film "), int(alt.split(",")[1].removeprefix(" shot "))
        assert alt.endswith(f"00:{2 * shot // 60:02d}:{2 * shot % 60:02d}") and picture.size == (160, 90)
        assert np.abs(np.array(picture)[45, 80].astype(int) - color(movie_id, shot)).max() <= 4
    # Both wrong scenes are drawn, and four right ones; every scene has the bars of both encoders.
    cards = page.all("article")
    assert len(cards) == 6 and page.text.count("✗ wrong") in (2, 3) and page.text.count("✓ right") in (9, 10)
    assert "b1" in page.text and "b5" in page.text and page.text.count("80%") == 12
    assert "<school>" in page.text and "Truth: airport | gate" in page.text


def test_scenes_without_keyframes_are_left_out_and_counted(media, tmp_path):
    keyframes = SceneKeyframes([tmp_path / "shots"], [tmp_path / "embeddings"])
    assert len(keyframes.scene("a0")) == 5 and not keyframes.left_out
    assert [each.alt for each in keyframes.scene("a0", 2)] == [
        "film film1, shot 1, 00:00:02",
        "film film1, shot 3, 00:00:06",
    ]
    assert len(keyframes.scene("a1")) == 3
    assert keyframes.scene("a2") == keyframes.scene("z9") == []
    assert dict(keyframes.left_out) == {
        "single keyframes that are missing or not readable": 2,
        "scenes or films without a readable keyframe": 1,
        "scenes that neither embeddings nor photographs name": 1,
    }
    pictures = task_pictures("own", LVU["tasks"]["lvu/scene"], False, [], keyframes, 0)
    assert pictures["scenes"] == [] and pictures["left_out"] == {"tasks without a file of predictions": 1}


def test_predicted_values_stand_on_a_line(media, tmp_path):
    (path,) = write(tmp_path, a=make_result("lvu", "ours", 0))
    rows = [
        {"task": "lvu/view_count", "scene_id": f"b{n}", "movie_id": "film2", "value": float(n), "scores": [2.0 * n]}
        for n in range(8)
    ]
    write_predictions(path, rows)
    main(flags(tmp_path, [path], *media))
    page = Page((tmp_path / "report.html").read_text())
    labels = [each["aria-label"] for each in page.all("svg") if "true value" in each.get("aria-label", "")]
    expected = {f"true value {n:.2f}, predicted {2 * n:.2f}" for n in range(8)}
    assert len(labels) == 6 and set(labels) <= expected
    circles = [float(each["cx"]) for each in page.all("circle") if each.get("class") == "value-true"]
    numbers = [float(label.split()[2].rstrip(",")) for label in labels]
    assert circles == pytest.approx([8 + 464 * number / 14 for number in numbers], abs=0.06)


def test_retrieved_scenes_are_framed_by_their_class(media, tmp_path):
    results = []
    for name, order in (("ours", ["a3", "b3", "a4", "b4", "a5"]), ("clip", ["b3", "b4", "a2", "a4", "a5"])):
        (path,) = write(tmp_path, **{name: make_result("lvu_place_retrieval", name, 0)})
        labels = ["ab".index(scene_id[0]) for scene_id in order]
        write_predictions(
            path,
            [
                {**row, "scores": [], "neighbors": order, "neighbor_labels": labels}
                for row in scene_rows("lvu_place_retrieval")
            ],
        )
        results.append(path)
    main(flags(tmp_path, results, *media))
    page = Page((tmp_path / "report.html").read_text())
    # A query of each of two classes; each has a, b, a, b of ours and b, b, a, a of CLIP, one of them without picture.
    frames = [each["class"] for each in page.all("li") if each.get("class", "").startswith("is-")]
    a_query = ["right", "wrong", "right", "wrong", "wrong", "wrong", "right", "right"]
    b_query = ["wrong", "right", "wrong", "right", "right", "right", "wrong", "wrong"]
    halves = [[frame.removeprefix("is-") for frame in frames[start : start + 8]] for start in (0, 8)]
    assert sorted(halves) == sorted([a_query, b_query])
    assert page.text.count("no picture") == 2 and "scenes or films without a readable keyframe" in page.text
    assert page.text.count("✓ office") == 4 and page.text.count("✗ office") == 4


def test_neighbors_of_unknown_class_have_no_verdict():
    row = {"label": [0], "neighbors": ["b0", "b1"], "movie_id": "film1"}
    keyframes = SceneKeyframes()
    keyframes.scene = lambda scene_id, most=9: ["keyframe"]
    (query,) = retrieved([Predictions("ours", {"a0": row})], CLASSES, keyframes, 0)
    assert [each["is_right"] for each in query["encoders"][0]["neighbors"]] == [None, None]


def boundary_rows() -> list[dict]:
    """Of film1: a hit after shot 9, a miss after 19, a false alarm after 29; film2 has no boundary at all."""
    scores = {9: 0.9, 19: 0.3, 29: 0.7}
    return [
        {
            "task": "movienet_boundaries",
            "scene_id": f"{movie_id}/{shot:04d}",
            "movie_id": movie_id,
            "label": [int(movie_id == "film1" and shot in (9, 19))],
            "scores": [scores.get(shot, 0.1) if movie_id == "film1" else 0.1],
        }
        for movie_id in NUM_SHOTS
        for shot in range(39)
    ]


def test_boundaries_are_hits_misses_and_false_alarms(media, tmp_path):
    (path,) = write(tmp_path, a=make_result("movienet_boundaries", "ours", 0))
    write_predictions(path, boundary_rows())
    main(flags(tmp_path, [path], *media))
    page = Page((tmp_path / "report.html").read_text())
    assert "hits 1, misses 1, false alarms 1" in page.text and "hits 0, misses 0, false alarms 0" in page.text
    drawn = {
        kind: [each for _, each in page.elements if each.get("class") == kind]
        for kind in ("hit", "miss", "false-alarm")
    }
    assert {kind: len(each) - 1 for kind, each in drawn.items()} == {"hit": 1, "miss": 1, "false-alarm": 1}
    hit = next(each for each in drawn["hit"] if "cx" in each)
    assert (float(hit["cx"]), float(hit["cy"])) == pytest.approx((1030 * 10 / 40, 120 - 80 * 0.9), abs=0.06)
    lines = [float(each["x1"]) for each in page.all("line") if each.get("class") == "true-boundary"]
    assert lines == pytest.approx([1030 * 10 / 40, 1030 * 20 / 40], abs=0.06)
    assert "00:01:20" in page.text and len(images(page)) == 16  # of film1, shots 6 and 11 have none
    assert "single keyframes that are missing or not readable: 2" in page.text


def test_boundaries_need_no_media():
    rows = {row["scene_id"]: row for row in boundary_rows()}
    films = list(boundary_films([Predictions("ours", rows)], SceneKeyframes(), 0))
    film = next(film for film in films if film["movie_id"] == "film1")
    assert film["truth"] == [10 / 40, 20 / 40] and film["duration"] == "39 labeled shots" and film["keyframes"] == []
    assert film["encoders"][0]["misses"] == [(20 / 40, 0.3)]


def test_photographs_are_found_below_their_folder_only(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "photos/a.jpg")
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "secret.jpg")
    keyframes = SceneKeyframes(pictures=tmp_path / "photos")
    assert [each.alt for each in keyframes.scene("a.jpg")] == ["scene a.jpg"]
    assert keyframes.scene("../secret.jpg") == keyframes.scene("b.jpg") == []


def test_scenes_of_moderation_are_never_shown(media, tmp_path):
    (path,) = write(tmp_path, a=make_result("moderation", "ours", 0))
    write_predictions(path, scene_rows("moderation"))
    main(flags(tmp_path, [path], *media))
    page = Page((tmp_path / "report.html").read_text())
    assert not page.all("img") and not page.all("article") and "never shown" in page.text


def test_the_same_seed_gives_the_same_page(media, tmp_path):
    (path,) = write(tmp_path, a=make_result("own", "ours", 0))
    write_predictions(path, scene_rows("own"))
    pages = []
    for seed in ("0", "0", "1"):
        main(flags(tmp_path, [path], *media, "--seed", seed))
        pages.append((tmp_path / "report.html").read_bytes())
    assert pages[0] == pages[1] != pages[2]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_opens_in_a_browser(media, tmp_path):
    (path,) = write(tmp_path, a=make_result("own", "ours", 0))
    write_predictions(path, scene_rows("own"))
    main(flags(tmp_path, [path], *media))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--hide-scrollbars", "--window-size=1200,3000"]
    picture = tmp_path / "page.png"
    page = (tmp_path / "report.html").as_uri()
    done = subprocess.run(
        [*command, f"--screenshot={picture}", page], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    with Image.open(picture) as shown:
        pixels = np.array(shown.convert("RGB")).reshape(-1, 3).astype(int)
    assert (pixels[:, 0] > 180).any() and len(np.unique(pixels, axis=0)) > 100
