"""Videos to model inputs with torchvision, in transformers' form of a video processor."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.utils import requires_backends
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_processing_utils import BaseVideoProcessor

from .processing_m2s import frames_of_videos


class M2SVideoProcessor(BaseVideoProcessor):
    """Prepares videos for [`M2SSceneModel`] as [`M2SSceneProcessor`] does, each as one scene.

    `AutoVideoProcessor` loads it where torchvision is installed. Settings are those of a folder's image processor.

    Raises:
        ImportError: torchvision is not installed.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    model_input_names = ["pixel_values_videos", "padding_mask_videos"]

    def __init__(self, **kwargs):
        requires_backends(self, "torchvision")
        super().__init__(**kwargs)

    def preprocess(self, videos: Any, **kwargs) -> BatchFeature:
        """
        Args:
            videos: one or a list of videos: paths, URLs, lists of frames, arrays (frames, height, width, 3) or tensors
                (frames, 3, height, width), torchcodec's `VideoDecoder` objects. [`M2SSceneProcessor`] says
                which frames are read. The frames of a video have one size.
            kwargs: settings in place of the processor's own, and `num_frames`, `do_sample_frames`, `video_metadata`.

        Returns:
            `BatchFeature` with `pixel_values_videos` (videos, frames, channels, height, width), zeros where padded, and
            `padding_mask_videos` (videos, frames), True where a frame is real.

        Raises:
            ValueError: there is no video, a video has no frames or frames of several sizes, or a file cannot be read.
        """
        frames = frames_of_videos(videos, kwargs)
        arrays = [np.stack([np.moveaxis(np.asarray(frame), -1, 0) for frame in each]) for each in frames]
        return super().preprocess(arrays, do_sample_frames=False, input_data_format="channels_first", **kwargs)

    def _preprocess(self, videos: Any, return_tensors: Any = None, **kwargs) -> BatchFeature:
        pixels = super()._preprocess(videos, **kwargs)["pixel_values_videos"]
        lengths = torch.tensor([len(each) for each in pixels])
        return BatchFeature(
            {
                "pixel_values_videos": torch.nn.utils.rnn.pad_sequence(list(pixels), batch_first=True),
                "padding_mask_videos": torch.arange(int(lengths.max())) < lengths[:, None],
            },
            tensor_type=return_tensors,
        )


__all__ = ["M2SVideoProcessor"]
