"""Mined scene pairs as batches of frames; every batch is a pure function of the seed and the step.

Shapes: B pairs of a step over all processes, b pairs of this process, 2 scenes per pair, F frames per scene, C×Y×X
pixels of a frame, N patches of a frame, P patches that are read of a scene.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from data_scripts.features.scene_embedding import Scene, read_scene
from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.inputs import finished
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from train.moco.augment import draw_augmentations
from train.moco.recipe import MoCoRecipe

# Separate random streams from one seed, one for each kind of draw.
ORDER, START, SIDES, SHOTS, PATCHES, AUGMENTATIONS = range(6)


@dataclass
class ScenePairs:
    """Pairs of scenes of similar films.

    Attributes:
        movie_ids: ids of all films of the pairs, sorted; a film's number is its index here.
        films_P2: number of each scene's film. first_P2: its first shot. num_shots_P: shots of both scenes of a pair.
        counts: numbers of pairs read and left out, for the record.
    """

    movie_ids: list[str]
    films_P2: np.ndarray
    first_P2: np.ndarray
    num_shots_P: np.ndarray
    counts: dict[str, int]

    @classmethod
    def read(cls, folder: Path, frames: SceneFrames, left_out: Collection[str] = ()) -> "ScenePairs":
        """The pairs of a `scene_pairs` dataset, without those that have a film in `left_out`.

        Raises:
            StorageError: no finished dataset, a film is missing from the shots, it was cut into other shots after its
                pairs were mined, or a scene ends after its film.
            ValueError: no pairs are left, or all scenes are from one film.
        """
        names = [f"{name}_{side}" for name in ("movie_id", "first_shot") for side in "ab"]
        dataset = finished(folder, "scene_pairs")
        table = dataset.read([*names, "num_shots"])
        ids, films_P2 = _numbered([table[f"movie_id_{side}"] for side in "ab"])
        first_P2 = np.stack([table[f"first_shot_{side}"].to_numpy() for side in "ab"], 1).astype(np.int64)
        num_shots_P = table["num_shots"].to_numpy().astype(np.int64)
        left_out_F = np.array([movie_id in left_out for movie_id in ids], bool)
        kept_P = ~left_out_F[films_P2].any(1)
        counts = {"scene_pairs": int(kept_P.sum()), "scene_pairs_left_out": int((~kept_P).sum())}
        films_P2, first_P2, num_shots_P = films_P2[kept_P], first_P2[kept_P], num_shots_P[kept_P]
        if not len(films_P2):
            left = f", {counts['scene_pairs_left_out']} of films with labeled scenes" if left_out else ""
            raise ValueError(f"{folder} holds no scene pairs to train on{left}")
        present_F = np.bincount(films_P2.ravel(), minlength=len(ids)) > 0
        movie_ids = [movie_id for movie_id, present in zip(ids, present_F, strict=True) if present]
        if len(movie_ids) < 2:
            raise ValueError(f"{folder}: all scenes are of film {movie_ids[0]}; contrast needs scenes of other films")
        pairs = cls(movie_ids, (np.cumsum(present_F) - 1)[films_P2], first_P2, num_shots_P, counts)
        pairs._check(dataset, frames)
        return pairs

    def _check(self, dataset: FilmDataset, frames: SceneFrames) -> None:
        folder = dataset.folder
        missing = [movie_id for movie_id in self.movie_ids if movie_id not in frames.num_shots]
        if missing:
            raise StorageError(f"{folder}: the shots lack {len(missing)} of its films, {missing[0]} for one")
        mined = {movie_id: film.facts.get("num_shots") for movie_id, film in dataset.films().items()}
        for movie_id in self.movie_ids:
            # Only films that come first in a pair are recorded; an earlier release recorded none.
            count, recorded = frames.num_shots[movie_id], mined.get(movie_id)
            if recorded not in (None, count):
                raise StorageError(
                    f"{folder}: film {movie_id} had {recorded} shots when its pairs were mined, and has {count} now; "
                    "extract the features of these shots, and mine the pairs again"
                )
        lengths = np.array([frames.num_shots[movie_id] for movie_id in self.movie_ids])
        beyond = (self.first_P2 + self.num_shots_P[:, None] > lengths[self.films_P2]) | (self.first_P2 < 0)
        if beyond.any():
            pair, side = np.argwhere(beyond)[0]
            film, first = self.films_P2[pair, side], self.first_P2[pair, side]
            raise StorageError(
                f"{folder}: a scene of film {self.movie_ids[film]} begins at shot {first} and has "
                f"{self.num_shots_P[pair]} shots, but the film has {lengths[film]}; mine the pairs of these shots again"
            )

    def __len__(self) -> int:
        return len(self.films_P2)

    def digest(self) -> str:
        """Sixteen hex digits that change with the pairs."""
        content = hashlib.sha256("\n".join(self.movie_ids).encode())
        for values in (self.films_P2, self.first_P2, self.num_shots_P):
            content.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
        return content.hexdigest()[:16]


def _numbered(columns: list[pa.ChunkedArray]) -> tuple[list[str], np.ndarray]:
    """The ids in some columns, sorted, and each cell's number among them, (rows, columns); cells become no strings."""
    ids = sorted({movie_id for column in columns for movie_id in pc.unique(column).to_pylist()})
    value_set = pa.array(ids, columns[0].type)
    return ids, np.stack([pc.index_in(column, value_set=value_set).to_numpy() for column in columns], 1)


class BatchPlan:
    """The assignment of pairs to steps.

    All scenes of a batch have the same number of shots, so nothing is padded. Pairs that fill no batch at the end of an
    epoch are left out; they are different pairs in each epoch.

    Raises:
        ValueError: there are fewer pairs than a batch holds.
    """

    def __init__(self, num_shots_P: np.ndarray, batch_size: int, seed: int):
        self.batch_size, self.seed = batch_size, seed
        self.buckets = [np.flatnonzero(num_shots_P == length) for length in np.unique(num_shots_P)]
        self.steps_per_epoch = sum(len(bucket) // batch_size for bucket in self.buckets)
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size is {batch_size}, but of the {len(num_shots_P)} scene pairs only "
                f"{max(map(len, self.buckets))} have the same number of shots; lower it"
            )
        self._epoch: tuple[Any, np.ndarray] = (None, np.empty(0))

    def batch(self, step: int, stream: int = ORDER) -> np.ndarray:
        """Indices (B,) of a step's pairs; `stream` START gives the batches that fill the queue."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != (stream, epoch):
            random = np.random.default_rng([self.seed, stream, epoch])
            shuffled = [random.permutation(bucket) for bucket in self.buckets]
            full = [pairs[: len(pairs) // self.batch_size * self.batch_size] for pairs in shuffled]
            batches = np.concatenate(full).reshape(-1, self.batch_size)
            self._epoch = ((stream, epoch), batches[random.permutation(len(batches))])
        return self._epoch[1][place]


class Batch(NamedTuple):
    """One process's share of a step's batch.

    Attributes:
        pixels_2bFCYX: uint8. kept_2bP: patches that are read, or None for all. augmentations_2bA: see `augment`.
        films_2B: films of all processes' scenes, in the order in which `contrast.gather` gathers them.
        unreadable: film and shot of the frames that did not decode.
    """

    pixels_2bFCYX: torch.Tensor
    kept_2bP: torch.Tensor | None
    augmentations_2bA: torch.Tensor | None
    films_2B: torch.Tensor
    unreadable: list[tuple[str, int]]

    @property
    def num_frames(self) -> int:
        """Number of frames of this process's scenes."""
        return self.pixels_2bFCYX.shape[:3].numel()

    def part(self, number: int, parts: int) -> "Batch":
        """The `number`-th of `parts` equal parts of the pairs."""

        def cut(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.chunk(parts, 1)[number]

        return Batch(*map(cut, self[:4]), unreadable=[])  # type: ignore[arg-type]

    def side(self, number: int) -> "Batch":
        """One scene of each pair: the first or the second."""
        return self._sides(lambda values: values[number : number + 1])

    def swapped(self) -> "Batch":
        """The batch with the two scenes of each pair swapped."""
        return self._sides(lambda values: values.flip(0))

    def _sides(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return Batch(*(None if values is None else choose(values) for values in self[:4]), unreadable=[])  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Batch":
        tensors = (None if values is None else values.to(device, non_blocking=True) for values in self[:4])
        return Batch(*tensors, self.unreadable)

    def pin_memory(self) -> "Batch":
        return Batch(*(None if values is None else values.pin_memory() for values in self[:4]), self.unreadable)


class PairBatches(Dataset):
    """This process's share of each step's batch, decoded.

    Args:
        share: (index of this process, number of processes).
        patches: number of patches of a frame.
        stream: ORDER for training, START for the scenes that the queue and the whitening begin with.
    """

    def __init__(
        self,
        pairs: ScenePairs,
        frames: SceneFrames,
        plan: BatchPlan,
        recipe: MoCoRecipe,
        share: tuple[int, int],
        patches: int,
        stream: int = ORDER,
    ):
        self.pairs, self.frames, self.plan, self.recipe = pairs, frames, plan, recipe
        self.share, self.patches, self.stream = share, patches, stream

    def __getitem__(self, step: int) -> Batch:
        recipe, chosen_B = self.recipe, self.plan.batch(step, self.stream)
        side_2B = self._draw_sides(step, len(chosen_B))
        films_2B, first_2B = (values[chosen_B, side_2B] for values in (self.pairs.films_P2, self.pairs.first_P2))
        own_b = self._own(np.arange(len(chosen_B)))
        num_shots = int(self.pairs.num_shots_P[chosen_B[0]])
        shots_2BS = self._draw_shots(step, num_shots, len(chosen_B))
        pixels, unreadable = [], []
        for side in range(2):
            for place in own_b:
                shots_S = first_2B[side, place] + shots_2BS[side, place]
                movie_id = self.pairs.movie_ids[films_2B[side, place]]
                pixels_FCYX, missing = read_scene(self.frames, Scene(movie_id, shots_S.tolist()))
                pixels.append(pixels_FCYX)
                unreadable += missing
        pixels_2bFCYX = torch.stack(pixels).unflatten(0, (2, len(own_b)))
        augmentations_2bA = None
        if recipe.augment:
            random = np.random.default_rng([recipe.seed, AUGMENTATIONS, self.stream, step])
            augmentations_2bA = draw_augmentations(random, len(chosen_B))[:, own_b]
        kept_2bP = None
        if recipe.patch_dropout:
            kept_2bP = torch.from_numpy(self._draw_patches(step, pixels_2bFCYX.shape[2], len(chosen_B))[:, own_b])
        return Batch(pixels_2bFCYX, kept_2bP, augmentations_2bA, torch.from_numpy(films_2B), unreadable)

    @property
    def item_bytes(self) -> int:
        """Approximate size of this process's batch in bytes."""
        frames = self.recipe.shots_per_scene * self.recipe.frames_per_shot
        return 2 * self.recipe.batch_size // self.share[1] * frames * self.frames.frame_bytes

    def _own(self, places_B: np.ndarray) -> np.ndarray:
        """This process's pairs of a batch: consecutive ones within each part of an accumulated step."""
        process, processes = self.share
        return places_B.reshape(self.recipe.accumulation, processes, -1)[:, process].reshape(-1)

    def _draw_sides(self, step: int, num_pairs: int) -> np.ndarray:
        """Order (2, B) of each pair's scenes, drawn anew in every step (ours); momentum takes the first as query."""
        first_B = np.random.default_rng([self.recipe.seed, SIDES, self.stream, step]).integers(2, size=num_pairs)
        return np.stack([first_B, 1 - first_B])

    def _draw_shots(self, step: int, num_shots: int, num_pairs: int) -> np.ndarray:
        """Indices (2, B, S) of the shots that are read of each scene, in order."""
        read = min(self.recipe.shots_per_scene, num_shots)
        random = np.random.default_rng([self.recipe.seed, SHOTS, self.stream, step])
        order = random.random((2, num_pairs, num_shots)).argsort(-1)
        return np.sort(order[..., :read], -1)

    def _draw_patches(self, step: int, num_frames: int, num_pairs: int) -> np.ndarray:
        """Indices (2, B, P) of the patches that are read of each scene, random and equally many per frame."""
        kept = kept_patches(self.patches, self.recipe)
        random = np.random.default_rng([self.recipe.seed, PATCHES, self.stream, step])
        order = random.random((2, num_pairs, num_frames, self.patches), np.float32).argsort(-1)
        within = np.sort(order[..., :kept], -1) + self.patches * np.arange(num_frames)[:, None]
        return within.reshape(2, num_pairs, -1)


def kept_patches(patches: int, recipe: MoCoRecipe) -> int:
    """Number of patches that are read of a frame."""
    return max(1, round(patches * (1 - recipe.patch_dropout)))
