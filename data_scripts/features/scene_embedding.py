"""Embed scenes of a `shots` dataset: choose their shots, read their frames, run a scene encoder on them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data_scripts.readers.decoded import decoded
from data_scripts.readers.scene_frames import SceneFrames
from modeling_m2s import M2SSceneEnsembleModel, M2SSceneModel
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.pretrained_m2s import computing_format


class Scene(NamedTuple):
    """Some shots of a film, in order."""

    movie_id: str
    shots: Sequence[int]


def read_scene(frames: SceneFrames, scene: Scene) -> tuple[torch.Tensor, list[tuple[str, int]]]:
    """uint8 pixels (F, C, Y, X) of a scene's shots, and the film and shot of each frame that does not decode.

    Such a frame is replaced by the nearest readable frame of the scene; if no frame is readable, all are black.

    Raises:
        StorageError: a film that the shots lack, or shots past its end.
    """
    shots = list(scene.shots)
    if shots[-1] - shots[0] == len(shots) - 1:
        read = [frames.read(scene.movie_id, shots[0], len(shots))]
    else:
        read = [frames.read(scene.movie_id, shot, 1) for shot in shots]
    pixels_FCYX = torch.cat([each.pixels_FCYX for each in read])
    readable_F = torch.cat([each.readable_F for each in read])
    if readable_F.all():
        return pixels_FCYX, []
    frames_F = torch.arange(len(readable_F))
    missing = [(scene.movie_id, shots[frame // frames.frames_per_shot]) for frame in frames_F[~readable_F].tolist()]
    if readable_F.any():
        distance_FF = (frames_F[:, None] - frames_F[None]).abs().masked_fill(~readable_F[None], len(frames_F))
        pixels_FCYX = pixels_FCYX[distance_FF.argmin(1)]
    return pixels_FCYX, missing


class SceneBatches(Dataset):
    """Batches of scenes that have the same number of shots, so that nothing is padded.

    Attributes:
        batches: numbers of the scenes of each batch.
    """

    def __init__(self, frames: SceneFrames, scenes: Sequence[Scene], batch_size: int):
        self.frames, self.scenes = frames, scenes
        by_length: dict[int, list[int]] = {}
        for number, scene in enumerate(scenes):
            by_length.setdefault(len(scene.shots), []).append(number)
        self.batches = [
            numbers[start : start + batch_size]
            for _, numbers in sorted(by_length.items())
            for start in range(0, len(numbers), batch_size)
        ]

    @property
    def item_bytes(self) -> int:
        """Size of the largest batch in bytes."""
        shots = max((len(numbers) * len(self.scenes[numbers[0]].shots) for numbers in self.batches), default=0)
        return shots * self.frames.frames_per_shot * self.frames.frame_bytes

    def __getitem__(self, batch: int) -> torch.Tensor:
        """uint8 pixels (B, F, C, Y, X)."""
        return torch.stack([read_scene(self.frames, self.scenes[number])[0] for number in self.batches[batch]])


@torch.inference_mode()
def embed_scenes(
    encoder: M2SSceneModel | M2SSceneEnsembleModel,
    frames: SceneFrames,
    scenes: Sequence[Scene],
    bf16: bool = False,
    batch_size: int = 16,
    num_workers: int | None = None,
) -> np.ndarray:
    """`pooler_output` float32 (scenes, D), in the order of the scenes. Workers decode while the encoder computes.

    Args:
        bf16: compute in bfloat16, if the device has instructions for it.
        num_workers: as in `decoded`.

    Raises:
        StorageError: a film that the shots lack, or shots past its end.
    """
    was_training, device = encoder.training, encoder.device
    encoder.eval()
    batches = SceneBatches(frames, scenes, batch_size)
    found = np.zeros((len(scenes), encoder.config.hidden_size), np.float32)
    order, dtype = range(len(batches.batches)), computing_format(bf16, device)
    read = decoded(batches, order, num_workers, device, batches.item_bytes)
    for numbers, pixels_BFCYX in zip(batches.batches, read, strict=True):
        pixel_values = normalize(pixels_BFCYX.to(device, non_blocking=True), frames.image_processor)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            found[numbers] = encoder(pixel_values).pooler_output.float().cpu().numpy()
    encoder.train(was_training)
    return found
