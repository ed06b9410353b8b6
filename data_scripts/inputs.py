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
