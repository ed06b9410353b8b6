"""Frames of scenes to model inputs: CLIP's own image processing on every frame, padded to the longest scene."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin


class M2SSceneProcessor(ProcessorMixin):
    r"""
    Prepares scenes for [`M2SSceneModel`].

    Args:
        image_processor (`CLIPImageProcessor`):
            Resizes, crops and normalizes each frame. A CLIP checkpoint's own is loaded from its folder.
    """

    def __init__(self, image_processor, **kwargs):
        super().__init__(image_processor, **kwargs)

    def __call__(self, scenes: Sequence[Any], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:  # type: ignore[override]
        """
        Args:
            scenes: a list of scenes; a scene is a list of shots; a shot is one frame or a list of frames, each of any
                length. A frame is a PIL image, a numpy array (height, width, 3) or a torch tensor (3, height, width)
                of uint8; an array of one dimension more is a list of frames.
            return_tensors: `"pt"` or `"np"`.
            kwargs: passed to the image processor.

        Returns:
            `BatchFeature` with `pixel_values` (scenes, frames, channels, height, width), float32, zeros where padded,
            and `frame_mask` (scenes, frames), True where a frame is real.

        Raises:
            ValueError: no scenes, a scene without frames, frames where a list of scenes was expected, or what is
                not a frame.
        """
        if _is_frame(scenes) or not len(scenes) or any(_is_frame(scene) for scene in scenes):
            raise ValueError(
                "expected a list of scenes, each a list of shots: processor([[shot_1, shot_2, …], …]); "
                "wrap one scene as processor([scene])"
            )
        frames_per_scene = [list(_frames(scene)) for scene in scenes]
        lengths = [len(frames) for frames in frames_per_scene]
        if 0 in lengths:
            raise ValueError(f"scene {lengths.index(0)} has no frames")

        flat = [frame for frames in frames_per_scene for frame in frames]
        pixels = self.image_processor(images=flat, return_tensors="np", **kwargs)["pixel_values"]
        frame_mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        pixel_values = np.zeros((*frame_mask.shape, *pixels.shape[1:]), dtype=pixels.dtype)
        pixel_values[frame_mask] = pixels
        return BatchFeature({"pixel_values": pixel_values, "frame_mask": frame_mask}, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "frame_mask"]


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim <= 3)


def _frames(item: Any):
    """All frames below `item`, in order."""
    if _is_frame(item):
        if not isinstance(item, Image.Image) and not str(item.dtype).endswith("uint8"):
            raise ValueError(f"a frame is of {item.dtype}; frames are uint8, from 0 to 255")
        yield item
    elif isinstance(item, str | bytes) or not isinstance(item, Iterable):
        raise ValueError(f"{item!r} is not a frame; frames are PIL images, numpy arrays or torch tensors")
    else:
        for part in item:
            yield from _frames(part)


__all__ = ["M2SSceneProcessor"]
