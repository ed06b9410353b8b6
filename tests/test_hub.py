"""Auto classes, remote code, and a round trip through a Hub on this machine.

What must not see this process's imports runs in a process of its own, which reads `example.safetensors`: frames, and
what the tiny scene encoder made of them here.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import Hub, commit_hash
from make_videos import make_video
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor

import modeling_m2s
from modeling_m2s import M2SSceneConfig, M2SSceneForClassification, M2SSceneModel, M2SSceneProcessor
from modeling_m2s.storage_m2s import FilmDataset

PACKAGE = Path(modeling_m2s.__file__).parent
SENTENCE_TRANSFORMERS = ["1_Pooling/config.json", "modules.json", "sentence_bert_config.json"]
REMOTE_FILES = ["configuration_m2s.py", "images_m2s.py", "modeling_m2s.py", "processing_m2s.py"]

# The first lines of a script: `expect(model, processor)` asserts that they give the example's numbers.
COMMON = """
import sys
import torch
from safetensors.torch import load_file
name, example = sys.argv[1], load_file(sys.argv[2])

def expect(model, processor):
    inputs = processor(list(example["frames"]))
    torch.testing.assert_close(inputs["pixel_values"], example["pixel_values"])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).scene_embeds, example["scene_embeds"])
"""
WITHOUT_PACKAGE = """
sys.modules["modeling_m2s"] = None  # importing it now fails, wherever it is installed
try:
    import modeling_m2s
except ImportError:
    pass
else:
    raise AssertionError("the package can be imported")
from transformers import AutoConfig, AutoModel, AutoProcessor
config = AutoConfig.from_pretrained(name, trust_remote_code=True)
assert config.position_interpolation == "grid"
model = AutoModel.from_pretrained(name, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
expect(model, AutoProcessor.from_pretrained(name, trust_remote_code=True))
"""
PUSH_AND_LOAD = """
from modeling_m2s import M2SSceneModel, M2SSceneProcessor
from transformers import AutoModel, AutoProcessor
M2SSceneModel.from_pretrained(name).push_to_hub("someone/tiny")
M2SSceneProcessor.from_pretrained(name).push_to_hub("someone/tiny")
expect(AutoModel.from_pretrained("someone/tiny"), AutoProcessor.from_pretrained("someone/tiny"))
"""
SAVE_AND_PUSH = """
from modeling_m2s import M2SSceneModel
M2SSceneModel.from_pretrained(name).save_pretrained("saved", push_to_hub=True, repo_id="someone/saved")
"""


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def example(tiny_folder, tmp_path_factory) -> Path:
    """Frames of two scenes and the tiny scene encoder's numbers for them."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 41, 63, 3), dtype=np.uint8)
    inputs = M2SSceneProcessor.from_pretrained(tiny_folder)(list(frames))
    with torch.no_grad():
        outputs = M2SSceneModel.from_pretrained(tiny_folder).eval()(**inputs)
    path = tmp_path_factory.mktemp("example") / "example.safetensors"
    tensors = {"frames": torch.from_numpy(frames), "pixel_values": inputs["pixel_values"]}
    save_file({**tensors, "scene_embeds": outputs.scene_embeds}, path)
    return path


@pytest.fixture(scope="module")
def remote_folder(tiny_folder, tmp_path_factory) -> Path:
    """The tiny scene encoder and its processor, saved with the code that runs them."""
    folder = tmp_path_factory.mktemp("remote") / "scene-encoder.tiny"
    model, processor = M2SSceneModel.from_pretrained(tiny_folder), M2SSceneProcessor.from_pretrained(tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        for saved_class, auto_class in (
            (M2SSceneConfig, "AutoConfig"),
            (M2SSceneModel, "AutoModel"),
            (M2SSceneProcessor, "AutoProcessor"),
        ):
            patch.setattr(saved_class, "_auto_class", None)  # put back when the context ends
            saved_class.register_for_auto_class(auto_class)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def run(script: str, hub: Hub, cache: Path, *arguments: str | Path) -> None:
    """Run a script in a process of its own that finds this Hub."""
    finished = subprocess.run(
        [sys.executable, "-I", "-c", COMMON + script, *arguments],
        env={**os.environ, **hub.environment(cache)},
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr


def test_auto_classes_know_the_package(tiny_folder):
    assert type(AutoConfig.from_pretrained(tiny_folder)) is M2SSceneConfig
    assert type(AutoModel.from_pretrained(tiny_folder)) is M2SSceneModel
    assert type(AutoModelForVideoClassification.from_pretrained(tiny_folder)) is M2SSceneForClassification
    assert type(AutoProcessor.from_pretrained(tiny_folder)) is M2SSceneProcessor


def test_remote_folders_name_and_hold_their_code(remote_folder):
    assert sorted(path.name for path in remote_folder.glob("*.py")) == REMOTE_FILES
    config = json.loads((remote_folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_m2s.M2SSceneConfig",
        "AutoModel": "modeling_m2s.M2SSceneModel",
    }


@pytest.mark.parametrize("name", REMOTE_FILES)
def test_remote_code_needs_only_what_transformers_users_have(name):
    """Other packages are imported in a `try` only, which transformers leaves out when it looks for missing ones."""
    imported, tree = set(), ast.parse((PACKAGE / name).read_text())
    optional = {inner for outer in ast.walk(tree) if isinstance(outer, ast.Try) for inner in ast.walk(outer)}
    for node in set(ast.walk(tree)) - optional:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert f"{node.module}.py" in REMOTE_FILES
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    allowed = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
    assert imported - set(sys.stdlib_module_names) <= allowed


def test_remote_code_loads_from_a_folder_without_the_package(remote_folder, example, hub, tmp_path):
    run(WITHOUT_PACKAGE, hub, tmp_path, remote_folder, example)


def test_remote_code_loads_from_the_hub_without_the_package(remote_folder, example, hub, tmp_path):
    files = [path for path in remote_folder.rglob("*") if path.is_file()]
    hub.repos["someone/remote"] = {path.relative_to(remote_folder).as_posix(): path.read_bytes() for path in files}
    run(WITHOUT_PACKAGE, hub, tmp_path, "someone/remote", example)


def test_pushed_models_load_as_they_were(tiny_folder, example, hub, tmp_path):
    run(PUSH_AND_LOAD, hub, tmp_path, tiny_folder, example)
    files = set(hub.repos["someone/tiny"])
    assert files == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        *SENTENCE_TRANSFORMERS,
    }


@pytest.mark.slow
def test_an_index_stays_with_the_commit_that_it_began_with(tiny_folder, hub, tmp_path):
    def m2s(*arguments: str | Path, status: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "m2s", *map(str, arguments)],
            env={**os.environ, **hub.environment(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == status, ended.stderr
        return ended.stderr

    films, index = tmp_path / "films", tmp_path / "index"
    films.mkdir()
    make_video(films / "alpha.mp4", [17] * 5, seed=1)
    Image.new("RGB", (64, 36), "teal").save(tmp_path / "still.png")
    hub.add("someone/scenes", tiny_folder)
    embed = ["embed", films, "--model", "someone/scenes", "--workers", "1", "--output"]
    m2s(*embed, index)
    first = hub.repos["someone/scenes"]
    hub.revisions["someone/scenes", commit_hash(first)] = first
    hub.repos["someone/scenes"] = {**first, "README.md": b"a new card"}
    make_video(films / "beta.mp4", [25] * 4, seed=2)
    m2s("search", index, "--image", tmp_path / "still.png")
    m2s(*embed, index)
    m2s("scenes", index)
    table = FilmDataset(index / "scene_embeddings", "scene_embeddings").read().to_pylist()
    assert {row["movie_id"] for row in table} == {"alpha", "beta"}
    assert {(row["model"], row["revision"]) for row in table} == {("someone/scenes", commit_hash(first))}
    m2s(*embed, tmp_path / "new")
    settings = FilmDataset(tmp_path / "new/scene_embeddings", "scene_embeddings").record["settings"]
    assert settings["revision"] == commit_hash(hub.repos["someone/scenes"]) != commit_hash(first)
    told = m2s("search", index, "--image", tmp_path / "still.png", "--model", "someone/scenes", status=1)
    assert f"revision is '{commit_hash(first)}' there, '{settings['revision']}' now" in told


def test_saving_can_push_at_once(tiny_folder, example, hub, tmp_path):
    run(SAVE_AND_PUSH, hub, tmp_path, tiny_folder, example)
    assert set(hub.repos["someone/saved"]) == {
        "README.md",
        "config.json",
        "model.safetensors",
        *SENTENCE_TRANSFORMERS,
    }
