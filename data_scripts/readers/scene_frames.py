"""The one reader of frames: keyframes of neighboring shots, as uint8 pixels of the size that an encoder reads.

    >>> frames = SceneFrames("catalog/shots", image_processor)
    >>> pixels_FCYX, readable_F = frames.read("tt0133093", first_shot=12, num_shots=9)
    >>> pixel_values = normalize(pixels_FCYX.to("cuda"), image_processor)          float32, what the encoder reads

Pixels are those that the image processor gives before it rescales. Normalizing them on the device costs less than
sending it floats. Reading needs no process of its own: a `DataLoader`'s workers call `read`, ahead of the model.

Names of tensors end in their shape: F frames (shots × frames per shot), C color channels, Y×X pixels.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers import BaseImageProcessor

from data_scripts.readers.stored_shots import ArrowShots, ParquetShots, ShotRows
from modeling_m2s.frames_m2s import Preparation
from modeling_m2s.storage_m2s import StorageError


class FramesRead(NamedTuple):
    """Frames of neighboring shots.

    Attributes:
        pixels_FCYX: uint8 (F, C, Y, X), zeros where a frame is not readable.
        readable_F: bool (F,), False where a shot has no keyframe or its keyframe does not decode.
    """

    pixels_FCYX: torch.Tensor
    readable_F: torch.Tensor


class SceneFrames:
    """Keyframes of neighboring shots as uint8 pixels, resized and cropped like `CLIPImageProcessor`.

    A local folder is read through an Arrow copy that `datasets` makes in its cache, once for all processes and runs on
    a machine: the nine shots of a scene are then a slice of a mapped file. The paper reads one keyframe per shot [4.2].
    With `frames_per_shot` of k > 1 (ours), the stored keyframes that are nearest the middles of k equal parts of their
    sequence are read. A shot with fewer than k, such as one of two video frames, repeats some.

    Object stores: `shots` may be any URL that fsspec reads, such as s3://…, hf://datasets/…, https://… or memory://….
    No copy is made then. The record names the shards, and their footers, which are read once, say where films are. A
    read fetches the row groups that hold the shots. A row group has 64 rows, so nine shots cost about seven times their
    bytes, and a read may wait for the network twice. Reads in order fetch each row group once.

    An object can be sent to worker processes, forked or spawned: it holds names and numbers of rows, and each process
    opens files for itself.

    Args:
        shots: folder or URL of a finished `shots` dataset.
        image_processor: says how frames are resized and cropped.
        frames_per_shot: 1 reads the stored keyframe nearest the shot's middle (ties: the earlier).
        cache: folder of the Arrow copy; by default the cache of `datasets`.
        arrow_copy: False reads a local folder as if it were a URL, which suits a single pass in order.

    Attributes:
        movie_ids: ids of the films, sorted.
        num_shots: number of shots by film.
        record: content of the `m2s.json` of the shots.
        frame_bytes: size of a frame in bytes, or 3 if the image processor leaves frames of several sizes.

    Raises:
        StorageError: no finished `shots` dataset, a shard is missing or cut, or fewer keyframes per shot are stored
            than `frames_per_shot`.
    """

    def __init__(
        self,
        shots: Path | str,
        image_processor: BaseImageProcessor,
        frames_per_shot: int = 1,
        cache: Path | None = None,
        arrow_copy: bool = True,
    ):
        if frames_per_shot < 1:
            raise ValueError(f"frames_per_shot={frames_per_shot} must be at least 1")
        self.image_processor, self.frames_per_shot = image_processor, frames_per_shot
        is_url = "://" in str(shots)
        self._rows: ShotRows = ArrowShots(shots, cache) if arrow_copy and not is_url else ParquetShots(shots)
        self.record: dict[str, Any] = self._rows.record
        stored = self.record.get("settings", {}).get("keyframes_per_shot", frames_per_shot)
        if stored < frames_per_shot:
            raise StorageError(
                f"{shots}: frames_per_shot={frames_per_shot}, but at most {stored} keyframes a shot are stored; read "
                "fewer, or detect the shots again with more"
            )
        self.movie_ids = sorted(self._rows.films)
        self.num_shots = {movie_id: self._rows.films[movie_id].num_rows for movie_id in self.movie_ids}
        self._prepare = Preparation(image_processor)
        height, width = self._prepare.size
        self.frame_bytes = 3 * height * width

    def read(self, movie_id: str, first_shot: int, num_shots: int) -> FramesRead:
        """Frames of `num_shots` shots from `first_shot` on, shot after shot.

        A bad keyframe is never an error: the caller counts what is not readable; `data_scripts.check` says why.

        Raises:
            StorageError: no such film, shots past its end, or a shard that cannot be read.
            ValueError: the image processor leaves the frames of different sizes.
        """
        found = [_decode(keyframe) for keyframe in self._keyframes(movie_id, first_shot, num_shots)]
        frames = {place: self._prepare(image) for place, image in enumerate(found) if image is not None}
        shapes = {frame.shape for frame in frames.values()}
        if len(shapes) > 1:
            raise ValueError(
                f"film {movie_id}, shots {first_shot} to {first_shot + num_shots - 1}: the image processor leaves "
                f"frames of {len(shapes)} sizes; it needs a crop or a fixed height and width"
            )
        shape = shapes.pop() if shapes else (3, *self._prepare.size)
        pixels_FCYX, readable_F = np.zeros((len(found), *shape), np.uint8), torch.zeros(len(found), dtype=torch.bool)
        for place, frame in frames.items():
            pixels_FCYX[place], readable_F[place] = frame, True
        return FramesRead(torch.from_numpy(pixels_FCYX), readable_F)

    def _keyframes(self, movie_id: str, first_shot: int, num_shots: int) -> list[pa.Buffer | None]:
        there = self.num_shots.get(movie_id)
        asked = (
            f"{self._rows.name}: shots {first_shot} to {first_shot + num_shots - 1} of film {movie_id} are asked for"
        )
        if there is None:
            raise StorageError(f"{asked}, but no such film is there")
        if not 0 <= first_shot <= first_shot + num_shots <= there:
            raise StorageError(f"{asked}, but it has {there} shots")
        keyframes = []
        for batch in self._rows.read(movie_id, first_shot, num_shots):
            keyframes += choose_keyframes(batch, self.frames_per_shot)
        return keyframes


def choose_keyframes(batch: pa.RecordBatch, frames_per_shot: int = 1) -> list[pa.Buffer | None]:
    """Bytes of `frames_per_shot` keyframes for each row of a `shots` dataset, None where a shot has no keyframe.

    They are views of the batch; nothing is copied.
    """
    starts, ends = (batch.column(name).to_numpy() for name in ("start_frame", "end_frame"))
    frames, images = batch.column("keyframe_frames"), batch.column("keyframes")
    frame_places, image_places = frames.offsets.to_numpy(), images.offsets.to_numpy()
    frame_numbers, contents = frames.values.to_numpy(), images.values.field("bytes")
    chosen: list[pa.Buffer | None] = []
    for row in range(len(batch)):
        first, stored = int(image_places[row]), int(image_places[row + 1] - image_places[row])
        if not stored:
            chosen += [None] * frames_per_shot
            continue
        if frames_per_shot == stored:
            places = list(range(stored))
        elif frames_per_shot == 1:
            numbers = frame_numbers[frame_places[row] : frame_places[row + 1]]
            places = [int(np.abs(2 * numbers - (starts[row] + ends[row] - 1)).argmin())]
        else:
            places = [(2 * part + 1) * stored // (2 * frames_per_shot) for part in range(frames_per_shot)]
        chosen += [contents[first + place].as_buffer() for place in places]
    return chosen


def _decode(keyframe: pa.Buffer | None) -> Image.Image | None:
    """A keyframe as an RGB image; None if none is stored, or it does not decode."""
    if keyframe is None:
        return None
    try:
        image = Image.open(io.BytesIO(keyframe))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception:  # Pillow's decoders raise errors of many kinds on broken bytes
        return None
