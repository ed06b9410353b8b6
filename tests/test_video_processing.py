"""The video processor against the scene processor, and how transformers finds it; most of it needs torchvision."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor
from transformers.utils import is_torchvision_available

from modeling_m2s import M2SSceneModel, M2SSceneProcessor, M2SVideoProcessor, tiny_model
from modeling_m2s.push_m2s import collect

needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="needs torchvision")


@pytest.fixture(scope="module")
def scene_processor() -> M2SSceneProcessor:
    """With the image processor that resizes by torchvision, as the video processor does."""
    return M2SSceneProcessor(AutoImageProcessor.from_pretrained(tiny_model(), backend="torchvision"))


def make_frames(count: int, height: int = 90, width: int = 131, seed: int = 0) -> list[Image.Image]:
    arrays = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in arrays]


@needs_torchvision
def test_pixels_and_mask_are_those_of_the_scene_processor(scene_processor):
    videos = [make_frames(3), make_frames(1, 200, 113, 1), make_frames(14, 113, 113, 2)]
    found = AutoVideoProcessor.from_pretrained(tiny_model())(videos, return_tensors="pt")
    expected = scene_processor(videos=videos)
    assert found["pixel_values_videos"].shape == (3, 14, 3, 112, 112)
    assert torch.equal(found["padding_mask_videos"], expected["frame_mask"])
    torch.testing.assert_close(found["pixel_values_videos"], expected["pixel_values"])
    model = M2SSceneModel.from_pretrained(tiny_model()).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**found).scene_embeds, model(**expected).scene_embeds, atol=1e-5, rtol=1e-4)


@needs_torchvision
@pytest.mark.parametrize("form", ["frames", "array", "tensor"])
def test_one_video_in_any_form_is_one_scene(form, scene_processor):
    frames = make_frames(2)
    array = np.stack([np.asarray(frame) for frame in frames])
    video = {"frames": frames, "array": array, "tensor": torch.from_numpy(array).movedim(-1, 1)}[form]
    found = M2SVideoProcessor.from_pretrained(tiny_model())(video, return_tensors="pt")
    torch.testing.assert_close(found["pixel_values_videos"], scene_processor(videos=[frames])["pixel_values"])


@needs_torchvision
def test_of_a_file_the_middles_of_equal_parts_are_read(scene_processor):
    clip = str(Path(__file__).parent / "fixtures/big_buck_bunny_clip.mp4")
    found = M2SVideoProcessor.from_pretrained(tiny_model())(clip, num_frames=4, return_tensors="pt")
    expected = scene_processor(videos=clip, num_frames=4)["pixel_values"]
    assert expected.shape[1] == 4
    torch.testing.assert_close(found["pixel_values_videos"], expected)


@needs_torchvision
@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "expected videos"),
        ([make_frames(2), []], "video 1 has no frames"),
        ([[*make_frames(1), *make_frames(1, 20, 30)]], "same shape"),
        ("nothing.mp4", "nothing.mp4 cannot be read"),
    ],
)
def test_what_is_no_video_is_refused(videos, message):
    with pytest.raises(ValueError, match=message):
        M2SVideoProcessor.from_pretrained(tiny_model())(videos)


@needs_torchvision
def test_a_saved_processor_is_found(tmp_path):
    """A run's folder has the processor as `M2SSceneProcessor.save_pretrained` writes it."""
    shutil.copy(Path(tiny_model()) / "config.json", tmp_path)
    M2SSceneProcessor.from_pretrained(tiny_model()).save_pretrained(tmp_path)
    found = AutoVideoProcessor.from_pretrained(tmp_path)
    assert isinstance(found, M2SVideoProcessor) and dict(found.crop_size) == {"height": 112, "width": 112}


def test_a_saved_processor_has_the_same_settings_in_both_files(tmp_path):
    M2SSceneProcessor.from_pretrained(tiny_model()).save_pretrained(tmp_path)
    shutil.copy(Path(tiny_model()) / "config.json", tmp_path)
    read = [json.loads((tmp_path / name).read_text()) for name in ("preprocessor_config.json", "processor_config.json")]
    assert read[0] == read[1]["image_processor"]
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), M2SSceneProcessor)


def test_a_pushed_model_names_it(tmp_path):
    M2SSceneModel.from_pretrained(tiny_model()).save_pretrained(tmp_path)
    M2SSceneProcessor.from_pretrained(tiny_model()).save_pretrained(tmp_path)
    files = collect(tmp_path, "someone/scenes").files
    config = json.loads(files["config.json"])
    assert config["auto_map"]["AutoVideoProcessor"] == "video_processing_m2s.M2SVideoProcessor"
    assert {"video_processing_m2s.py", "processing_m2s.py", "preprocessor_config.json"} <= files.keys()


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_without_torchvision_the_reason_is_told():
    with pytest.raises(ImportError, match="requires the Torchvision library"):
        M2SVideoProcessor.from_pretrained(tiny_model())
