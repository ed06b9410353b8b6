"""Queries of a search for scenes: a clip of a film, or pictures, as vectors of the index's encoder."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .figures_m2s import timecode
from .images_m2s import open_picture
from .pipeline_m2s import SceneEmbeddingPipeline, evenly_spaced, open_image
from .search_m2s import SceneIndex
from .shots_m2s import UNRECORDED, Film, ShotSettings, detect_shots
from .video_m2s import VideoError, printable

MOST_SHOWN = 18  # shots of a clip in the picture of a search


@dataclass
class Query:
    """A query: a line that describes it, its vectors (Q, D), pictures to show it by, its shots if it has any."""

    caption: str
    vectors: np.ndarray
    keyframes: Sequence[Image.Image | None]


def clip_query(
    index: SceneIndex, pipeline: SceneEmbeddingPipeline, video: Path, start: float = 0.0, end: float | None = None
) -> Query:
    """A video file, or a stretch of it, as a query: the scenes within it, cut and read as those of the index.

    The file is decoded from its beginning, so that shots and keyframes are those of the stretch to the frame. Its video
    stream is the one that a player shows, whichever the index reads: clips of hits have no other.

    Args:
        start, end: film time in seconds; the whole file by default.

    Raises:
        VideoError: the file is no readable video, or has no picture in the stretch.
    """
    span = None if not start and end is None else (start, float("inf") if end is None else end)
    settings = {**UNRECORDED, **index.shots.record["settings"], "video_stream": None}
    film = detect_shots(video, ShotSettings(**settings), span=span, device=str(pipeline.device))
    vectors_QD, shots = _scene_vectors(film, pipeline, index.record["settings"]), film.shots
    times = f"{timecode(shots[0].start_seconds, tenths=True)}-{timecode(shots[-1].end_seconds, tenths=True)}"
    caption = f"{printable(video)}  {times}  {_count(shots, 'shot')}, {_count(vectors_QD, 'scene')}"
    shown = shots[:: -(-len(shots) // MOST_SHOWN)]
    keyframes = [open_image(shot.keyframes[0]) if shot.keyframes else None for shot in shown]
    return Query(caption, vectors_QD, keyframes)


def _scene_vectors(film: Film, pipeline: SceneEmbeddingPipeline, settings: Mapping[str, Any]) -> np.ndarray:
    """Vectors (Q, D) of a clip's scenes, made as the index's; among story scenes, the whole clip is one scene."""
    most, stride, vector = settings["shots_per_scene"], settings["stride"], settings.get("scene_vector", "joint")
    if settings.get("scenes") == "story":
        if vector == "joint":
            having = [shot for shot in film.shots if shot.keyframes]
            film = replace(film, shots=[having[place] for place in evenly_spaced(0, len(having), most)])
        most = stride = len(film.shots)
    scenes = pipeline(film, shots_per_scene=most, stride=stride, scene_vector=vector)
    return np.stack([scene["embedding"] for scene in scenes])


def image_query(index: SceneIndex, pipeline: SceneEmbeddingPipeline, images: Sequence[Path]) -> Query:
    """Still images as a query: one scene, whose shots are the images in their order.

    Raises:
        VideoError: a file cannot be read, or is no image.
    """
    pictures, caption = [_open(image) for image in images], "  ".join(map(printable, images))
    if index.record["settings"].get("scene_vector") == "mean":
        return Query(caption, pipeline.embed_images(pictures).mean(0, keepdims=True), pictures)
    pixel_values = pipeline.scene_processor([pictures])["pixel_values"]
    outputs = pipeline.postprocess([pipeline.forward({"pixel_values": pixel_values, "scenes": [{}]})])
    return Query(caption, np.stack([scene["embedding"] for scene in outputs]), pictures)


def _open(image: Path) -> Image.Image:
    try:
        return open_picture(image)
    except UnidentifiedImageError:
        raise VideoError(image, "not an image") from None
    except OSError as error:
        raise VideoError(image, error.strerror or str(error)) from None
    except ValueError as error:
        raise VideoError(image, str(error)) from None


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"
