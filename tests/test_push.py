"""`m2s push` and loading from a Hub on this machine: what goes up, what comes back, and what is refused.

`huggingface_hub` reads its endpoint when it is imported. One process of its own, the fixture `client`, therefore does
the jobs of most tests; its retries do not wait.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import Hub, commit_hash
from safetensors.torch import load_file, save_file
from test_datasets_hub import rows_of
from test_hub import COMMON, WITHOUT_PACKAGE, example  # noqa: F401 (a fixture)
from transformers import CLIPVisionModelWithProjection
from transformers.utils import is_torchvision_available

import modeling_m2s
from m2s.main import main
from modeling_m2s import (
    M2SMovieSimilarityConfig,
    M2SMovieSimilarityModel,
    M2SSceneEnsembleModel,
    M2SSceneForClassification,
    M2SSceneModel,
)
from modeling_m2s.cards_m2s import add_evaluations, model_card, write_card
from modeling_m2s.pretrained_m2s import model_revision
from modeling_m2s.push_m2s import collect
from modeling_m2s.storage_m2s import SCHEMAS, FilmDataset

PACKAGE = Path(modeling_m2s.__file__).parent
CODE = ["configuration_m2s.py", "images_m2s.py", "modeling_m2s.py", "processing_m2s.py", "video_processing_m2s.py"]
SHARDS = ["data/train-00000.parquet", "data/train-00001.parquet"]
FILMS = {"tt1": 2, "tt2": 3}  # shots by film
CLIENT = """
import contextlib, io, json, os, sys, time
time.sleep = lambda seconds: None
import datasets, torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from m2s.main import main
from modeling_m2s.pretrained_m2s import load_encoder
from modeling_m2s.storage_m2s import FilmDataset

datasets.disable_progress_bars()

def m2s(*command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(command)
    told = [line for line in err.getvalue().splitlines() if line.startswith("m2s: ") or "Traceback" in line]
    return status, out.getvalue(), told

def load(name, example):
    try:
        encoder, _, revision = load_encoder(name)
    except Exception as error:
        return type(error).__name__, str(error)
    with torch.no_grad():
        found = encoder(load_file(example)["pixel_values"]).scene_embeds
    return revision, encoder.config.name_or_path, found.tolist()

def rows(name, kind, config=None):
    loaded = datasets.load_dataset(name, config, split="train").with_format("arrow")[:].to_pylist()
    folder = snapshot_download(name, repo_type="dataset")
    dataset = FilmDataset(os.path.join(folder, config or ""), kind)
    assert dataset.check() == [] and dataset.read().to_pylist() == loaded
    return repr(loaded)

for line in sys.stdin:
    job, token, arguments = json.loads(line)
    os.environ.update({"HF_TOKEN": token} if token else {})
    if not token:
        os.environ.pop("HF_TOKEN", None)
    print(json.dumps(globals()[job](*arguments)), flush=True)
"""
UNREACHABLE = """
import time

time.sleep = lambda seconds: None
from m2s.main import main
from modeling_m2s.pretrained_m2s import ModelError, load_encoder
encoder, _, revision = load_encoder(name)
with torch.no_grad():
    torch.testing.assert_close(encoder(example["pixel_values"]).scene_embeds, example["scene_embeds"])
assert load_encoder(f"{name}@{revision}")[2] == revision
try:
    load_encoder("someone/other")
except ModelError as error:
    print(error)
sys.exit(main(["push", sys.argv[3], "someone/other"]))
"""

VIDEO_WITHOUT_PACKAGE = """
import sys
import numpy
sys.modules["modeling_m2s"] = None
from transformers import AutoVideoProcessor
processor = AutoVideoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules.")
assert processor([numpy.zeros((2, 50, 60, 3), "uint8")])["padding_mask_videos"].tolist() == [[True, True]]
"""


class Client:
    """A process that finds the Hub, and does one job after the other."""

    def __init__(self, hub: Hub, cache: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", CLIENT],
            env={**os.environ, **hub.environment(cache), "TQDM_DISABLE": "1"},
            cwd=cache,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, job: str, *arguments: str | Path, token: str = "hf_anything"):
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([job, token, list(map(str, arguments))]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def push(self, *arguments: str | Path, token: str = "hf_anything") -> str:
        """The commit's address; the command must succeed."""
        status, out, told = self.do("m2s", "push", *arguments, token=token)
        assert (status, told) == (0, []), told
        return out.splitlines()[-1]

    def refused(self, *arguments: str | Path, token: str = "hf_anything") -> str:
        """The one line that the command, which must fail, tells."""
        status, _, told = self.do("m2s", "push", *arguments, token=token)
        assert status == 1 and len(told) == 1, told
        return told[0].removeprefix("m2s: error: ")


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def shared_hub():
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def client(shared_hub, tmp_path_factory):
    client = Client(shared_hub, tmp_path_factory.mktemp("cache"))
    yield client
    client.process.stdin.close()
    client.process.wait(timeout=60)


@pytest.fixture
def model(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "tiny")


def other_weights(folder: Path) -> None:
    """Halve the projection, and so the embeddings."""
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"] /= 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_dataset(folder: Path, kind: str, films: dict[str, int] = FILMS, films_per_shard: int = 1) -> Path:
    dataset = FilmDataset(folder, kind)
    dataset.schema = replace(dataset.schema, films_per_shard=films_per_shard)
    dataset.begin({"made_by": "test"})
    for movie_id, num_shots in films.items():
        dataset.write_film(movie_id, rows_of(kind, movie_id, num_shots), {})
    dataset.finish(films, {})
    return folder


def stored_rows(folder: Path, kind: str) -> str:
    return repr(FilmDataset(folder, kind).read().to_pylist())


def run(script: str, hub: Hub, cache: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-I", "-c", script, *arguments],
        env={**os.environ, **hub.environment(cache), **environment},
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_pushed_model_runs_without_this_package(model, example, client, shared_hub, tmp_path):  # noqa: F811
    client.push(model, "someone/remote")
    saved = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert set(shared_hub.repos["someone/remote"]) == {"README.md", *CODE, *saved}
    card = shared_hub.repos["someone/remote"]["README.md"].decode()
    assert card == str(model_card(model, "someone/remote")) and "Nothing was measured" in card
    finished = run(COMMON + WITHOUT_PACKAGE, shared_hub, tmp_path, "someone/remote", example)
    assert finished.returncode == 0, finished.stderr
    finished = run(COMMON + WITHOUT_PACKAGE, shared_hub, tmp_path, "someone/remote", example, HF_HUB_OFFLINE="1")
    assert finished.returncode == 0, finished.stderr
    if is_torchvision_available():
        finished = run(VIDEO_WITHOUT_PACKAGE, shared_hub, tmp_path, "someone/remote")
        assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "environment, told",
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it"),
        (
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "someone/other: no connection to the Hub, or it broke off ([Errno 111] Connection refused); "
            "the same command completes the upload",
        ),
    ],
)
def test_without_a_network_the_cache_serves(environment, told, model, example, hub, tmp_path):  # noqa: F811
    hub.add("someone/model", model)
    script = "from modeling_m2s.pretrained_m2s import load_encoder; load_encoder(name)"
    assert run(COMMON + script, hub, tmp_path, "someone/model", example).returncode == 0
    finished = run(COMMON + UNREACHABLE, hub, tmp_path, "someone/model", example, model, **environment)
    assert finished.stdout.splitlines()[0] == (
        "model someone/other cannot be loaded: there is no such folder, and the Hub cannot be reached and its cache "
        "does not hold it"
    )
    assert [line for line in finished.stderr.splitlines() if line.startswith("m2s")] == [f"m2s: error: {told}"]
    assert finished.returncode == 1 and "Traceback" not in finished.stderr


def test_a_revision_can_be_pinned(model, example, client, shared_hub):  # noqa: F811
    expected = load_file(example)["scene_embeds"]
    first = client.push(model, "someone/pinned").rpartition("/")[2]
    other_weights(model)
    second = client.push(model, "someone/pinned").rpartition("/")[2]
    model.joinpath("README.md").write_text("# Of a branch\n")
    third = client.push(model, "someone/pinned", "--revision", "try/this").rpartition("/")[2]
    assert len({first, second, third}) == 3 and commit_hash(shared_hub.repos["someone/pinned"]) == second
    for name, commit, factor in (
        ("someone/pinned", second, 0.5),
        (f"someone/pinned@{first}", first, 1),
        ("someone/pinned@main", second, 0.5),
        ("someone/pinned@try/this", third, 0.5),
    ):
        found = client.do("load", name, example)
        assert found[:2] == [commit, name]
        torch.testing.assert_close(torch.tensor(found[2]), factor * expected)
    assert client.do("load", "someone/pinned@never", example) == [
        "ModelError",
        "model someone/pinned@never cannot be loaded: the repository has no revision never",
    ]


def test_who_may_not_is_told_so(model, example, client, shared_hub):  # noqa: F811
    shared_hub.refused |= {"hf_wrong": 401, "hf_reader": 403}
    assert client.refused(model, "someone/mine", token="") == "no token for the Hub: run hf auth login, or set HF_TOKEN"
    for token, status in shared_hub.refused.items():
        assert client.refused(model, "someone/mine", token=token) == (
            f"someone/mine: the Hub refuses the token ({status}); one with write access to the repository is needed: "
            "run hf auth login, or set HF_TOKEN"
        )
    assert "someone/mine" not in shared_hub.repos

    client.push(model, "someone/private", "--private")
    assert shared_hub.private == {"someone/private"}
    assert len(client.do("load", "someone/private", example)) == 3
    shared_hub.add("someone/public", model)
    before = dict(shared_hub.repos["someone/public"])
    assert client.refused(model, "someone/public", "--private") == (
        "someone/public exists and is public; make it private on its page first, or leave out --private"
    )
    assert shared_hub.repos["someone/public"] == before
    shared_hub.private.add("someone/public")
    reason = "there is no such folder or repository, or the repository is private: run hf auth login, or set HF_TOKEN"
    for name, token in (("someone/public", "hf_wrong"), ("someone/nothing", "hf_anything")):
        told = client.do("load", name, example, token=token)
        assert told == ["ModelError", f"model {name} cannot be loaded: {reason}"]


def test_an_upload_that_broke_off_is_completed(client, shared_hub, tmp_path):
    folder = write_dataset(tmp_path / "features", "shot_features")
    shared_hub.requests.clear()
    for dropped, arrived in (({"PUT"}, 0), ({"POST"}, 2)):
        shared_hub.dropped = dropped
        try:
            told = client.refused(folder, "someone/broken")
        finally:
            shared_hub.dropped = set()
        assert told.startswith("someone/broken: no connection to the Hub, or it broke off (")
        assert told.endswith("); the same command completes the upload")
        assert shared_hub.repos["datasets/someone/broken"] == {}
        assert len(shared_hub.requests) == arrived
    client.push(folder, "someone/broken")
    assert len(shared_hub.requests) == 2  # nothing was sent again
    assert len(shared_hub.repos["datasets/someone/broken"]) == 4


def test_a_half_downloaded_file_is_completed(model, example, client, shared_hub):  # noqa: F811
    shared_hub.add("someone/half", model)
    shared_hub.dropped = {"GET"}
    try:
        kind, told = client.do("load", "someone/half", example)
    finally:
        shared_hub.dropped = set()
    assert kind == "ModelError" and "\n" not in told
    assert told.startswith("model someone/half cannot be loaded: the download broke off (")
    found = torch.tensor(client.do("load", "someone/half", example)[2])
    torch.testing.assert_close(found, load_file(example)["scene_embeds"])


class Poison:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_never_loaded_and_never_pushed(model, example, client, shared_hub, tmp_path):  # noqa: F811
    trace = tmp_path / "trace"
    poison = pickle.dumps(Poison(trace))
    pickle.Unpickler(io.BytesIO(poison)).load().close()
    assert trace.exists()  # the poison works
    trace.unlink()
    weights = (model / "model.safetensors").read_bytes()
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        (model / name).write_bytes(poison)
    client.push(model, "someone/clean")
    assert not [name for name in shared_hub.repos["someone/clean"] if name.endswith((".bin", ".pt"))]

    (model / "model.safetensors").unlink()
    told = "weights only as a pickle (pytorch_model.bin), which can run code"
    assert client.refused(model, "someone/poison") == f"{model}: {told}; save them as safetensors"
    shared_hub.add("someone/poison", model)
    never = f"it has its {told} and is never loaded; ask its author for model.safetensors"
    for name in ("someone/poison", str(model)):
        assert client.do("load", name, example) == ["ModelError", f"model {name} cannot be loaded: {never}"]

    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"visual_projection.weight": "pytorch_model.bin"}})
    )
    named = "it names 'pytorch_model.bin' as a file of its weights; only safetensors beside it are loaded"
    shared_hub.add("someone/index", model)
    for name in ("someone/index", str(model)):
        assert client.do("load", name, example) == ["ModelError", f"model {name} cannot be loaded: {named}"]

    (model / "model.safetensors").write_bytes(weights)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "transformers_weights": "pytorch_model.bin"}))
    assert client.do("load", model, example) == ["ModelError", f"model {model} cannot be loaded: {named}"]
    assert not trace.exists()


def test_names_that_lead_elsewhere_do_no_harm(model, example, client, shared_hub, tmp_path):  # noqa: F811
    secret = tmp_path / "secret.safetensors"
    shutil.move(model / "model.safetensors", secret)
    index = {"metadata": {}, "weight_map": {"visual_projection.weight": "../secret.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert client.do("load", model, example)[1].endswith(
        "it names '../secret.safetensors' as a file of its weights; only safetensors beside it are loaded"
    )
    (model / "model.safetensors").symlink_to(secret)
    assert client.refused(model, "someone/link") == (
        f"{model}/model.safetensors: a link to a file outside {model}; put a copy there"
    )

    folder = write_dataset(tmp_path / "features", "shot_features")
    record = json.loads((folder / "m2s.json").read_text())
    record["shards"][0]["file"] = "../../secret.safetensors"
    (folder / "m2s.json").write_text(json.dumps(record))
    assert client.refused(folder, "someone/record") == (
        f"{folder}/m2s.json: '../../secret.safetensors' is no name of a shard"
    )
    shutil.rmtree(folder)
    write_dataset(folder, "shot_features")
    card = folder / "README.md"
    card.symlink_to(secret)
    assert client.refused(folder, "someone/card") == f"{card}: a link to a file outside {folder}; put a copy there"
    card.unlink()
    card.write_text("---\ntags: !!python/object/apply:os.mkdir [made]\n---\n")
    assert client.refused(folder, "someone/card").startswith(f"{card}: its header cannot be read (")
    card.write_text("---\nconfigs:\n- config_name: default\n  data_files: ../../*.safetensors\n---\n")
    client.push(folder, "someone/card")
    assert sorted(shared_hub.repos["datasets/someone/card"]) == [
        "README.md",
        *SHARDS,
        "m2s.json",
    ]
    assert not {"someone/link", "datasets/someone/record"} & set(shared_hub.repos)


def test_features_come_back_as_they_were(client, shared_hub, tmp_path):
    folder = write_dataset(tmp_path / "features", "shot_features")
    (folder / ".m2s-left-over.tmp").write_text("of a killed run")
    client.push(folder, "someone/features")
    files = shared_hub.repos["datasets/someone/features"]
    assert sorted(files) == ["README.md", *SHARDS, "m2s.json"]
    card = files["README.md"].decode()
    assert card.startswith("---\npretty_name: someone/features\ntags:\n- movies2scenes\n- shot_features\n---\n")
    assert '"someone/features", split="train")' in card and "2 rows of 2 films; a row is a film" in card
    assert client.do("rows", "someone/features", "shot_features") == stored_rows(folder, "shot_features")

    shutil.rmtree(folder)
    write_dataset(folder, "shot_features", {"tt2": 3})
    client.push(folder, "someone/features")
    assert "data/train-00001.parquet" not in files
    assert client.do("rows", "someone/features", "shot_features") == stored_rows(folder, "shot_features")


def test_datasets_of_every_stage_come_back_from_one_repository(client, shared_hub, tmp_path):
    catalog = tmp_path / "catalog"
    kinds = [kind for kind in SCHEMAS if kind not in ("shots", "scene_embeddings")]  # shots, with keyframes: below
    for kind in kinds:
        write_dataset(catalog / kind, kind, films_per_shard=2)
    scene = {"scene_id": "tt1/0", "movie_id": "tt1", "first_shot": 0, "num_shots": 2, "start_seconds": 0.0}
    scene |= {"end_seconds": 1001 / 24000, "embedding": [0.1, -2.5], "model": "m2s-clip-tiny", "revision": "r"}
    dataset = FilmDataset(catalog / "scene_embeddings", "scene_embeddings")
    dataset.begin({"revision": "r"})
    dataset.write_all([scene])
    client.push(catalog, "someone/catalog")
    card = shared_hub.repos["datasets/someone/catalog"]["README.md"].decode()
    for kind in (*kinds, "scene_embeddings"):
        assert f"\n## {kind}\n" in card and f"config_name: {kind}\n" in card
        found = client.do("rows", "someone/catalog", kind, kind)
        assert found == stored_rows(catalog / kind, kind)


def test_keyframes_go_up_only_when_asked_for(client, shared_hub, tmp_path):
    index = tmp_path / "index"
    for kind in ("shots", "films"):
        write_dataset(index / kind, kind)
    (index / "contact_sheets").mkdir()
    (index / "contact_sheets/tt1.jpg").write_bytes(b"a picture")
    for folder in (index, index / "shots"):
        assert client.refused(folder, "someone/index") == (
            f"{index}/shots holds keyframes, which are pictures of the films: whoever publishes them needs the right "
            "to. If you have it, give --with-keyframes (and --private for yourself alone)"
        )
    assert "datasets/someone/index" not in shared_hub.repos
    client.push(index, "someone/index", "--with-keyframes")
    assert sorted(shared_hub.repos["datasets/someone/index"]) == [
        "README.md",
        *(f"{kind}/{name}" for kind in ("films", "shots") for name in (*SHARDS, "m2s.json")),
    ]
    for kind in ("shots", "films"):
        assert client.do("rows", "someone/index", kind, kind) == stored_rows(index / kind, kind)


def test_a_dry_run_lists_what_would_go_up(model, client, shared_hub, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    (output / "checkpoints").mkdir(parents=True)
    shutil.move(model, output / "model")
    for name in ("recipe.json", "results.json", "log.jsonl", "checkpoints/recipe.json", "model/LICENSE"):
        (output / name).write_text("{}")
    for name in (".cache.json", "optimizer.pt", "trainer_state.bin", "curves.png", "own.py"):
        (output / "model" / name).write_text("not to be pushed")
    (output / "model/checkpoint-5").mkdir()
    (output / "model/checkpoint-5/model.safetensors").write_text("not to be pushed")
    (output / "model/README.md").write_text("# Card\n")
    client.push(output, "someone/run")
    saved = {path.name: path.stat().st_size for path in (output / "model").iterdir()}
    arrived = {path: len(data) for path, data in shared_hub.repos["someone/run"].items()}
    expected = {
        "1_Pooling/config.json": (output / "model/1_Pooling/config.json").stat().st_size,
        "LICENSE": 2,
        "README.md": 7,
        "config.json": arrived["config.json"],
        "configuration_m2s.py": (PACKAGE / "configuration_m2s.py").stat().st_size,
        "images_m2s.py": (PACKAGE / "images_m2s.py").stat().st_size,
        "model.safetensors": saved["model.safetensors"],
        "modeling_m2s.py": (PACKAGE / "modeling_m2s.py").stat().st_size,
        "modules.json": saved["modules.json"],
        "preprocessor_config.json": saved["preprocessor_config.json"],
        "processing_m2s.py": (PACKAGE / "processing_m2s.py").stat().st_size,
        "processor_config.json": arrived["processor_config.json"],
        "recipe.json": 3,
        "results.json": 3,
        "sentence_bert_config.json": saved["sentence_bert_config.json"],
        "video_processing_m2s.py": (PACKAGE / "video_processing_m2s.py").stat().st_size,
    }
    assert arrived == expected
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["push", str(output), "someone/run", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "".join(f"{size:>15,}  {path}\n" for path, size in expected.items())
        + f"{sum(expected.values()):>15,}  bytes in 16 files of a model\nnothing was uploaded (--dry-run)\n"
    )


def test_the_card_that_goes_up_has_the_repositorys_name_and_these_weights_figures(model, client, shared_hub):
    figures = {"mlp": {"figures": {"accuracy": {"mean": 0.987}}}}
    entry = {"figure": "accuracy", "labels": "lvu", "scenes": {"test": 5}, "probes": figures, "trivial": {}}
    add_evaluations(model, model_revision(str(model), None), {"lvu/scene": entry}, hub_dataset="someone/lvu")
    assert "FOLDER_OR_HUB_ID" in (model / "README.md").read_text()
    client.push(model, "someone/figures")
    pushed = shared_hub.repos["someone/figures"]
    card = pushed["README.md"].decode()
    assert "FOLDER_OR_HUB_ID" not in card and "# someone/figures\n" in card and "0.987" in card
    assert ".eval_results/someone_lvu.yaml" in pushed and "modules.json" in pushed

    other_weights(model)
    (model / "modules.json").unlink()
    client.push(model, "someone/figures")
    assert "0.987" not in pushed["README.md"].decode()
    assert not {".eval_results/someone_lvu.yaml", "modules.json"} & pushed.keys()
    write_card(model)
    assert not list((model / ".eval_results").iterdir())


def test_nothing_of_this_machine_goes_up(model, tmp_path):
    """Files of other kinds stay; a run's records lose their folders and the command."""
    output = tmp_path / "run"
    shutil.copytree(model, output / "model")
    for name in ("client_secret.json", "notes.txt", "trainer_state.json", "own.safetensors.bak"):
        (output / "model" / name).write_text("{}")
    (output / "recipe.json").write_text(json.dumps({"model": str(model), "seed": 0}))
    (output / "results.json").write_text(json.dumps({"command": f"python --model {model}", "steps": 2}))
    files = collect(output, "someone/run").files
    assert not {"client_secret.json", "notes.txt", "trainer_state.json", "own.safetensors.bak"} & files.keys()
    assert json.loads(files["recipe.json"]) == {"model": "tiny", "seed": 0}
    assert json.loads(files["results.json"]) == {"steps": 2}


@pytest.mark.parametrize("kind", ["ensemble", "movie_similarity", "classifier", "clip"])
def test_every_model_goes_up_with_its_own_code(kind, tiny_folder, tmp_path):
    scene_model = M2SSceneModel.from_pretrained(tiny_folder)
    saved = {
        "ensemble": lambda: M2SSceneEnsembleModel.from_encoders([scene_model], ["genre"]),
        "movie_similarity": lambda: M2SMovieSimilarityModel(M2SMovieSimilarityConfig(feature_dim=4, hidden_dim=4)),
        "classifier": lambda: M2SSceneForClassification(scene_model.config),
        "clip": lambda: CLIPVisionModelWithProjection(scene_model.config.vision_config),
    }
    saved[kind]().save_pretrained(tmp_path)
    files = collect(tmp_path, "someone/model").files
    code = {
        "ensemble": [*CODE, "ensemble_m2s.py"],
        "movie_similarity": ["configuration_m2s.py", "movie_similarity_m2s.py"],
        "classifier": CODE,
        "clip": [],
    }
    assert sorted(name for name in files if name.endswith(".py")) == sorted(code[kind])
    names = {} if kind == "clip" else json.loads(files["config.json"])["auto_map"]
    for auto, name in names.items():
        module, _, found = name.rpartition(".")
        assert f"{module}.py" in files and hasattr(modeling_m2s, found), auto
    assert ("AutoModelForVideoClassification" in names) == (kind == "classifier")


def test_what_cannot_be_pushed_is_told_in_one_line(model, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    FilmDataset(unfinished, "shot_features").begin({})
    cut = write_dataset(tmp_path / "cut", "shot_features")
    shard = cut / "data/train-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    lost = write_dataset(tmp_path / "lost", "shot_features")
    (lost / "data/train-00001.parquet").unlink()
    bert, empty = tmp_path / "bert", tmp_path / "empty"
    bert.mkdir(), empty.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    name = "is no name of a repository; it reads USER/NAME, of letters, digits, - _ ."
    for folder, repo_id, told in (
        (model, "some one/model", f"'some one/model' {name}"),
        (model, "../model", f"'../model' {name}"),
        (tmp_path / "none", "a/b", f"{tmp_path}/none: no such folder"),
        (empty, "a/b", f"{empty}: neither a model (config.json) nor a dataset of a stage (m2s.json)"),
        (
            bert,
            "a/b",
            f"{bert}: a model of type 'bert'; pushed are m2s_scene, m2s_scene_ensemble, m2s_movie_similarity",
        ),
        (unfinished, "a/b", f"{unfinished}: not finished; run the command that makes it again"),
        (cut, "a/b", f"{shard}: holds no films ("),
        (lost, "a/b", f"{lost}/data/train-00001.parquet: missing, but the record names it"),
    ):
        assert main(["push", str(folder), repo_id, "--dry-run"]) == 1
        found = capsys.readouterr()
        assert found.out == "" and found.err.startswith(f"m2s: error: {told}") and found.err.count("\n") == 1, found
