"""The features of `eval.pixel_features`. Shapes: M shots of a film, D = 192 numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPImageProcessorPil

from data_scripts.features.shot_features import DTYPE
from data_scripts.readers.scene_frames import SceneFrames
from eval.images.measures import unit_contrast
from modeling_m2s.storage_m2s import FilmDataset, exclusive

SIDE = 8


def pixel_features(shots: Path, output: Path) -> None:
    """Write the 8×8 pixels of every shot's middle keyframe as a `shot_features` dataset.

    Raises:
        StorageError: the shots cannot be read, or the output has other settings.
    """
    processor = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    frames = SceneFrames(shots, processor, arrow_copy=False)
    dataset = FilmDataset(output, "shot_features")
    with exclusive(output):
        dataset.begin({"encoder": f"{SIDE}×{SIDE} pixels", "revision": "1", "shots": frames.record["settings"]})
        if not dataset.record.get("complete"):
            dataset.write_all(list(_rows(frames)))
    print(f"{len(frames.movie_ids)} films in {output}")
    print(f"next: python -m eval.scene_retrieval --features {output}")


def _rows(frames: SceneFrames) -> Iterator[dict[str, Any]]:
    for movie_id in frames.movie_ids:
        features_MD = shot_pixels(*frames.read(movie_id, 0, frames.num_shots[movie_id])).astype(DTYPE)
        size = {"num_shots": len(features_MD), "dim": features_MD.shape[1], "dtype": "float16"}
        yield {"movie_id": movie_id, **size, "features": features_MD.tobytes()}


def shot_pixels(pixels_MCYX: torch.Tensor, readable_M: torch.Tensor) -> np.ndarray:
    """Pixels (M, D) of mean 0 and standard deviation 1; zeros for a shot that cannot be read."""
    return unit_contrast(pixels_MCYX.flatten(1).numpy()) * readable_M.numpy()[:, None]
