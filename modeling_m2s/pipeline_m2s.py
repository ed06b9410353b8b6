"""`pipeline("scene-embedding")`: a video file to its scenes, each with its place in time and its embedding."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

from .ensemble_m2s import M2SSceneEnsembleModel
from .modeling_m2s import M2SSceneModel
from .processing_m2s import M2SSceneProcessor

if TYPE_CHECKING:
    from .shots_m2s import Shot, ShotSettings

logger = logging.getLogger(__name__)

SHOTS_PER_SCENE = 9  # the paper's
SceneVector = Literal["joint", "mean"]


def scene_windows(
    num_shots: int, shots_per_scene: int = SHOTS_PER_SCENE, stride: int | None = None
) -> list[tuple[int, int]]:
    """Scenes of a film as (first shot, number of shots): windows every `stride` shots until one reaches the end.

    The paper's scene is nine consecutive shots (§3, §4.2). Without a stride scenes do not overlap; the last may be
    shorter, so that every shot is in a scene.

    Raises:
        ValueError: a window or stride that is not positive, or a stride that would leave shots out.
    """
    stride = shots_per_scene if stride is None else stride
    if not 1 <= stride <= shots_per_scene:
        raise ValueError(f"stride={stride} must be between 1 and shots_per_scene={shots_per_scene}")
    windows = []
    for first in range(0, num_shots, stride):
        windows.append((first, min(shots_per_scene, num_shots - first)))
        if first + shots_per_scene >= num_shots:
            break
    return windows


def evenly_spaced(first_shot: int, num_shots: int, most: int = SHOTS_PER_SCENE) -> list[int]:
    """The shots of a scene that are read: all, or `most` evenly spaced ones if there are more than `most`."""
    read = min(num_shots, most)
    return [first_shot + int((place + 0.5) * num_shots / read) for place in range(read)]


class SceneEmbeddingPipeline(ChunkPipeline):
    """
    Scenes of a film and their embeddings, which are those of `m2s embed` up to rounding.

    ```python
    >>> import modeling_m2s
    >>> from transformers import pipeline

    >>> embed = pipeline("scene-embedding", model="openai/clip-vit-base-patch16")
    >>> scenes = embed("film.mp4", shots_per_scene=9)
    >>> scenes[0]["start_seconds"], scenes[0]["embedding"].shape
    (0.0, (768,))
    ```

    Keyframes pass through JPEG on their way to the model, exactly as they do when datasets are prepared for training.
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scene_processor = M2SSceneProcessor(self.image_processor)
        self.scenes_per_batch = 1 if self.device.type == "cpu" else 16

    def _sanitize_parameters(
        self,
        shots_per_scene: int | None = None,
        stride: int | None = None,
        shot_settings: "ShotSettings | None" = None,
        scenes_per_batch: int | None = None,
        scene_vector: SceneVector | None = None,
    ):
        if scene_vector not in (None, *get_args(SceneVector)):
            raise ValueError(f"scene_vector is {scene_vector!r}; it must be 'joint' or 'mean'")
        if scenes_per_batch is not None and scenes_per_batch < 1:
            raise ValueError(f"scenes_per_batch is {scenes_per_batch}; it must be at least 1")
        if isinstance(shot_settings, Mapping):
            from .shots_m2s import ShotSettings

            shot_settings = ShotSettings(**shot_settings)
        given = {
            "shots_per_scene": shots_per_scene,
            "stride": stride,
            "shot_settings": shot_settings,
            "scenes_per_batch": scenes_per_batch,
            "scene_vector": scene_vector,
        }
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def __call__(self, inputs: Any, **kwargs) -> Any:  # type: ignore[override]
        """
        Args:
            inputs: a video file's path, address (http:// or https://) or bytes; a row `{"path", "bytes"}` of
                `datasets.Video(decode=False)`; a `VideoDecoder` of torchcodec; a `Film` that `detect_shots` made; or a
                list, generator or dataset of these. A generator's films are read and embedded one by one.
            shots_per_scene (`int`, defaults to 9): shots that one scene spans.
            stride (`int`, defaults to `shots_per_scene`): shots from one scene's start to the next one's.
            shot_settings (`ShotSettings` or `dict`): detector, thresholds and keyframes, when the input is no `Film`.
            scenes_per_batch (`int`): scenes, or single shots for means, that the model reads at a time; 1 on a CPU,
                where more are slower (`benchmarks/embedding.py`), else 16.
            scene_vector (`"joint"` or `"mean"`): whether the model reads the shots of a scene together, as in the
                paper, or each by itself, and their embeddings are averaged (ours); by default `default_scene_vector`.

        Returns:
            For each film a list of `{"first_shot", "num_shots", "start_seconds", "end_seconds", "embedding"}`, the
            embedding a float32 array (hidden size,): the model's `pooler_output`, which the paper's probes use, or the
            mean of those of its shots.

        Raises:
            VideoError: the file cannot be read or downloaded.
            TypeError: an input is none of these.
            ValueError: a film without any keyframe, windows that make no sense, a `scenes_per_batch` below 1, or an
                unknown `scene_vector`.
        """
        if kwargs.get("batch_size") not in (None, 1):
            raise ValueError(f"batch_size={kwargs['batch_size']}: batches are of scenes here; use scenes_per_batch")
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    @property
    def default_scene_vector(self) -> SceneVector:
        """The embeddings that find best: joint ones of a model that was trained on scenes, or means (ours)."""
        return "joint" if self.model.config.trained_on_scenes else "mean"

    def iterate(self, film: Any, **kwargs) -> Iterator[dict[str, Any]]:
        """The scenes of one film as they are computed; arguments and entries as in a call."""
        parameters, _, _ = self._sanitize_parameters(**kwargs)
        yield from _scenes(map(self.forward, self.preprocess(film, **{**self._preprocess_params, **parameters})))

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embeddings (images, hidden size) of still images, each as a scene of one frame."""
        pixel_values = self.scene_processor([[image] for image in images])["pixel_values"]
        scenes: list[dict[str, Any]] = [{} for _ in images]
        outputs = self.postprocess([self.forward({"pixel_values": pixel_values, "scenes": scenes})])
        return np.stack([scene["embedding"] for scene in outputs])

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save the model and its image processor; `pipeline("scene-embedding", model=save_directory)` reads them again.

        transformers' own method also copies this file, but names the model's class as one of transformers.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)

    def preprocess(
        self,
        film: Any,
        shots_per_scene: int = 9,
        stride: int | None = None,
        shot_settings: "ShotSettings | None" = None,
        scenes_per_batch: int | None = None,
        scene_vector: SceneVector | None = None,
    ) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        if not hasattr(film, "shots"):
            from .shots_m2s import detect_shots
            from .video_m2s import printable, video_file

            with video_file(film) as path:
                film = detect_shots(path, shot_settings, device=str(self.device))
                if film.damage:
                    logger.warning("%s: %s", printable(path), film.damage)
        windows = scene_windows(len(film.shots), shots_per_scene, stride)
        is_mean = (scene_vector or self.default_scene_vector) == "mean"
        read = [(shot, 1) for shot in range(len(film.shots))] if is_mean else windows
        num_frames = [sum(len(shot.keyframes) for shot in film.shots[first : first + n]) for first, n in read]
        batches = list(scene_batches(num_frames, scenes_per_batch or self.scenes_per_batch))
        if not batches:
            raise ValueError(f"none of the film's {len(film.shots)} shots has a keyframe")
        before = 0
        for number, numbers in enumerate(batches, 1):
            batch = [read[k] for k in numbers]
            frames = [
                [list(map(open_image, shot.keyframes)) for shot in film.shots[first : first + n] if shot.keyframes]
                for first, n in batch
            ]
            model_inputs = {
                "pixel_values": self.scene_processor(frames)["pixel_values"],
                "scenes": [describe_scene(film.shots, window) for window in batch],
                "is_last": number == len(batches),  # tells transformers where a film ends
            }
            if is_mean:  # the scenes are those that no later batch belongs to
                after = len(film.shots) if model_inputs["is_last"] else read[batches[number][0]][0]
                ended = [window for window in windows if before < sum(window) <= after]
                model_inputs["shots"] = [shot for shot, _ in batch]
                model_inputs["scenes"] = [describe_scene(film.shots, window) for window in ended]
                before = after
            yield model_inputs

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        pixel_values = model_inputs.pop("pixel_values").to(self.model.dtype)
        return {**model_inputs, "embeddings": self.model(pixel_values=pixel_values).pooler_output}

    def postprocess(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:  # type: ignore[override]
        return list(_scenes(batches))


def _scenes(batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The scenes of a film from embeddings of them, or of its shots, as these come; without those that have none."""
    vectors: dict[int, np.ndarray] = {}
    for batch in batches:
        embeddings = batch["embeddings"].float().numpy()
        if "shots" in batch:
            vectors.update(zip(batch["shots"], embeddings, strict=True))
            spans = [range(scene["first_shot"], scene["first_shot"] + scene["num_shots"]) for scene in batch["scenes"]]
            read = [[vectors[shot] for shot in span if shot in vectors] for span in spans]
            embeddings = [np.mean(each, axis=0) if each else None for each in read]
        for scene, embedding in zip(batch["scenes"], embeddings, strict=True):
            if embedding is not None:
                yield {**scene, "embedding": embedding}


def open_image(jpeg: bytes) -> Image.Image:
    """A stored keyframe as an RGB image."""
    return Image.open(BytesIO(jpeg)).convert("RGB")


def scene_batches(num_frames: Sequence[int], scenes_per_batch: int) -> Iterator[list[int]]:
    """Numbers of consecutive scenes with equally many frames, so that no batch is padded; empty scenes are left out.

    Args:
        num_frames: number of frames that are read of each scene.
    """
    batch: list[int] = []
    for number, frames in enumerate(num_frames):
        if batch and (frames != num_frames[batch[0]] or len(batch) == scenes_per_batch):
            yield batch
            batch = []
        if frames:
            batch.append(number)
    if batch:
        yield batch


def describe_scene(shots: Sequence["Shot"], window: tuple[int, int]) -> dict[str, Any]:
    """The place of a scene in its film, in shots and seconds."""
    first, last = shots[window[0]], shots[window[0] + window[1] - 1]
    return {
        "first_shot": window[0],
        "num_shots": window[1],
        "start_seconds": first.start_seconds,
        "end_seconds": last.end_seconds,
    }


PIPELINE_REGISTRY.register_pipeline(
    "scene-embedding",
    pipeline_class=SceneEmbeddingPipeline,
    pt_model=(M2SSceneModel, M2SSceneEnsembleModel),  # the first one that can read the folder is taken
    type="video",
)

__all__ = ["SceneEmbeddingPipeline", "scene_windows"]
