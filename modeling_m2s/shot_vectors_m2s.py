"""The keyframes of stored films, read ahead of the encoder, and the encoder's vector of each shot by itself.

index/
  shot_features/     one row a film: the vectors of its shots
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .figures_m2s import THUMBNAIL_WIDTH
from .frames_m2s import Preparation, ahead, normalize
from .pipeline_m2s import SceneEmbeddingPipeline, open_image
from .storage_m2s import FilmDataset, StoredFilm

SHOTS_AT_A_TIME = 16  # whose keyframes are prepared together
MOST_READERS = 8  # threads that prepare keyframes for a GPU
DTYPE = np.dtype("<f2")


class ShotFrames(NamedTuple):
    """The keyframes of a shot: pixels (F, C, Y, X), uint8, and the first one, small; both None if there is none."""

    pixels_FCYX: torch.Tensor | None
    thumbnail: Image.Image | None


class ShotReader:
    """Reads the keyframes of stored films and runs the encoder on them.

    Threads prepare the keyframes ahead of the encoder, since Pillow works without Python's lock. Leaving the context
    ends them.

    Args:
        shots: the dataset of the films' shots.
        pipeline: holds the encoder.
    """

    def __init__(self, shots: FilmDataset, pipeline: SceneEmbeddingPipeline):
        self.shots, self.pipeline = shots, pipeline
        self.prepare = Preparation(pipeline.image_processor)
        on_cpu = pipeline.device.type == "cpu"
        self.readers = ThreadPoolExecutor(1 if on_cpu else min(MOST_READERS, os.cpu_count() or 1))

    def __enter__(self) -> "ShotReader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.readers.shutdown(cancel_futures=True)

    def frames(self, film: StoredFilm) -> Iterator[ShotFrames]:
        """The keyframes of each shot of a film, in order. Every keyframe is opened once."""
        return (frames for piece in ahead(self._read, pieces(self.shots, film), self.readers) for frames in piece)

    def _read(self, shots: list[list[dict[str, Any]]]) -> list[ShotFrames]:
        read = []
        for keyframes in shots:
            images = [open_image(keyframe["bytes"]) for keyframe in keyframes]
            if images:
                pixels_FCYX = torch.from_numpy(np.stack([self.prepare(image) for image in images]))
                read.append(ShotFrames(pixels_FCYX, thumbnail(images[0])))
            else:
                read.append(ShotFrames(None, None))
        return read

    @torch.inference_mode()
    def encode(self, pixels_BFCYX: torch.Tensor) -> np.ndarray:
        """The encoder's `pooler_output` (B, D), float32, of scenes of equally many frames."""
        model = self.pipeline.model
        pixel_values = normalize(pixels_BFCYX.to(model.device, non_blocking=True), self.pipeline.image_processor)
        return model(pixel_values=pixel_values.to(model.dtype)).pooler_output.float().cpu().numpy()


class ShotVectors:
    """The `shot_features` of an index: the encoder's vector of each shot by itself, all its keyframes read jointly.

    Args:
        folder: folder of the index.
        model: the encoder's name.
        settings: settings of the index's scenes; those that make vectors, the revision and the dtype, are used.

    Attributes:
        stored: the films in it, by id.
    """

    def __init__(self, folder: Path, model: str, settings: Mapping[str, Any]):
        self.dataset = FilmDataset(folder / "shot_features", "shot_features")
        self.settings = {"encoder": model, "keyframe": "all", "vector": "pooler_output"}
        self.settings |= {name: settings[name] for name in ("revision", "dtype")}
        self.stored = self.dataset.films()

    def begin(self) -> None:
        """Start or continue writing. An encoder of the same revision is the same one, though it has moved.

        Raises:
            StorageError: the folder was made with other settings.
        """
        found = self.dataset.record.get("settings", {})
        if found.get("revision") == self.settings["revision"]:
            self.settings["encoder"] = found["encoder"]
        self.dataset.begin(self.settings)

    def lack(self, film: StoredFilm) -> bool:
        """Whether the vectors of a film are missing, or those of an earlier file of it."""
        stored = self.stored.get(film.movie_id)
        return stored is None or stored.facts != identity(film)

    def of(self, movie_id: str) -> np.ndarray:
        """The vectors (T, D) of a film's shots, float16; zeros for a shot without a keyframe."""
        (row,) = (row for table in self.dataset.read_film(self.stored[movie_id]) for row in table.to_pylist())
        return np.frombuffer(row["features"], DTYPE).reshape(row["num_shots"], row["dim"])

    def write(self, film: StoredFilm, reader: ShotReader, report: Callable[[float], None] | None = None) -> None:
        """Read a film's shots, each by itself, and store their vectors.

        Args:
            report: called with the share of its shots read.

        Raises:
            ValueError: a vector is infinite or not a number.
        """
        features_TD = np.zeros((film.num_rows, reader.pipeline.model.config.hidden_size), DTYPE)
        waiting: list[tuple[int, torch.Tensor]] = []
        for shot, (pixels_FCYX, _) in enumerate(reader.frames(film), 1):
            if pixels_FCYX is not None:
                waiting.append((shot - 1, pixels_FCYX))
            if shot % SHOTS_AT_A_TIME == 0 or shot == film.num_rows:
                for _, group in groupby(waiting, key=lambda each: len(each[1])):
                    numbers, pixels = zip(*group, strict=True)
                    features_TD[list(numbers)] = reader.encode(torch.stack(pixels))
                waiting = []
                if report:
                    report(shot / film.num_rows)
        if not np.isfinite(features_TD).all():
            raise ValueError(f"film {film.movie_id}: the encoder's vector of a shot is infinite or not a number")
        size = {"num_shots": film.num_rows, "dim": features_TD.shape[1], "dtype": "float16"}
        row = {"movie_id": film.movie_id, **size, "features": features_TD.tobytes()}
        self.dataset.write_film(film.movie_id, [row], identity(film))
        self.stored[film.movie_id] = self.dataset.part(film.movie_id)

    def finish(self, films: Mapping[str, StoredFilm], shot_settings: Mapping[str, Any]) -> None:
        """Pack the vectors of these films; those of others are dropped."""
        self.dataset.finish(films, {}, inputs={"shots": shot_settings})
        self.stored = self.dataset.films()


def pieces(shots: FilmDataset, film: StoredFilm) -> Iterator[list[list[dict[str, Any]]]]:
    """The cells with a film's keyframes, those of some shots at a time."""
    for table in shots.read_film(film, columns=["keyframes"]):
        for first in range(0, len(table), SHOTS_AT_A_TIME):
            yield table["keyframes"].slice(first, SHOTS_AT_A_TIME).to_pylist()


def thumbnails(shots: FilmDataset, film: StoredFilm) -> Iterator[Image.Image | None]:
    """The first keyframe of each shot, small; None for a shot without one."""
    for piece in pieces(shots, film):
        for keyframes in piece:
            yield thumbnail(open_image(keyframes[0]["bytes"])) if keyframes else None


def thumbnail(image: Image.Image) -> Image.Image:
    """An image made as small as contact sheets show it, in place."""
    image.thumbnail((THUMBNAIL_WIDTH, image.height))
    return image


def identity(film: StoredFilm) -> dict[str, Any]:
    """Facts of a film's vectors. They differ from the film's own if its file was replaced."""
    return {"fingerprint": film.facts["fingerprint"]}
