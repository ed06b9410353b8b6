"""Pictures of every kind as 8-bit RGB, against loops written out."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_m2s import M2SSceneProcessor
from modeling_m2s.images_m2s import open_picture, rgb, rgb_frame

HEIGHT, WIDTH = 37, 51


def random_pixels(channels: int = 1, highest: int = 255) -> np.ndarray:
    pixels = np.random.default_rng(channels).integers(0, highest + 1, (HEIGHT, WIDTH, channels))
    pixels[0, 0], pixels[0, 1] = 0, highest
    return pixels


def gray_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)


def scaled(pixels: np.ndarray, span: float) -> np.ndarray:
    """Every value as a share of `span`, in 255 steps, one value at a time."""
    return np.array([[round(float(value) * 255 / span) for value in row] for row in pixels])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_pixels_of_16_bits_are_scaled(mode):
    pixels = random_pixels(highest=65535)[..., 0]
    stored = pixels.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
    picture = Image.frombytes(mode, (WIDTH, HEIGHT), stored.tobytes())
    assert np.array_equal(np.asarray(rgb(picture)), gray_rgb(scaled(pixels, 65535)))


@pytest.mark.parametrize("span", [1, 255, 65535])
def test_floating_point_pixels_of_files_are_scaled_by_what_holds_them(span):
    pixels = (random_pixels(highest=65535)[..., 0] / 65535 * span).astype(np.float32)
    assert np.array_equal(np.asarray(rgb(Image.fromarray(pixels))), gray_rgb(scaled(pixels, span)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_parts_become_white(mode):
    source = Image.fromarray(random_pixels(4).astype(np.uint8), "RGBA")
    picture = source.convert("LA").convert(mode) if mode in ("LA", "PA") else source.convert(mode)
    plain = np.asarray(picture.convert("RGBA"), dtype=np.float64)
    expected = np.empty((HEIGHT, WIDTH, 3))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            opacity = plain[row, column, 3] / 255
            expected[row, column] = opacity * plain[row, column, :3] + (1 - opacity) * 255
    assert np.abs(np.asarray(rgb(picture)) - expected).max() <= 1


def test_a_transparent_color_of_a_palette_becomes_white(tmp_path):
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((2, 1), 0)
    picture.save(tmp_path / "palette.png", transparency=0)
    pixels = np.asarray(open_picture(tmp_path / "palette.png"))
    assert pixels[1, 2].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_what_pillow_makes_of_them(mode):
    picture = Image.fromarray(random_pixels(3).astype(np.uint8)).convert(mode)
    assert rgb(picture).tobytes() == picture.convert("RGB").tobytes()


def test_files_are_upright_and_keep_their_16_bits(tmp_path):
    pixels = random_pixels(highest=65535)[..., 0].astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    expected = gray_rgb(scaled(np.rot90(pixels, -1), 65535))
    assert np.array_equal(np.asarray(open_picture(tmp_path / "turned.png")), expected)
    assert np.array_equal(np.asarray(open_picture((tmp_path / "turned.png").read_bytes())), expected)


RGB = random_pixels(3).astype(np.uint8)
GRAY = RGB[..., 0]
OPAQUE = np.concatenate([RGB, np.full((HEIGHT, WIDTH, 1), 255, dtype=np.uint8)], axis=-1)
WIDE = RGB.astype(np.uint16) * 257
SHARES = RGB / 255
ARRAYS = {
    "uint8": (RGB, RGB),
    "gray": (GRAY, gray_rgb(GRAY)),
    "gray, one channel": (GRAY[..., None], gray_rgb(GRAY)),
    "RGBA": (OPAQUE, RGB),
    "uint16": (WIDE, RGB),
    "int32": (WIDE.astype(np.int32), RGB),
    "int64 of 8 bits": (RGB.astype(np.int64), RGB),
    "int16 of 8 bits": (RGB.astype(np.int16), RGB),
    "dark uint16": (RGB.astype(np.uint16), np.rint(RGB / 257).astype(np.uint8)),
    "float64": (SHARES, RGB),
    "float32 RGBA": ((OPAQUE / 255).astype(np.float32), RGB),
    "black and white": (GRAY > 99, gray_rgb((GRAY > 99) * 255)),
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_arrays_are_frames_whatever_holds_their_pixels(kind, library, tiny_folder):
    array, expected = ARRAYS[kind]
    frame = array
    if library == "torch":
        frame = torch.from_numpy(array.copy() if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())
    found = np.asarray(rgb_frame(frame))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    processor = M2SSceneProcessor.from_pretrained(tiny_folder)
    expected_values = processor([[Image.fromarray(expected)]])["pixel_values"]
    assert torch.equal(processor([[frame]])["pixel_values"], expected_values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_half_precision_are_frames(dtype):
    frame = torch.linspace(0, 1, 3 * 16).reshape(3, 4, 4).to(dtype)
    expected = [[[round(value * 255) for value in row] for row in channel] for channel in frame.tolist()]
    assert np.moveaxis(rgb_frame(frame), -1, 0).tolist() == expected


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((2, 2, 3), -0.5), "values from -0.5 to -0.5; float64 pixels are 0 to 1"),
        (np.full((2, 2, 3), 255.0), "values from 255 to 255; float64 pixels are 0 to 1"),
        (np.array([[[0.0, np.nan, 1.0]]]), "values from nan to nan"),
        (np.full((2, 2, 3), 65536), "int64 pixels are 0 to 65535"),
        (np.full((2, 2), -1, dtype=np.int16), "values from -1 to -1"),
    ],
)
def test_values_out_of_range_are_refused(pixels, message, tiny_folder):
    with pytest.raises(ValueError, match=message):
        M2SSceneProcessor.from_pretrained(tiny_folder)([[pixels]])


@pytest.mark.parametrize("frame", [np.moveaxis(RGB, -1, 0), torch.from_numpy(RGB)])
def test_channels_are_found_where_the_other_library_has_them(frame):
    assert np.array_equal(rgb_frame(frame), RGB)
