"""What stages read: datasets that an earlier stage has finished."""

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
    """The dataset of a kind in a folder.

    Raises:
        StorageError: none is there, or the run that writes it did not end; the message names the command.
    """
    dataset = FilmDataset(folder, kind)
    if not dataset.record.get("complete"):
        raise StorageError(f"{folder}: no finished {kind} dataset; run python -m data_scripts.{MADE_BY[kind]}")
    return dataset


def license_of(dataset: FilmDataset) -> dict[str, Any]:
    """The license of its films as a fact for the record of what is made from them; empty if none was recorded."""
    license = dataset.record.get("license")
    return {"license": license} if license else {}
