"""Exported encoders against PyTorch on scenes of every size, and what `m2s export-model` refuses and leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from m2s.main import main
from modeling_m2s import M2SSceneConfig, M2SSceneEnsembleModel, M2SSceneModel, M2SSceneProcessor, export_m2s
from modeling_m2s.configuration_m2s import POSITION_INTERPOLATIONS
from modeling_m2s.export_m2s import ClassTokenLayer, ExportedEncoder, ExportSettings, compare, runner, trace
from modeling_m2s.pretrained_m2s import tiny_model
from modeling_m2s.storage_m2s import exclusive

ort = pytest.importorskip("onnxruntime")
DOCUMENT = (Path(__file__).parent.parent / "docs/python.md").read_text()
SIZES = [(1, 1), (1, 3), (2, 7), (1, 9), (3, 9), (2, 14)]  # scenes, frames
PROCESSOR_FILES = {"config.json", "preprocessor_config.json", "export.json"}


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory) -> Path:
    """The tiny encoder in all formats, its sizes free."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export-model", str(tiny_folder), str(folder), "--formats", "onnx", "int8", "pt2"]) == 0
    return folder


@pytest.fixture(scope="module")
def encoder(tiny_folder) -> M2SSceneModel:
    return M2SSceneModel.from_pretrained(tiny_folder).eval()


def random_inputs(scenes: int, frames: int, padding: str = "back") -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of the tiny encoder's size; every scene but the first is padded, at this place."""
    generator = torch.Generator().manual_seed(scenes + 10 * frames)
    lengths = torch.tensor([frames] + [1 + (5 * scene) % frames for scene in range(1, scenes)])
    mask = torch.arange(frames) < lengths[:, None]
    return torch.randn(scenes, frames, 3, 32, 32, generator=generator), mask.flip(1) if padding == "front" else mask


@torch.no_grad()
def assert_equals_pytorch(encoder, run, pixel_values, frame_mask):
    outputs, found = encoder(pixel_values, frame_mask=frame_mask), run(pixel_values, frame_mask)
    for name in ("pooler_output", "scene_embeds"):
        torch.testing.assert_close(torch.from_numpy(found[name]), outputs[name], atol=2e-6, rtol=1e-4)


def run_error(command: list[str], capsys) -> str:
    """The one line that a command, which must fail, tells."""
    capsys.readouterr()
    assert main(command) == 1
    return capsys.readouterr().err.removeprefix("m2s: error: ").strip()


@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_one_file_reads_any_number_of_shots_and_scenes(exported, encoder, file):
    run = runner(Path(file).suffix[1:], (exported / file).read_bytes())
    for size in SIZES:
        for padding in ("back", "front"):
            with torch.no_grad():
                assert_equals_pytorch(encoder, run, *random_inputs(*size, padding))


def test_padded_scenes_are_as_alone(exported):
    run = runner("onnx", (exported / "model.onnx").read_bytes())
    pixel_values, frame_mask = random_inputs(3, 9)
    together = run(pixel_values, frame_mask)["pooler_output"]
    for scene, length in enumerate(frame_mask.sum(1).tolist()):
        alone = run(pixel_values[scene : scene + 1, :length], frame_mask[scene : scene + 1, :length])["pooler_output"]
        np.testing.assert_allclose(together[scene], alone[0], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "mode", [m if m == "mosaic" else pytest.param(m, marks=pytest.mark.slow) for m in POSITION_INTERPOLATIONS]
)
def test_every_position_interpolation_is_traced_with_free_sizes(mode):
    torch.manual_seed(0)
    tower = CLIPVisionConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    tower.image_size, tower.patch_size = 24, 8
    config = M2SSceneConfig(vision_config=tower, position_interpolation=mode)
    model = M2SSceneModel(config).eval()
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight)
    module = trace(model, ExportSettings()).module()
    for scenes, frames in SIZES:
        pixel_values, frame_mask = random_inputs(scenes, frames)
        pixel_values = pixel_values[..., :24, :24]
        with torch.no_grad():
            expected, found = model(pixel_values, frame_mask=frame_mask), module(pixel_values, frame_mask)
        torch.testing.assert_close(found["pooler_output"], expected.pooler_output, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("padded", [True, False])
def test_the_class_token_alone_is_the_whole_layers(encoder, padded):
    layer = encoder.vision_model.encoder.layers[-1]
    assert isinstance(layer, CLIPEncoderLayer)
    tokens_BSD = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(17) < torch.tensor([17, 5])[:, None])[:, None, None].expand(2, 1, 17, 17) if padded else None
    with torch.no_grad():
        whole, alone = layer(tokens_BSD, attention_mask=mask), ClassTokenLayer(layer)(tokens_BSD, mask)
    torch.testing.assert_close(alone, whole[:, :1], atol=1e-6, rtol=1e-5)


def test_exporting_leaves_the_encoder_as_it_was(encoder):
    ExportedEncoder(encoder)
    assert all(isinstance(layer, CLIPEncoderLayer) for layer in encoder.vision_model.encoder.layers)


@pytest.mark.slow
def test_an_ensemble_is_exported_as_one(encoder, tiny_folder, tmp_path):
    folder = tmp_path / "ensemble"
    ensemble = M2SSceneEnsembleModel.from_encoders([encoder, encoder], ["genre", "synopsis"], normalize=True)
    ensemble.save_pretrained(folder)
    M2SSceneProcessor.from_pretrained(tiny_folder).save_pretrained(folder)
    assert main(["export-model", str(folder), str(tmp_path / "out"), "--formats", "pt2"]) == 0
    run = runner("pt2", (tmp_path / "out/model.pt2").read_bytes())
    with torch.no_grad():
        assert_equals_pytorch(ensemble, run, *random_inputs(2, 3))


def test_the_record_says_what_was_written(exported):
    assert {path.name for path in exported.iterdir()} == PROCESSOR_FILES | set(export_m2s.FILES.values())
    record = json.loads((exported / "export.json").read_text())
    assert record["inputs"] == {"pixel_values": ["scenes", "frames", 3, 32, 32], "frame_mask": ["scenes", "frames"]}
    assert record["outputs"] == {"pooler_output": ["scenes", 32], "scene_embeds": ["scenes", 16]}
    assert record["opset"] == 23
    assert set(record["versions"]) == {"torch", "transformers", "onnx", "onnxscript", "onnxruntime"}
    for name, facts in record["files"].items():
        assert facts["bytes"] == (exported / name).stat().st_size
        assert [(check["scenes"], check["frames"]) for check in facts["checks"]] == [(1, 1), (1, 9), (3, 4), (2, 14)]
        assert facts["largest_difference"] == max(check["largest_difference"] for check in facts["checks"])
    assert record["files"]["model.onnx"]["largest_difference"] < 1e-4
    assert record["files"]["model_int8.onnx"]["largest_difference"] > 1e-4
    assert record["files"]["model_int8.onnx"]["smallest_cosine"] > 0.95
    session = ort.InferenceSession(exported / "model.onnx")
    for tensors, shapes in ((session.get_inputs(), record["inputs"]), (session.get_outputs(), record["outputs"])):
        assert {tensor.name: tensor.shape for tensor in tensors} == shapes


def test_the_readmes_block_runs_on_an_export(exported, encoder, tmp_path, monkeypatch):
    block = DOCUMENT.partition("## ONNX and torch.export\n")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "exported").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    frames = [Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(4)]
    names = {f"frame_{number}": frame for number, frame in enumerate(frames, 1)}
    exec(block, names)
    with torch.no_grad():
        expected = encoder(**M2SSceneProcessor.from_pretrained(exported)([frames[:3], frames[3:]])).pooler_output
    np.testing.assert_allclose(names["vectors"], expected.numpy(), atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_fixed_sizes_read_no_others(encoder, tiny_folder, tmp_path):
    command = ["export-model", str(tiny_folder), str(tmp_path), "--formats", "onnx", "pt2", "--frames-per-scene", "9"]
    assert main([*command, "--scenes-per-batch", "1"]) == 0
    record = json.loads((tmp_path / "export.json").read_text())
    assert record["inputs"]["pixel_values"] == [1, 9, 3, 32, 32]
    for kind, file in (("onnx", "model.onnx"), ("pt2", "model.pt2")):
        assert len(record["files"][file]["checks"]) == 1
        run = runner(kind, (tmp_path / file).read_bytes())
        pixel_values, frame_mask = random_inputs(1, 9)
        frame_mask[:, 4:] = False
        assert_equals_pytorch(encoder, run, pixel_values, frame_mask)
        for size in ((1, 7), (2, 9)):
            with pytest.raises(Exception, match=r"(?s)Got: . Expected: .|to be equal to (1|9), but got"):
                run(*random_inputs(*size))


@pytest.mark.slow
def test_fixed_shots_leave_batches_free(encoder):
    module = trace(encoder, ExportSettings(frames_per_scene=5)).module()
    with torch.no_grad():
        assert module(*random_inputs(1, 5))["pooler_output"].shape == (1, 32)
        assert module(*random_inputs(4, 5))["pooler_output"].shape == (4, 32)


@pytest.mark.parametrize("kind", ["onnx", "int8"])
def test_a_file_that_differs_from_pytorch_is_refused(exported, encoder, kind):
    content = (exported / export_m2s.FILES[kind]).read_bytes()
    other = M2SSceneModel(encoder.config).eval()
    with pytest.raises(export_m2s.ExportError, match=r"differs from PyTorch on 1 scenes of 1 frames.*nothing was"):
        compare(other, kind, content, ExportSettings())


def test_numbers_that_are_none_are_refused(encoder, monkeypatch):
    nothing = {
        name: np.full((1, width), np.nan, np.float32) for name, width in (("pooler_output", 32), ("scene_embeds", 16))
    }
    monkeypatch.setattr(export_m2s, "runner", lambda *_: lambda *_: nothing)
    for kind in ("onnx", "int8"):
        with pytest.raises(export_m2s.ExportError, match="differs from PyTorch"):
            compare(encoder, kind, b"", ExportSettings())


def test_missing_packages_are_named(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = run_error(["export-model", str(tiny_folder), str(tmp_path / "out")], capsys)
    assert "pip install 'movies2scenes[export]'" in message and "onnxscript" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--frames-per-scene", "0"], ["--scenes-per-batch", "-1"]])
def test_impossible_sizes_are_refused(tiny_folder, tmp_path, capsys, arguments):
    assert "must be at least 1" in run_error(
        ["export-model", str(tiny_folder), str(tmp_path / "out"), *arguments], capsys
    )


def test_unknown_models_are_refused_and_leave_nothing(tmp_path, capsys):
    output = tmp_path / "out"
    message = run_error(["export-model", "someone/missing", str(output), "--formats", "pt2"], capsys)
    assert message.startswith("model someone/missing cannot be loaded")
    assert not output.exists()


def test_a_folder_of_other_files_is_refused(tiny_folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds notes.txt" in run_error(["export-model", str(tiny_folder), str(tmp_path)], capsys)
    assert "is a file" in run_error(["export-model", str(tiny_folder), str(tmp_path / "notes.txt")], capsys)
    before = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()}
    assert "no part of an export" in run_error(["export-model", str(tiny_folder), str(tiny_folder)], capsys)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text("mine")
    assert "holds config.json" in run_error(["export-model", str(tiny_folder), str(tmp_path / "own")], capsys)
    assert (tmp_path / "own/config.json").read_text() == "mine"
    assert before == {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()}


def test_a_second_run_on_a_folder_is_refused(tiny_folder, tmp_path, capsys):
    with exclusive(tmp_path):
        assert "another run" in run_error(["export-model", str(tiny_folder), str(tmp_path), "--formats", "pt2"], capsys)


def test_models_too_large_for_onnx_are_refused(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_m2s, "MAX_ONNX_BYTES", 1000)
    message = run_error(["export-model", str(tiny_folder), str(tmp_path / "out")], capsys)
    assert "ONNX takes 1,000" in message and "--formats pt2" in message


KILLED = """
import os, signal, sys
from modeling_m2s import storage_m2s
from m2s.main import main
replace, left = os.replace, int(sys.argv[3])

def replace_or_die(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*arguments)

storage_m2s.os.replace = replace_or_die
main(["export-model", sys.argv[1], sys.argv[2], "--formats", "pt2"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("files_written", range(4))
def test_a_killed_export_has_no_record_and_is_done_again(tiny_folder, tmp_path, files_written):
    command = ["export-model", str(tiny_folder), str(tmp_path), "--formats", "pt2"]
    assert main(command) == 0  # the killed run replaces it
    run = [sys.executable, "-c", KILLED, str(tiny_folder), str(tmp_path), str(files_written)]
    assert subprocess.run(run, env={**os.environ}).returncode == -signal.SIGKILL
    assert not (tmp_path / "export.json").exists()
    assert main(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*PROCESSOR_FILES, "model.pt2"}


@pytest.mark.slow
def test_the_encoder_that_ships(tmp_path):
    assert main(["export-model", "m2s-clip-tiny", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "export.json").read_text())
    assert record["model"] == "m2s-clip-tiny" and record["files"]["model.onnx"]["largest_difference"] < 1e-4
    exported, shipped = (M2SSceneConfig.from_pretrained(folder) for folder in (tmp_path, tiny_model()))
    assert exported.to_dict() == shipped.to_dict()
