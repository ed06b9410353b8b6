"""The inputs of stages: datasets that an earlier stage has finished."""

from pathlib import Path
from typing import Any

from modeling_m2s.storage_m2s import FilmDataset, StorageError

MADE_BY = {
    "movies": "make_catalog",
    "shots": "detect_shots",
    "shot_features": "extract_features",
    "similar_movies": "similar_movies",
    "scene_pairs": "mine_scene_pairs",
}


def finished(folder: Path, kind: str) -> FilmDataset:
    """Open the finished dataset of a kind in a folder.

    Raises:
        StorageError: none is there, or the run that writes it did not end; the message names the command to run.
    """
    dataset = FilmDataset(folder, kind)
    if not dataset.record.get("complete"):
        raise StorageError(f"{folder}: no finished {kind} dataset; run python -m data_scripts.{MADE_BY[kind]}")
    return dataset


def license_of(dataset: FilmDataset) -> dict[str, Any]:
    """The license of a dataset, as an entry for the record of a dataset made from it; empty if none was recorded."""
    license = dataset.record.get("license")
    return {"license": license} if license else {}


def leak_guard_of(dataset: FilmDataset) -> dict[str, Any]:
    """How the films of benchmarks were kept out of a dataset [4.3]: the record of its catalog, carried along."""
    return dataset.record.get("leak_guard") or {"lists": {}, "num_listed": 0, "excluded": {}}


def candidates_of(similar: FilmDataset) -> set[str]:
    """The films that similar films were drawn from: those of the catalog that may be trained on.

    Datasets of an earlier release do not name them. There, only the films of the pairs are known to be allowed.
    """
    if (candidates := similar.record.get("candidates")) is not None:
        return set(candidates)
    table = similar.read(["movie_id", "similar_movie_id"])
    return {movie_id for column in table.columns for movie_id in column.to_pylist()}
