"""Pictures of any kind as 8-bit RGB, as a viewer shows them."""

import os
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps

CHANNELS = (1, 3, 4)  # of gray, RGB and RGBA
FLOAT_SPANS = (1, 255, 65535)  # files of floating-point pixels keep to no common range


def open_picture(source: str | os.PathLike | bytes) -> Image.Image:
    """A picture file, given by path or content: upright by its EXIF orientation, in 8-bit RGB.

    Raises:
        OSError: the file cannot be read or is no picture.
        ValueError: pixel values are negative or above 65535.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return rgb(ImageOps.exif_transpose(picture))


def rgb(picture: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB; transparent parts become white.

    Pixels of 16 bits and of floating point are scaled; Pillow's own conversion clips them to white. Floating-point
    pixels go from 0 to the smallest of 1, 255 and 65535 that none exceeds.

    Raises:
        ValueError: pixel values are negative or above 65535.
    """
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith(("I", "F")):
        picture = Image.fromarray(eight_bits(np.asarray(picture), FLOAT_SPANS))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def rgb_frame(frame: Image.Image | np.ndarray | torch.Tensor) -> Image.Image | np.ndarray:
    """A frame as the image processor reads it: a picture in RGB, or an array (height, width, 3) of uint8.

    Args:
        frame: a PIL image, a numpy array (height, width) or (height, width, 1, 3 or 4), or a torch tensor (height,
            width) or (1, 3 or 4, height, width); values are uint8, uint16, other integers from 0 to 255 or
            from 0 to 65535, or floats from 0 to 1.
            An array may also have its channels where a tensor has them, and a tensor where an array has them.

    Raises:
        ValueError: pixel values are outside of their range.
    """
    if isinstance(frame, Image.Image):
        return rgb(frame)
    if is_tensor := isinstance(frame, torch.Tensor):
        frame = (frame.float() if frame.is_floating_point() else frame).cpu().numpy()
    pixels = eight_bits(frame)
    if pixels.ndim == 3:
        first, last = (pixels.shape[axis] in CHANNELS for axis in (0, -1))
        pixels = np.moveaxis(pixels, 0, -1) if first and (is_tensor or not last) else pixels
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return rgb(Image.fromarray(pixels)) if pixels.ndim == 2 or pixels.shape[-1] == 4 else pixels


def eight_bits(values: np.ndarray, float_spans: tuple[int, ...] = (1,)) -> np.ndarray:
    """Pixel values as uint8, rounded.

    Args:
        values: uint8; uint16 from 0 to 65535; other integers, from 0 to 255 if no value exceeds it, else from 0 to
            65535; or floating point.
        float_spans: floating-point values go from 0 to the first of these numbers that no value exceeds.

    Raises:
        ValueError: values are outside of their range, or not finite.
    """
    if values.dtype == np.uint8:
        return values
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    spans = (255, 65535) if np.issubdtype(values.dtype, np.integer) else float_spans
    spans = (65535,) if values.dtype == np.uint16 else spans
    span = next((span for span in spans if high <= span), None)
    if not low >= 0 or span is None:
        raise ValueError(f"a frame has values from {low:g} to {high:g}; {values.dtype} pixels are 0 to {spans[-1]}")
    return np.rint(values * (255 / span)).astype(np.uint8)


__all__ = ["open_picture", "rgb", "rgb_frame"]
