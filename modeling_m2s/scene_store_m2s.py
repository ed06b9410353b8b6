"""Stored films in, their `scene_embeddings` and contact sheets out."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image

from .figures_m2s import THUMBNAIL_WIDTH, contact_sheet, encode, timecode
from .frames_m2s import Preparation, ahead, normalize
from .pipeline_m2s import SceneEmbeddingPipeline, describe_scene, open_image, scene_batches, scene_windows
from .pretrained_m2s import model_name
from .shot_store_m2s import read_shots
from .shots_m2s import Shot
from .storage_m2s import FilmDataset, StoredFilm, atomic_write, default_values, file_name

SHOTS_AT_A_TIME = 16  # whose keyframes are prepared together
MOST_READERS = 8  # threads that prepare keyframes for a GPU


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are cut and embedded; goes into the record of a `scene_embeddings` dataset.

    Args:
        revision: identifies the encoder's weights: the Hub's commit, or a hash of a folder's files.
        shots_per_scene: shots that one scene spans.
        stride: shots from one scene's start to the next one's.
        dtype: number format that the model computed with.
    """

    revision: str
    shots_per_scene: int = 9
    stride: int = 9
    dtype: str = "float32"


class _ShotFrames(NamedTuple):
    """The keyframes of a shot: pixels (F, C, Y, X), uint8, and the first one, small; both None if there is none."""

    pixels_FCYX: torch.Tensor | None
    thumbnail: Image.Image | None


class SceneStore:
    """The scenes of stored films: the `scene_embeddings` of an index and its contact sheets.

    Threads prepare the keyframes ahead of the model, since Pillow works without Python's lock, and a thread writes a
    film's files while the next film is embedded. Leaving the context waits for them. An error in writing is raised by
    the next `embed`, or at the end.

    Args:
        folder: folder of the index.
        shots: the dataset of the films' shots.
        settings: must be those of an existing index.
        pipeline: holds the model.

    Attributes:
        dataset: the `scene_embeddings`.

    Raises:
        StorageError: the settings differ, or the record is lost.
    """

    def __init__(self, folder: Path, shots: FilmDataset, settings: SceneSettings, pipeline: SceneEmbeddingPipeline):
        self.folder, self.shots, self.settings, self.pipeline = folder, shots, settings, pipeline
        self.dataset = FilmDataset(folder / "scene_embeddings", "scene_embeddings")
        self.dataset.begin(asdict(settings), default_values(settings))
        self.stored = self.dataset.films()
        self.model_name = model_name(pipeline.model.config.name_or_path)
        self.prepare = Preparation(pipeline.image_processor)
        on_cpu = pipeline.device.type == "cpu"
        self.readers = ThreadPoolExecutor(1 if on_cpu else min(MOST_READERS, os.cpu_count() or 1))
        self.writer = ThreadPoolExecutor(1)
        self.written: Future[None] | None = None

    def __enter__(self) -> "SceneStore":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.readers.shutdown(cancel_futures=True)
        self.writer.shutdown()
        if self.written and kind is None:
            self.written.result()

    def lack(self, film: StoredFilm) -> bool:
        """Whether the scenes of a film are missing, or those of an earlier file of it."""
        embedded = self.stored.get(film.movie_id)
        return embedded is None or embedded.facts["fingerprint"] != film.facts["fingerprint"]

    def finish(self, failed: Mapping[str, str]) -> None:
        """Pack the embeddings of all films of the shots, which are finished, and remove pictures of failed films."""
        self.dataset.finish(
            self.shots.films(),
            failed,
            model=self.model_name,
            inputs={"shots": self.shots.record["settings"]},
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        for movie_id in failed:
            self._sheet_path(movie_id).unlink(missing_ok=True)

    def embed(self, film: StoredFilm, report: Callable[[float], None]) -> None:
        """Embed the scenes of a film; `report` is called with the share done.

        Raises:
            ValueError: no shot of it has a keyframe.
            StorageError: the film before could not be written.
        """
        shots = read_shots(self.shots, film, with_keyframes=False)
        thumbnails: list[Image.Image | None] = []
        scenes = []
        for scene in self._scenes(film, shots, thumbnails):
            scenes.append(scene)
            report((scene["first_shot"] + scene["num_shots"]) / len(shots))
        if self.written:
            self.written.result()
        self.written = self.writer.submit(self._write, film, shots, scenes, thumbnails)

    def _scenes(
        self, film: StoredFilm, shots: list[Shot], thumbnails: list[Image.Image | None]
    ) -> Iterator[dict[str, Any]]:
        """Scenes as the pipeline gives them; adds a thumbnail of each shot. Every keyframe is opened once."""
        windows = scene_windows(len(shots), self.settings.shots_per_scene, self.settings.stride)
        batches = list(
            scene_batches([len(shot.keyframe_frames) for shot in shots], windows, self.pipeline.scenes_per_batch)
        )
        if not batches:
            raise ValueError(f"none of the film's {len(shots)} shots has a keyframe")
        pieces = (
            table["keyframes"].slice(first, SHOTS_AT_A_TIME).to_pylist()
            for table in self.shots.read_film(film)
            for first in range(0, len(table), SHOTS_AT_A_TIME)
        )
        read = (frames for piece in ahead(self._read, pieces, self.readers) for frames in piece)
        pixels: dict[int, torch.Tensor] = {}
        for batch in batches:
            first, last = batch[0][0], sum(batch[-1])
            pixels = {shot: found for shot, found in pixels.items() if shot >= first}
            for shot in range(len(thumbnails), last):
                found, thumbnail = next(read)
                thumbnails.append(thumbnail)
                if found is not None:
                    pixels[shot] = found
            scenes = [torch.cat([pixels[s] for s in range(start, start + n) if s in pixels]) for start, n in batch]
            for window, embedding in zip(batch, self._run_model(torch.stack(scenes)), strict=True):
                yield {**describe_scene(shots, window), "embedding": embedding}
        thumbnails += [thumbnail for _, thumbnail in read]

    def _read(self, shots: list[list[dict[str, Any]]]) -> list[_ShotFrames]:
        """The keyframes of some shots, from their cells in the dataset."""
        read = []
        for keyframes in shots:
            images = [open_image(keyframe["bytes"]) for keyframe in keyframes]
            if images:
                pixels_FCYX = torch.from_numpy(np.stack([self.prepare(image) for image in images]))
                images[0].thumbnail((THUMBNAIL_WIDTH, images[0].height))
                read.append(_ShotFrames(pixels_FCYX, images[0]))
            else:
                read.append(_ShotFrames(None, None))
        return read

    @torch.inference_mode()
    def _run_model(self, pixels_BFCYX: torch.Tensor) -> np.ndarray:
        """Embeddings (B, D), float32, of scenes."""
        model = self.pipeline.model
        pixel_values = normalize(pixels_BFCYX.to(model.device, non_blocking=True), self.pipeline.image_processor)
        return model(pixel_values=pixel_values.to(model.dtype)).pooler_output.float().cpu().numpy()

    def _write(
        self, film: StoredFilm, shots: list[Shot], scenes: list[dict[str, Any]], thumbnails: list[Image.Image | None]
    ) -> None:
        sheet = contact_sheet(
            f"{film.movie_id}   {timecode(film.facts['duration_seconds'])}   {len(shots)} shots, {len(scenes)} scenes",
            thumbnails,
            [shot.start_seconds for shot in shots],
            [(scene["first_shot"], scene["num_shots"]) for scene in scenes],
            columns=self.settings.shots_per_scene,
        )
        with atomic_write(self._sheet_path(film.movie_id)) as file:
            file.write(encode(sheet, "JPEG"))
        rows = [
            {
                **scene,
                "scene_id": f"{film.movie_id}:{scene['first_shot']}-{scene['first_shot'] + scene['num_shots'] - 1}",
                "movie_id": film.movie_id,
                "model": self.model_name,
                "revision": self.settings.revision,
            }
            for scene in scenes
        ]
        self.dataset.write_film(film.movie_id, rows, {"fingerprint": film.facts["fingerprint"]})

    def _sheet_path(self, movie_id: str) -> Path:
        return self.folder / "contact_sheets" / f"{file_name(movie_id)}.jpg"
