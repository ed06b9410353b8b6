"""Cards are what runs recorded: compared whole after two steps of training, safe against text that wants to be more.

The expected cards are in `tests/fixtures/cards/`; there `#` stands for what differs from run to run or by machine.
"""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from make_videos import make_video
from moco_world import write_labels, write_pairs, write_shots
from test_train_mil import SIZES, same_theme, theme_features, write_features, write_similar

import eval
from data_scripts.make_catalog import main as make_catalog
from eval.film_worlds import retrieval as world_retrieval
from eval.probes import probing
from model_cards.generate import main as generate
from modeling_m2s.cards_m2s import (
    CardError,
    add_evaluations,
    escaped,
    model_card,
    settings_lines,
    without_paths,
    write_training,
)
from modeling_m2s.dataset_cards_m2s import STAGES, dataset_card, shards_digest
from modeling_m2s.pretrained_m2s import model_revision
from modeling_m2s.push_m2s import collect
from modeling_m2s.storage_m2s import SCHEMAS, FilmDataset
from train.train_mil import main as train_mil
from train.train_moco import main as train_moco

EXPECTED = Path(__file__).parent / "fixtures" / "cards"
MASKED = [
    (r"\b[0-9a-f]{16}\b", "#"),
    (r"(?m)^(device|threads|movies2scenes|torch|transformers|accelerate): .*$", r"\1: #"),
    (r"on [^ ,]+, processes", "on #, processes"),
    (r"[\d.]+( pairs a second| % of the peak| % of the time)", r"#\1"),
]
HOSTILE = [
    "quotes \" ' and: colon",
    "first\n---\nlicense: mit\n---\nlast",
    "!!python/object/apply:os.system [id]",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "cell | cell ``` `code` ```",
    "[a link](javascript:alert(1)) ![picture](http://x/y.png)",
    "{{ 7 * 7 }} {% raw %} & *bold* <!-- comment",
    "\u202eright to left\u2028line\u0000zero",
    "- item\n# heading\n```\nout of the fence\n```",
    "# heading _emphasis_ __strong__ ~~struck~~ in_a_word",
]


def masked(card: str) -> str:
    for pattern, replacement in MASKED:
        card = re.sub(pattern, replacement, card)
    return card


@pytest.fixture(scope="module")
def moco(tiny_folder, tmp_path_factory) -> Path:
    """A run of two steps with labeled scenes, by the real command line; the folder of the run."""
    folder = tmp_path_factory.mktemp("moco")
    write_shots(folder / "shots")
    write_pairs(folder / "pairs")
    write_labels(folder / "labels.csv", range(6, 12))
    model = shutil.copytree(tiny_folder, folder / "tiny")
    words = {"model": model, "labels": folder / "labels.csv", "batch_size": 4, "queue_size": 8, "max_steps": 2}
    words |= {"shots_per_scene": 3, "log_steps": 1, "num_workers": 0, "batch_norm": True, "output": folder / "moco"}
    words |= {"pairs": folder / "pairs", "shots": folder / "shots"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        train_moco([str(word) for name, value in words.items() for word in (f"--{name}", value)])
    return folder / "moco"


@pytest.fixture(scope="module")
def mil(tmp_path_factory) -> Path:
    """One step of movie similarity, with a benchmark's films left out."""
    folder = tmp_path_factory.mktemp("mil")
    write_features(folder / "shot_features", theme_features())
    catalog = {"num_films": 31, "digest": "0123456789abcdef"}
    guard = {"lists": {f"{folder}/lvu/test.txt": 2}, "num_listed": 2, "excluded": {"by id": 1}, "catalog": catalog}
    allowed = sorted(theme_features().keys() - {"tt1000004"})
    write_similar(folder / "similar_movies", same_theme(), candidates=allowed, leak_guard=guard)
    words = {"features": folder / "shot_features", "similar": folder / "similar_movies", "output": folder / "mil"}
    words |= {"epochs": 1, "held_out": 0.3, **SIZES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        train_mil([str(word) for name, value in words.items() for word in (f"--{name}", value)])
    return folder / "mil"


@pytest.fixture
def model(moco, tmp_path) -> Path:
    """A copy of the trained model with its records."""
    return shutil.copytree(moco, tmp_path / "moco") / "model"


def on_one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def header(card: str) -> dict:
    """The metadata, as a reader of plain YAML finds it."""
    return yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))


def record(folder: Path, name: str = "training.json", **changes) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize("run", ["moco", "mil"])
def test_the_card_after_two_steps_is_the_expected_one(run, request):
    folder = request.getfixturevalue(run)
    card = (folder / "model/README.md").read_text()
    assert masked(card) == (EXPECTED / f"{run}.md").read_text()
    assert ModelCard(card).content == card  # the header is as huggingface_hub writes it
    assert str(folder.parent) not in card


def test_the_command_writes_the_same_card_with_a_name_and_a_license(moco, model, capsys):
    before = (moco / "model/README.md").read_text()
    generate([str(model.parent)])
    assert capsys.readouterr().out == f"{model}/README.md\n"
    assert (model / "README.md").read_text() == before
    generate([str(model), "--repo-id", "someone/scenes", "--license", "apache-2.0"])
    card = (model / "README.md").read_text()
    assert 'model="someone/scenes"' in card and "FOLDER_OR_HUB_ID" not in card
    assert header(card)["license"] == "apache-2.0"
    generate([str(model)])  # the license stays
    assert header((model / "README.md").read_text())["license"] == "apache-2.0"


def test_a_card_by_hand_stays(model):
    (model / "README.md").write_text("# Mine\n")
    with pytest.raises(SystemExit, match=r"README.md was written by hand; remove it"):
        generate([str(model)])
    write_training(model, {"made_by": "train.train_moco"})
    assert (model / "README.md").read_text() == "# Mine\n"


def test_a_run_without_card_is_pushed_with_one(model):
    (model / "README.md").unlink()
    assert (
        collect(model.parent, "someone/scenes").files["README.md"] == str(model_card(model, "someone/scenes")).encode()
    )
    (model / "training.json").unlink()  # as of a run of an earlier version: its results are in the run's folder
    card = collect(model.parent, "someone/scenes").files["README.md"].decode()
    assert "`train.train_moco`" in card and "precision at 1" in card and str(model.parent.parent) not in card


def test_what_was_not_recorded_has_no_line(model):
    whole = str(model_card(model))
    content = json.loads((model / "training.json").read_text())
    for name, line in (
        ("speed", "pairs a second"),
        ("training_minutes", "in less than a minute"),
        ("made_with", "torch:"),
        ("counts", "- films:"),
        ("frames", "did not decode"),
        ("evaluations", "chance (trivial)"),
        ("data", "mined:"),
        ("preprocessing", "keyframes_per_shot"),
    ):
        assert line in whole
        (model / "training.json").write_text(json.dumps({key: content[key] for key in content if key != name}))
        assert line not in str(model_card(model)), name
    (model / "training.json").unlink()
    (model.parent / "results.json").unlink()
    card = str(model_card(model))
    assert "## How it was trained" not in card and "Nothing was measured, or nothing was recorded" in card
    assert "None" not in card and "Undefined" not in card


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_on_a_models_card(model, text):
    training = json.loads((model / "training.json").read_text())
    entry = training["evaluations"].pop("retrieval on labeled scenes")
    evaluations = {text: {**entry, "labels": text, "trivial": {text: {"precision_at_1": 0.5}}}}
    changed = {"recipe": {**training["recipe"], "model": text, text: text}, "evaluations": evaluations, "license": text}
    changed |= {"scene_pairs_by_source": {text: 3}, "counts": {text: 1}, "preprocessing": {"shots": {text: text}}}
    plain = str(model_card(model))
    record(model, **changed)
    card = str(model_card(model))
    found, before = header(card), header(plain)
    assert found.keys() - {"base_model"} == before.keys()
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == on_one_line(text)
    assert {**found, "model-index": 0} == {**before, "model-index": 0}
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"(?ms)^```\w*$.*?^```$", "", body)
    assert re.findall(r"<(?!!-- Written by Movies2Scenes)", outside) == []
    assert re.findall(r"(?<!\\)[\[\]]", outside) == [] and "alert(1)</script>" not in outside
    assert re.findall(r"(?m)^#+ .*", outside) == re.findall(r"(?m)^#+ .*", plain.split("\n---\n", 1)[1])
    assert body.count("\n```") == plain.split("\n---\n", 1)[1].count("\n```")
    columns = {line.count("|") - line.count(r"\|") for line in outside.splitlines() if line.startswith("|")}
    assert columns == {4}
    for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", body):
        assert isinstance(yaml.safe_load(block), dict)


def test_a_hostile_film_stays_text_on_a_datasets_card(tmp_path):
    for number, text in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        dataset = FilmDataset(folder, "movies")
        dataset.begin({"made_by": text, text: text})
        row = {"movie_id": text, "title": text, "year": 0, "genres": [text], "synopsis": text, "video": ""}
        dataset.write_all([row], sources=[{"name": text, "films": 1}], license=text)
        card = str(dataset_card(folder, "someone/films"))
        assert header(card) == {"pretty_name": "someone/films", "tags": ["movies2scenes", "movies"]}
        body = card.split("\n---\n", 1)[1]
        rows = [line for line in body.splitlines() if line.startswith("| ")]
        assert {line.count("|") - line.count(r"\|") for line in rows} == {5} and len(rows) == 8
        shown = html.unescape(re.sub(r"\\(.)", r"\1", rows[2].split(" | ")[3].removesuffix(" |")))
        assert shown == on_one_line(text)
        outside = re.sub(r"(?ms)^```\w*$.*?^```$", "", body)
        assert re.findall(r"<(?!!-- Written by Movies2Scenes)", outside) == []
        assert re.findall(r"(?m)^#+ .*", outside) == ["# someone/films", "## movies", "## Limits"]


def test_values_cannot_leave_their_place():
    assert escaped("# _x_ __y__ a_b ~z~") == r"\# \_x\_ \_\_y\_\_ a_b \~z\~"
    assert escaped("+ x") == r"\+ x" and escaped(-3) == "-3"
    assert escaped("<b>|`x`\n[y](z)") == r"&lt;b&gt;\|\`x\` \[y\](z)"
    assert len(escaped("x" * 5000)) == 200
    assert settings_lines({"a\nb: 1": "x\n---\ny"}) == 'a_b__1: "x\\n---\\ny"'
    assert without_paths({"/a/b.csv": ["/c/d", Path("/e/f"), "g/h", 1]}) == {"b.csv": ["d", "f", "g/h", 1]}
    assert without_paths("IMDb, /data/films/a.tsv, https://x.org/y/z") == "IMDb, a.tsv, https://x.org/y/z"
    assert without_paths("see file:///data/me/a.mp4 or C:\\Users\\me\\b.mp4") == "see a.mp4 or b.mp4"
    assert without_paths({"/a/x.csv": 1, "/b/x.csv": 2}) == {"x.csv": 1, "x.csv (2)": 2}
    assert settings_lines({"/data/me/x.csv": 1}) == "x.csv: 1"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("training.json", {"recipe": None}),
        ("training.json", {"recipe": {}}),
        ("training.json", {"evaluations": []}),
        ("training.json", {"evaluations": {"task": {}}}),
        ("training.json", {"counts": [1]}),
        ("evaluations.json", {"task": {"figure": "accuracy"}}),
        ("evaluations.json", {"task": 1}),
    ],
)
def test_records_of_another_form_are_told_in_a_line(name, changes, model, capsys):
    if name == "evaluations.json":
        changes = (
            {task: {**entry, "revision": model_revision(str(model), None)} for task, entry in changes.items()}
            if isinstance(changes["task"], dict)
            else changes
        )
    record(model, name, **changes)
    with pytest.raises(CardError, match=r"a record lacks what its card needs \(.*\); run the command"):
        model_card(model)


def evaluation(mean: float) -> dict:
    figure = {"accuracy": {"mean": mean, "deviation": 0.01, "interval": [mean - 0.1, mean + 0.1]}}
    return {
        "figure": "accuracy",
        "labels": "lvu_1.0",
        "scenes": {"train": 9, "validation": 3, "test": 5},
        "test_films": 5,
        "missing": {"train": 0, "validation": 0, "test": 2},
        "probes": {"mlp": {"figures": figure}},
        "trivial": {"majority": {"accuracy": 0.25}},
    }


def test_results_of_these_weights_come_onto_the_card_and_into_eval_results(model):
    revision = model_revision(str(model), None)
    add_evaluations(model, revision, {"lvu/scene": evaluation(0.5)}, hub_dataset="someone/lvu")
    add_evaluations(model, revision, {"lvu/director": evaluation(0.75)})
    card = (model / "README.md").read_text()
    assert "lvu/scene, labels of lvu_1.0, 5 test scenes; 2 labeled scenes could not be had:" in card
    assert "| mlp | 0.500 ± 0.010 (0.400 to 0.600) |" in card and "| majority (trivial) | 0.250 |" in card
    results = {each.task_name: each for each in ModelCard(card).data.eval_results}
    assert results["lvu/scene"].metric_value == 0.5 and results["lvu/scene"].dataset_type == "someone/lvu"
    assert results["lvu/director"].metric_args == {"interval_95": [0.65, 0.85], "trivial": {"majority": 0.25}}
    leaderboard = model / ".eval_results/someone_lvu.yaml"
    expected = [{"dataset": {"id": "someone/lvu", "task_id": "scene"}, "value": 0.5}]
    assert yaml.safe_load(leaderboard.read_text()) == expected
    assert ".eval_results/someone_lvu.yaml" in collect(model, "someone/scenes").files

    with pytest.raises(CardError, match=rf"is revision {revision}, but revision other was measured"):
        add_evaluations(model, "other", {"lvu/scene": evaluation(0.9)})
    record(model, "evaluations.json", **{"lvu/scene": {**evaluation(0.9), "revision": "of other weights"}})
    assert "lvu/scene" not in str(model_card(model)) and "lvu/director" in str(model_card(model))


def figure(results: dict, name: str) -> dict:
    return results["tasks"]["photographs"]["probes"][name]["figures"]["accuracy"]


def test_evaluation_commands_have_entries_for_cards(model):
    results = json.loads((Path(eval.__file__).parent / "results/tasks/scene15-tiny.json").read_text())
    figures = {f"raw/{name}": {"mean": 0.4, "standard_error": 0.02} for name in ("precision_at_1", "precision_at_5")}
    figures |= {
        name.replace("raw", space): each for space in ("centered", "whitened") for name, each in figures.items()
    }
    measured = {"figures": {**figures, "probe": {"mean": 0.7, "standard_error": 0.1}}, "chance": 0.0625}
    measured["counts"] = {"queries": 40, "films": 8, "training_scenes": 90}
    measured["settings"] = {"position_interpolation": "mosaic", "shot_space": "raw", "bf16": True}
    entries = {**probing.card_entries(results), **world_retrieval.card_entry(measured, "world")}
    add_evaluations(model, model_revision(str(model), None), entries)
    card = (model / "README.md").read_text().splitlines()
    mlp, linear = figure(results, "mlp"), figure(results, "linear")
    interval, of_linear = mlp["interval"], linear["interval"]
    for line in (
        "photographs, labels of scene15, 525 test scenes:",
        "Embeddings: encoder scene, vector pooler_output, dtype float32, media pictures, read evenly, "
        "shots per scene 9.",
        f"| mlp | {mlp['mean']:.3f} ± {mlp['deviation']:.3f} ({interval[0]:.3f} to {interval[1]:.3f}) |",
        f"| linear | {linear['mean']:.3f} ({of_linear[0]:.3f} to {of_linear[1]:.3f}) |",
        "| majority (trivial) | 0.067 |",
        "place retrieval, labels of world, 40 test scenes of 8 films:",
        "Embeddings: position interpolation mosaic, bf16 True.",
        "| whitened | 0.400 (standard error 0.020) | 0.400 (standard error 0.020) |",
        "| chance (trivial) | 0.062 | 0.062 |",
        "| logistic regression | 0.700 (standard error 0.100) |",
    ):
        assert line in card, line


def test_an_exported_classifier_has_a_card_of_its_probe(model):
    results = json.loads((Path(eval.__file__).parent / "results/tasks/scene15-tiny.json").read_text())
    config = json.loads((model / "config.json").read_text())
    labels = {"0": "sex", "1": "none", "2": "<i>other</i>"}
    changed = {"architectures": ["M2SSceneForClassification"], "id2label": labels}
    (model / "config.json").write_text(json.dumps({**config, **changed}))
    write_training(model, probing.training_record("photographs", results))
    card = (model / "README.md").read_text()
    assert "A classifier of scenes" in card and "sex, none, &lt;i&gt;other&lt;/i&gt;." in card
    revision = results["encoder"]["settings"]["revision"]
    assert f"The encoder is m2s-clip-tiny (revision {revision}); `eval.probe` trained the network on it." in card
    assert "- train: 390 labeled scenes of scene15" in card and "hidden_size: 512" in card
    assert (
        "Its classes are of moderation." in card and f"| mlp, all seeds | {figure(results, 'mlp')['mean']:.3f}" in card
    )


def test_every_kind_of_dataset_has_a_card_that_knows_its_columns():
    assert STAGES.keys() == SCHEMAS.keys()
    for kind, (_, _, meanings) in STAGES.items():
        assert list(meanings) == list(SCHEMAS[kind].features), kind


def test_a_catalogs_card_has_its_sources_and_no_places(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "Zz Film (2001).mp4").write_bytes(b"")
    table = tmp_path / "films.csv"
    table.write_text("movie_id,title,year\ntt0000001,<b>Bold</b>,1999\n")
    words = ["--videos", videos, "--metadata", table, "--license", "CC BY 4.0", "--output", tmp_path / "movies"]
    make_catalog([str(word) for word in words])
    generate([str(tmp_path / "movies")])
    card = (tmp_path / "movies/README.md").read_text()
    assert "- license of the films, as recorded: CC BY 4.0" in card and "<b>" not in card
    assert "films.csv" in card and "- video files, unmatched: 1" in card
    assert str(tmp_path) not in card and "(2001).mp4" not in card


def test_a_dataset_card_counts_what_was_left_out(tmp_path):
    folder = tmp_path / "scene_pairs"
    write_pairs(folder)
    content = json.loads((folder / "m2s.json").read_text())
    failed = {f"tt{n}": "fewer than 9 shots" for n in range(3)} | {"tt9": "not listed in --films"}
    guard = {"lists": {"/data/lvu_1.0/scene/test.csv": 7}, "num_listed": 7, "excluded": {"by id": 1}}
    (folder / "m2s.json").write_text(json.dumps({**content, "failed": failed, "leak_guard": guard, "film_pairs": 12}))
    generate([str(folder)])
    card = (folder / "README.md").read_text()
    pairs = FilmDataset(folder, "scene_pairs").read().to_pylist()
    films = len({pair[side] for pair in pairs for side in ("movie_id_a", "movie_id_b")})
    for line in (
        f"39 rows of {films} films; a row is two scenes of similar films. Made by `data_scripts.mine_scene_pairs`.",
        "- film pairs: 12",
        "- 3 films left out: fewer than 9 shots",
        "- 1 films left out: not listed in --films",
        "scene/test.csv (7);",
        "1 found by id and kept out of training.",
        'space: "features"',
    ):
        assert line in card.splitlines(), line
    assert "/data/" not in card
    digest = re.search(r"digest of the shards: (\w{16})", card)[1]
    assert digest == shards_digest(FilmDataset(folder, "scene_pairs"))
    shard = folder / "data/train-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b" ")
    assert digest != shards_digest(FilmDataset(folder, "scene_pairs"))


def test_code_on_the_card_runs(model, tmp_path):
    film = make_video(tmp_path / "film.mp4", [24] * 12)
    generate([str(model)])
    code = re.findall(r"(?ms)^```python\n(.*?)^```$", (model / "README.md").read_text())
    assert len(code) == 1
    lines = code[0].replace("FOLDER_OR_HUB_ID", str(model)).replace("film.mp4", str(film))
    printed = []
    exec(compile(lines, "card", "exec"), {"print": lambda *values: printed.append(values)})
    assert len(printed) == 2 and printed[0][2] == (32,)
