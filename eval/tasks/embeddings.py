"""Reading embeddings by id from files, and joining them with labeled scenes.

Shapes: E embeddings, D dimensions, N scenes, W embeddings per scene.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_scripts.features.shot_features import ShotFeatures, has_keyframe
from data_scripts.formats.labeled_scenes import SPLITS, LabeledScenes
from eval.embeddings.encoders import file_digest, read_features
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.storage_m2s import FilmDataset

from .task import Task


class EmbeddingError(UserError, ValueError):
    """A task cannot use these embeddings; the message names the folder, the scene, and the fix."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one encoder.

    Attributes:
        source: folder or file, for messages.
        settings: the record's facts about the encoder: model, revision, kind, reading.
        ids: ids of scenes, or of shots, such as `tt0133093/0012`.

    Raises:
        EmbeddingError: no embeddings, a repeated id, or a vector with NaN or infinite values.
    """

    source: Path
    settings: dict[str, Any]
    ids: Sequence[str]
    vectors_ED: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise EmbeddingError(f"{self.source} holds no embeddings")
        if len(set(self.ids)) < len(self.ids):
            again = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise EmbeddingError(f"{self.source}: scene {again} has two embeddings; make the folder anew")
        bad_E = ~np.isfinite(self.vectors_ED).all(1)
        if bad_E.any():
            raise EmbeddingError(
                f"{self.source}: {bad_E.sum()} embeddings hold NaN or infinite values, that of "
                f"{self.ids[bad_E.argmax()]} first; embed these scenes again, by --dtype float32 or another model"
            )

    @property
    def name(self) -> str:
        """The encoder's name in reports: its model, and its kind unless it is our scene encoder."""
        model, kind = str(self.settings.get("model") or self.source.stem), self.settings.get("encoder", "scene")
        return model if kind in ("scene", "features") else f"{model} ({kind})"


def read_scene_embeddings(folder: Path) -> Embeddings:
    """Read a `scene_embeddings` dataset.

    Raises:
        EmbeddingError: the dataset is missing or not finished, or has embeddings of several models.
        StorageError: another kind of dataset.
    """
    dataset = FilmDataset(folder, "scene_embeddings")
    if not dataset.record.get("complete"):
        raise EmbeddingError(f"{folder}: no finished scene_embeddings dataset; run python -m eval.embed_scenes")
    table = dataset.read(["scene_id", "model", "revision", "embedding"])
    models = sorted(set(zip(table["model"].to_pylist(), table["revision"].to_pylist(), strict=True)))
    if len(models) > 1:
        raise EmbeddingError(
            f"{folder}: embeddings of {len(models)} models, such as {models[0][0]} (revision {models[0][1]}) and "
            f"{models[1][0]} ({models[1][1]}); embed all scenes with one of them"
        )
    vectors = table["embedding"].combine_chunks()
    lengths = np.unique(np.diff(vectors.offsets.to_numpy()))
    if len(lengths) > 1:
        raise EmbeddingError(f"{folder}: embeddings of {lengths[0]} and of {lengths[-1]} numbers; all must be alike")
    vectors_ED = np.array(vectors.flatten()).reshape(len(table), -1)
    return Embeddings(folder, dataset.record["settings"], table["scene_id"].to_pylist(), vectors_ED)


def read_shot_embeddings(folder: Path) -> Embeddings:
    """Read a `shot_features` dataset; a shot without a keyframe has zeros.

    Raises:
        StorageError: as `ShotFeatures`.
    """
    features = ShotFeatures(folder)
    ids = [shot_id(movie_id, shot) for movie_id, count in features.counts().items() for shot in range(count)]
    vectors_ED = np.concatenate([features[movie_id] for movie_id in features.movie_ids])
    # In records of shot features, `encoder` is the name of the model.
    settings = features.record["settings"]
    return Embeddings(folder, {**settings, "encoder": "scene", "model": settings["encoder"]}, ids, vectors_ED)


def shot_id(movie_id: str, shot: int) -> str:
    return f"{movie_id}/{shot:04d}"


def read_feature_file(path: Path) -> Embeddings:
    """Read vectors made elsewhere, see `read_features`.

    Raises:
        ModelError: as `read_features`.
    """
    vectors = read_features(path)
    settings = {"encoder": "features", "model": path.stem, "revision": file_digest(path)}
    table_ED = np.array(list(vectors.values()), np.float32).reshape(len(vectors), -1)
    return Embeddings(path, settings, list(vectors), table_ED)


class Embedded(NamedTuple):
    """The labeled scenes that have all their embeddings.

    Attributes:
        embeddings_ED: all embeddings, the same array for all tasks.
        rows_NW: rows of each scene's embeddings.
        missing: number of labeled scenes without embeddings, by split.
        zeros: number of scenes, by split, that read a vector of zeros, which stands for a shot without a keyframe.
    """

    labeled: LabeledScenes
    embeddings_ED: np.ndarray
    rows_NW: np.ndarray
    missing: dict[str, int]
    zeros: dict[str, int]


def join(task: Task, embeddings: Embeddings) -> Embedded:
    """Join a task's labeled scenes with their embeddings; scenes without embeddings are left out.

    Raises:
        EmbeddingError: no scene of a split has an embedding; the message shows an id of both sides.
        LabelError: the remaining scenes cannot be measured.
    """
    labeled = task.labeled
    task.require_inputs(embeddings.ids)
    row_of = {name: row for row, name in enumerate(embeddings.ids)}
    inputs = task.inputs or [(scene.scene_id,) for scene in labeled.scenes]
    rows_NW = np.array([[row_of.get(name, -1) for name in names] for names in inputs])
    there_N = (rows_NW >= 0).all(1)
    missing = {}
    for split in SPLITS:
        numbers = labeled.of_split(split)
        missing[split] = int((~there_N[numbers]).sum())
        if len(numbers) and missing[split] == len(numbers):
            raise EmbeddingError(
                f"{task.name}: none of the {len(numbers)} labeled scenes of split {split} has an embedding in "
                f"{embeddings.source}. Labels name {inputs[numbers[0]][0]}, embeddings {embeddings.ids[0]}; are they "
                "of the same task?"
            )
    if not there_N.all():
        kept = [scene.scene_id for scene, is_there in zip(labeled.scenes, there_N, strict=True) if is_there]
        labeled = labeled.only(kept)
    task.require_labels(labeled)
    rows_NW = rows_NW[there_N]
    has_zeros_N = ~has_keyframe(embeddings.vectors_ED)[rows_NW].all(1)
    zeros = {split: int(has_zeros_N[labeled.of_split(split)].sum()) for split in SPLITS}
    return Embedded(labeled, embeddings.vectors_ED, rows_NW, missing, zeros)
