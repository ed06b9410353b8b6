"""Labeled scenes of a `shots` dataset to embeddings: which shots are read, and a scene encoder over all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from data_scripts.readers.scene_frames import SceneFrames, normalize
from modeling_m2s import M2SSceneModel

SHOTS_PER_SCENE = 9


class Scene(NamedTuple):
    """Some shots of a film, in order."""

    movie_id: str
    shots: Sequence[int]


def evenly_spaced(first_shot: int, num_shots: int, most: int = SHOTS_PER_SCENE) -> list[int]:
    """Shots of a labeled scene that are read: all, or of more than `most` that many, evenly spaced over the scene."""
    read = min(num_shots, most)
    return [first_shot + int((place + 0.5) * num_shots / read) for place in range(read)]


@torch.inference_mode()
def embed_scenes(
    encoder: M2SSceneModel,
    frames: SceneFrames,
    scenes: Sequence[Scene],
    bf16: bool = False,
    batch_size: int = 16,
) -> np.ndarray:
    """`pooler_output` float32 (scenes, D), in the order of the scenes.

    Scenes with the same number of frames share a batch, so that nothing is padded. A frame that does not decode is
    black, as `SceneFrames` gives it.

    Raises:
        StorageError: a film that the shots lack, or shots past its end.
    """
    was_training, device = encoder.training, encoder.device
    encoder.eval()
    found = np.zeros((len(scenes), encoder.config.hidden_size), np.float32)
    order = sorted(range(len(scenes)), key=lambda number: (len(scenes[number].shots), number))
    start = 0
    while start < len(order):
        length = len(scenes[order[start]].shots)
        chosen = [number for number in order[start : start + batch_size] if len(scenes[number].shots) == length]
        pixels_BFCYX = torch.stack([read_scene(frames, scenes[number]) for number in chosen]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = encoder(normalize(pixels_BFCYX, frames.image_processor))
        found[chosen] = outputs.pooler_output.float().cpu().numpy()
        start += len(chosen)
    encoder.train(was_training)
    return found


def read_scene(frames: SceneFrames, scene: Scene) -> torch.Tensor:
    """uint8 pixels (F, C, Y, X) of a scene's shots."""
    shots = list(scene.shots)
    if shots[-1] - shots[0] == len(shots) - 1:
        return frames.read(scene.movie_id, shots[0], len(shots)).pixels_FCYX
    return torch.cat([frames.read(scene.movie_id, shot, 1).pixels_FCYX for shot in shots])
