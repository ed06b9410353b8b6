"""Frames of scenes to model inputs: CLIP's own image processing on every frame, padded to the longest scene."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image
from transformers.video_utils import load_video

from .configuration_m2s import FRAMES_PER_VIDEO
from .images_m2s import rgb_frame


class M2SSceneProcessor(ProcessorMixin):
    r"""
    Prepares scenes for [`M2SSceneModel`].

    Args:
        image_processor (`CLIPImageProcessor`):
            Resizes, crops and normalizes each frame. A CLIP checkpoint's own is loaded from its folder.
    """

    def __init__(self, image_processor, **kwargs):
        super().__init__(image_processor, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        scenes: Sequence[Any] | None = None,
        return_tensors: str | None = "pt",
        *,
        images: Any = None,
        videos: Any = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            scenes: a list of scenes; a scene is a list of shots; a shot is one frame or a list of frames. Lists may
                have any length. A frame is a PIL image, a numpy array (height, width, 3) or a torch tensor (3, height,
                width); an array with one more dimension is a list of frames. Gray and transparent frames become RGB,
                pixels of 16 bits (0 to 65535) and of floating point (0 to 1) become uint8.
            return_tensors: `"pt"` or `"np"`.
            images: single images in place of scenes: a frame, path or URL, or a list of these.
            videos: a video or a list of videos in place of scenes; each is read as one scene. All frames of a list or
                an array are read. A path, a URL or torchcodec's `VideoDecoder` gives `num_frames` frames: the middles
                of equal parts.
            kwargs: passed to the image processor, except `num_frames` (9 by default; shorter videos are read whole)
                and, as in transformers' processors, `images_kwargs`, `videos_kwargs` and `common_kwargs`. Frames of a
                list or an array are sampled too if `video_metadata` has an entry for the video.
                `do_sample_frames=True` samples every video, `False` reads every video whole.

        Returns:
            `BatchFeature` with `pixel_values` (scenes, frames, channels, height, width), float32, zeros where padded,
            and `frame_mask` (scenes, frames), True where a frame is real. For `images` it holds only `pixel_values`
            (images, channels, height, width).

        Raises:
            ValueError: not exactly one of scenes, images and videos is given; the given one is empty; a scene or video
                has no frames; frames stand where a list of scenes was expected; something is not a frame; a file
                cannot be read.
            ImportError: a path or URL of a video is given, but PyAV is missing.
        """
        given = {"scenes": scenes, "images": images, "videos": videos}
        given.update({name: kwargs.pop(name) for name in ("text", "audio") if name in kwargs})
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1 or names[0] in ("text", "audio"):
            raise ValueError(f"expected one of scenes, images and videos; got {' and '.join(names) or 'none of them'}")
        own = "images" if videos is None else "videos"
        groups = {name: kwargs.pop(f"{name}_kwargs", None) for name in ("text", "audio", "images", "videos", "common")}
        options = {**kwargs, **(groups["common"] or {}), **(groups[own] or {})}
        return_tensors = options.pop("return_tensors", return_tensors)
        if options.get("do_rescale") is False and _has_floats(given[names[0]]):
            options["do_rescale"] = True  # frames from 0 to 1 have 8 bits from here on

        if images is not None:
            pixels = self._pixels(_images(images), options)
            return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)
        frames_per_scene = _frames_of_scenes(scenes) if videos is None else frames_of_videos(videos, options)
        lengths = [len(frames) for frames in frames_per_scene]
        pixels = self._pixels([frame for frames in frames_per_scene for frame in frames], options)
        frame_mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        pixel_values = np.zeros((*frame_mask.shape, *pixels.shape[1:]), dtype=pixels.dtype)
        pixel_values[frame_mask] = pixels
        return BatchFeature({"pixel_values": pixel_values, "frame_mask": frame_mask}, tensor_type=return_tensors)

    def _pixels(self, frames: list[Any], options: dict[str, Any]) -> np.ndarray:
        """CLIP's pixels (frames, channels, height, width)."""
        return self.image_processor(images=frames, return_tensors="np", **options)["pixel_values"]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers; also saves `preprocessor_config.json`, from which `AutoVideoProcessor` loads."""
        self.image_processor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "frame_mask"]


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim <= 3)


def _has_floats(item: Any) -> bool:
    """Whether the first frame below `item` has floating-point values."""
    while isinstance(item, list | tuple) and item:
        item = item[0]
    if isinstance(item, torch.Tensor):
        return item.is_floating_point()
    return isinstance(item, np.ndarray) and np.issubdtype(item.dtype, np.floating)


def _frames_of_scenes(scenes: Any) -> list[list[Any]]:
    """All frames of each scene."""
    if (
        _is_frame(scenes)
        or not hasattr(scenes, "__len__")
        or not len(scenes)
        or any(_is_frame(scene) for scene in scenes)
    ):
        raise ValueError(
            "expected a list of scenes, each a list of shots: processor([[shot_1, shot_2, …], …]); "
            "wrap one scene as processor([scene])"
        )
    return _not_empty("scene", [list(_frames(scene)) for scene in scenes])


def _not_empty(what: str, lists: list[list[Any]]) -> list[list[Any]]:
    """The lists unchanged; raises a ValueError if one has no frames."""
    for number, frames in enumerate(lists):
        if not frames:
            raise ValueError(f"{what} {number} has no frames")
    return lists


def _images(images: Any) -> list[Any]:
    """A list of single images; paths and URLs are loaded."""
    images = [images] if isinstance(images, str | os.PathLike) or _is_frame(images) else images
    frames = list(_frames(_loaded(images)))
    if not frames:
        raise ValueError("images is empty")
    return frames


def _loaded(frames: Any) -> Any:
    """A list of frames with its paths and URLs loaded; anything else unchanged."""
    if not isinstance(frames, list | tuple):
        return frames
    return [_load(load_image, frame) if isinstance(frame, str | os.PathLike) else frame for frame in frames]


def _load(loader: Any, source: str | os.PathLike, **options) -> Any:
    """The image or video behind a path or URL, read by one of transformers' loaders."""
    try:
        return loader(os.fspath(source), **options)
    except ImportError:
        raise
    except Exception as error:  # errors of files, networks and decoders have no class in common
        raise ValueError(f"{os.fspath(source)} cannot be read: {error}") from error


def frames_of_videos(videos: Any, options: dict[str, Any]) -> list[list[Any]]:
    """The frames of each video that a model reads, by the options in `options` that select them.

    Args:
        videos: as in [`M2SSceneProcessor`].
        options: `num_frames`, `do_sample_frames` and `video_metadata` are removed from it.

    Raises:
        ValueError: there is no video, or a video has no frames or cannot be read.
        ImportError: a path or URL is given, but PyAV is missing.
    """
    num_frames = options.pop("num_frames", None)
    num_frames = FRAMES_PER_VIDEO if num_frames is None else num_frames
    do_sample_frames = options.pop("do_sample_frames", None)
    metadata = options.pop("video_metadata", None)
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1")
    if _is_video(videos):
        videos = [videos]
        metadata = [metadata] if isinstance(metadata, Mapping) else metadata
    if _is_frame(videos) or not hasattr(videos, "__len__") or not len(videos):
        raise ValueError("expected videos: each a path, a URL, a list of frames, an array of frames or a VideoDecoder")
    metadata = metadata or [None] * len(videos)
    if len(metadata) != len(videos):
        raise ValueError(f"video_metadata has {len(metadata)} entries for {len(videos)} videos")
    lists = [
        _frames_of_video(video, None if is_whole else num_frames)
        for video, known in zip(videos, metadata, strict=True)
        for is_whole in [not do_sample_frames if do_sample_frames is not None else _is_in_memory(video) and not known]
    ]
    return _not_empty("video", lists)


def _frames_of_video(video: Any, num_frames: int | None) -> list[Any]:
    """The middle frames of `num_frames` equal parts of a video; all frames if None."""
    if isinstance(video, str | os.PathLike):
        path = os.fspath(video)

        def sample(metadata: Any, **_: Any) -> list[int]:
            return _middles(metadata.total_num_frames or _count_frames(path), num_frames)

        return list(_load(load_video, path, sample_indices_fn=sample)[0])
    if _is_decoder(video):
        if not video.metadata.num_frames:
            raise ValueError("the VideoDecoder does not know its number of frames (metadata.num_frames)")
        return list(video.get_frames_at(_middles(video.metadata.num_frames, num_frames)).data)
    frames = list(_frames(_loaded(video)))
    return [frames[index] for index in _middles(len(frames), num_frames)]


def _middles(total: int, num_frames: int | None) -> list[int]:
    """Indices of the middle frames of `num_frames` equal parts of `total` frames; all if there are not more frames."""
    if num_frames is None or num_frames >= total:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * num_frames) for part in range(num_frames)]


def _count_frames(path: str) -> int:
    """Number of frames in a file whose container does not state it."""
    try:
        import av
    except ImportError:
        raise ImportError("reading videos needs PyAV: pip install av") from None
    with av.open(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _is_decoder(item: Any) -> bool:
    """Whether an object has the interface of torchcodec's `VideoDecoder`."""
    return hasattr(item, "get_frames_at") and hasattr(item, "metadata")


def _is_in_memory(video: Any) -> bool:
    return not (isinstance(video, str | os.PathLike) or _is_decoder(video))


def _is_video(item: Any) -> bool:
    """Whether it is one video and not a list of them."""
    if not _is_in_memory(item):
        return True
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim == 4
    return isinstance(item, list | tuple) and bool(item) and all(map(_is_frame, item))


def _frames(item: Any) -> Iterator[Any]:
    """All frames below `item`, in order."""
    if _is_frame(item):
        yield rgb_frame(item)
    elif isinstance(item, str | bytes) or not isinstance(item, Iterable):
        raise ValueError(f"{item!r} is not a frame; frames are PIL images, numpy arrays or torch tensors")
    else:
        for part in item:
            yield from _frames(part)


__all__ = ["M2SSceneProcessor"]
