"""The scene processor against CLIP's own image processor, frame by frame, and its batches of ragged scenes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor

from modeling_m2s import M2SSceneModel, M2SSceneProcessor

# Width and height: portrait, landscape, square, smaller than the crop, thin.
SIZES = [(51, 89), (127, 47), (64, 64), (20, 11), (33, 301)]


@pytest.fixture(scope="module")
def processor(tiny_folder) -> M2SSceneProcessor:
    """The processor of the tiny scene encoder: 32×32 frames."""
    return M2SSceneProcessor.from_pretrained(tiny_folder)


def picture(width: int = 51, height: int = 37, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def as_clip_sees(processor: M2SSceneProcessor, image: Image.Image) -> torch.Tensor:
    """CLIP's own pixel values (C, Y, X) of one picture."""
    return processor.image_processor(images=image.convert("RGB"), return_tensors="pt").pixel_values[0]


FRAME_TYPES = {
    "RGB": lambda image: image,
    "grayscale": lambda image: image.convert("L"),
    "RGBA": lambda image: image.convert("RGBA"),
    "numpy": np.asarray,
    "torch": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame_type", FRAME_TYPES)
def test_a_frame_is_what_clip_makes_of_it(processor, frame_type, size):
    image = picture(*size)
    frame = FRAME_TYPES[frame_type](image)
    reference = image.convert("L") if frame_type == "grayscale" else image
    inputs = processor([[frame]])
    assert inputs["pixel_values"].shape == (1, 1, 3, 32, 32)
    assert torch.equal(inputs["pixel_values"][0, 0], as_clip_sees(processor, reference))


def test_frame_types_and_sizes_mix(processor):
    images = [picture(*size, seed=seed) for seed, size in enumerate(SIZES)]
    scene = [FRAME_TYPES[frame_type](image) for frame_type, image in zip(FRAME_TYPES, images, strict=True)]
    images[1] = images[1].convert("L")
    expected = torch.stack([as_clip_sees(processor, image) for image in images])
    assert torch.equal(processor([scene])["pixel_values"][0], expected)


def test_scenes_of_ragged_shots_keep_their_order(processor):
    """One frame a shot, several frames a shot, and shots of unequal length, padded with zeros to the longest scene."""
    a, b, c, d, e, f, g = images = [picture(seed=seed) for seed in range(7)]
    inputs = processor([[a], [b, [c, d]], [[e], [f], [g]]])
    pixels = [as_clip_sees(processor, image) for image in images]
    zero = torch.zeros(3, 32, 32)
    expected = [[pixels[0], zero, zero], pixels[1:4], pixels[4:]]

    assert inputs["frame_mask"].tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert torch.equal(inputs["pixel_values"], torch.stack([torch.stack(scene) for scene in expected]))
    assert inputs["pixel_values"].dtype == torch.float32
    assert inputs["frame_mask"].dtype == torch.bool
    assert set(inputs) == set(processor.model_input_names)


def test_arrays_of_more_dimensions_are_lists_of_frames(processor):
    images = [picture(seed=seed) for seed in range(6)]
    clip = np.stack([np.asarray(image) for image in images])
    expected = processor([images])["pixel_values"]
    assert torch.equal(processor(clip[None])["pixel_values"], expected)
    assert torch.equal(processor([clip])["pixel_values"], expected)
    assert torch.equal(processor([[clip[:2], clip[2:]]])["pixel_values"], expected)
    assert torch.equal(processor([torch.from_numpy(clip).permute(0, 3, 1, 2)])["pixel_values"], expected)


def test_numpy_is_returned_on_request(processor):
    scenes = [[picture()], [picture(seed=1), picture(seed=2)]]
    arrays, tensors = processor(scenes, return_tensors="np"), processor(scenes)
    for name in processor.model_input_names:
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], tensors[name].numpy())


def test_options_reach_the_image_processor(processor):
    pixels = processor([[picture()]], do_normalize=False, do_rescale=False)["pixel_values"]
    assert pixels.min() >= 0
    assert 1 < pixels.max() <= 255


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_floats_that_are_not_to_be_rescaled_are_what_clip_makes_of_them(processor, library):
    """In transformers, `do_rescale=False` says that frames already go from 0 to 1."""
    frame = np.asarray(picture(), np.float32) / 255
    expected = processor.image_processor(images=[frame], do_rescale=False, return_tensors="pt")["pixel_values"]
    frame = torch.from_numpy(frame).permute(2, 0, 1) if library == "torch" else frame
    for inputs in ({"scenes": [[frame]]}, {"images": [frame]}, {"videos": [[frame]]}):
        pixels = processor(**inputs, do_rescale=False)["pixel_values"].reshape(expected.shape)
        assert torch.allclose(pixels, expected, atol=0.03)  # frames are scaled with 8 bits
    assert torch.equal(processor([[frame]], do_rescale=False)["pixel_values"], processor([[frame]])["pixel_values"])


def test_a_generator_of_scenes_is_refused(processor):
    with pytest.raises(ValueError, match="expected a list of scenes"):
        processor(iter([[picture()]]))


def test_saved_processors_load_as_they_were(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    scenes = [[picture()]]
    expected = processor(scenes)["pixel_values"]
    for loaded in (M2SSceneProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is M2SSceneProcessor
        assert torch.equal(loaded(scenes)["pixel_values"], expected)


def test_clip_folders_have_a_scene_processor(tmp_path):
    CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    inputs = M2SSceneProcessor.from_pretrained(tmp_path)([[picture()]])
    expected = CLIPImageProcessor.from_pretrained(tmp_path)(picture(), return_tensors="pt").pixel_values
    assert torch.equal(inputs["pixel_values"][0], expected)


def test_real_clip_has_a_scene_processor(clip_folder):
    inputs = M2SSceneProcessor.from_pretrained(clip_folder)([[picture(640, 361)]])
    assert inputs["pixel_values"].shape == (1, 1, 3, 224, 224)


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ([], "expected a list of scenes"),
        (picture(), "expected a list of scenes"),
        (np.asarray(picture()), "expected a list of scenes"),
        ([picture(), picture()], r"wrap one scene as processor\(\[scene\]\)"),
        (np.stack([np.asarray(picture())] * 2), r"wrap one scene as processor\(\[scene\]\)"),
        ([[picture()], []], "scene 1 has no frames"),
        ([[picture(), []], [[], []]], "scene 1 has no frames"),
        ([["film.mp4"]], "'film.mp4' is not a frame"),
        ([[picture(), None]], "None is not a frame"),
    ],
)
def test_what_is_not_a_list_of_scenes_is_refused(processor, scenes, message):
    with pytest.raises(ValueError, match=message):
        processor(scenes)


def test_the_model_reads_what_the_processor_makes(processor, tiny_folder):
    """A scene beside a longer one is what it is alone."""
    model = M2SSceneModel.from_pretrained(tiny_folder).eval()
    short, long = [picture(seed=1)], [picture(seed=2), [picture(90, 33, seed=3), picture(seed=4)]]
    with torch.no_grad():
        together = model(**processor([short, long])).scene_embeds
        alone = torch.cat([model(**processor([scene])).scene_embeds for scene in (short, long)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_torchvision_is_not_needed(tiny_folder):
    script = """
import sys
sys.modules["torchvision"] = None
import numpy
from modeling_m2s import M2SSceneProcessor
processor = M2SSceneProcessor.from_pretrained(sys.argv[1])
print(processor([[numpy.zeros((41, 63, 3), dtype="uint8")]])["pixel_values"].shape)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, tiny_folder], check=True, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "torch.Size([1, 1, 3, 32, 32])"
