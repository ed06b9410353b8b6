"""Cards of datasets, from the record (`m2s.json`) that each stage leaves beside its shards.

    write_dataset_card(Path("catalog/shot_features"))      # writes README.md; also for a folder of datasets (an index)

A card has the columns with their units, counts, settings, what was left out and why, and a digest of the shards. As on
model cards, a line whose record is missing is left out, and text of records is escaped.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from .cards_m2s import (
    SOMEWHERE,
    WRITTEN_HERE,
    CardError,
    escaped,
    form_of_records,
    license_fields,
    list_names,
    one_line,
    render,
    save_card,
)
from .storage_m2s import RECORD_NAME, SCHEMAS, FilmDataset, finished_dataset, shard_names

# By kind: what a row is, which commands make the dataset, and what its columns hold.
STAGES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "movies": (
        "a film of the catalog",
        ("data_scripts.make_catalog",),
        {
            "movie_id": "id of the film; its IMDb id where that is known",
            "title": "title",
            "year": "year of release; 0 if unknown",
            "genres": "genres",
            "synopsis": "synopsis; empty if unknown",
            "video": "video file; empty if there is none",
            "excluded": "why the film takes no part in training; empty if it may",
        },
    ),
    "shots": (
        "a shot, with its keyframes",
        (
            "data_scripts.detect_shots",
            "m2s embed",
            "data_scripts.shots.movienet_keyframes",
            "data_scripts.make_film_world",
        ),
        {
            "movie_id": "id of the film",
            "shot_index": "place of the shot in the film, from 0 on",
            "start_frame": "number of the shot's first frame",
            "end_frame": "number of the frame after its last one",
            "start_seconds": "start of the shot, seconds",
            "end_seconds": "end of the shot, seconds",
            "keyframe_frames": "numbers of the frames that are its keyframes",
            "keyframes": "these frames, JPEG",
        },
    ),
    "films": (
        "a film of the shots dataset beside it",
        (
            "data_scripts.detect_shots",
            "m2s embed",
            "data_scripts.shots.movienet_keyframes",
            "data_scripts.make_film_world",
        ),
        {
            "movie_id": "id of the film",
            "shard": "number of the shard that holds its shots",
            "first_row": "row of its first shot in that shard",
            "num_shots": "number of shots",
            "video": "video file, or folder of keyframes",
            "fingerprint": "hash that changes when the file is replaced",
            "num_frames": "number of frames",
            "frame_rate": "frames per second",
            "duration_seconds": "length, seconds",
            "width": "width of the video, or of its keyframes, pixels",
            "height": "height, pixels",
            "damage": "what could not be read; null if all could",
            "moved_keyframes": "number of keyframes that stand beside their place because the frame there is blank",
        },
    ),
    "shot_features": (
        "a film, with a vector of each shot",
        (
            "data_scripts.extract_features",
            "m2s embed",
            "m2s scenes",
        ),
        {
            "movie_id": "id of the film",
            "num_shots": "number of shots",
            "dim": "numbers in a shot's vector",
            "dtype": "type of these numbers",
            "features": "the vectors, shot after shot, as bytes; zeros for a shot without keyframe",
        },
    ),
    "similar_movies": (
        "a film and one that is similar to it",
        ("data_scripts.similar_movies",),
        {
            "movie_id": "id of the film",
            "similar_movie_id": "id of the similar film",
            "rank": "place among the films similar to it by this source, from 1 on",
            "score": "by co_watch, viewers who are expected to watch it next; by co_rating, viewers of both (either is "
            "divided by the correction for popularity, if the settings have one); by synopsis, the product of both "
            "texts' embeddings; by genre, 1",
            "source": "what says that they are similar",
        },
    ),
    "scene_pairs": (
        "two scenes of similar films",
        ("data_scripts.mine_scene_pairs",),
        {
            "movie_id_a": "id of the first film",
            "first_shot_a": "first shot of its scene, from 0 on",
            "movie_id_b": "id of the second film",
            "first_shot_b": "first shot of its scene, from 0 on",
            "num_shots": "number of shots of either scene",
            "score": "similarity of the scenes, in the space that they were mined in",
            "source": "what says that the films are similar; several are joined by +",
        },
    ),
    "scene_embeddings": (
        "a scene, with its vector",
        ("m2s embed", "eval.embed_scenes"),
        {
            "scene_id": "id of the scene",
            "movie_id": "id of the film; by eval.embed_scenes, the video or picture",
            "first_shot": "first shot, from 0 on; 0 where shots are not known",
            "num_shots": "number of shots; 0 where they are not known",
            "start_seconds": "start of the scene, seconds; null for a picture",
            "end_seconds": "end of the scene, seconds; null for a picture",
            "embedding": "the vector",
            "model": "encoder",
            "revision": "revision of the encoder's weights",
            "kind": "window (equally many shots each), story (a whole scene) or labeled",
        },
    ),
    "scenes": (
        "a scene of a film, without a vector",
        ("m2s scenes",),
        {
            "movie_id": "id of the film",
            "scene": "place of the scene in the film, from 0 on",
            "first_shot": "first shot, from 0 on",
            "num_shots": "number of shots",
            "start_seconds": "start of the scene, seconds",
            "end_seconds": "end of the scene, seconds",
        },
    ),
}
SHOWN_FACTS = ("film_pairs", "film_pairs_mined", "without_keyframe", "damaged", "lost_keyframes", "films_without_video")
MOST_REASONS = 10  # reasons for leaving out films that a card lists
TABLES = ("counts", "known", "versions", "inputs")


def write_dataset_card(folder: Path, repo_id: str | None = None, license: str | None = None) -> Path:
    """Write the card of a dataset, or of datasets side by side; returns its path.

    Args:
        repo_id: name of its repository, for the code on the card.
        license: SPDX id for the card's header; by default the existing card's.

    Raises:
        CardError: the folder has no finished dataset, or the card was written by hand.
        StorageError: a record cannot be read.
    """
    return save_card(folder, lambda: dataset_card(folder, repo_id, license))


def stages_in(folder: Path) -> list[Path]:
    """The folders of datasets: the folder itself, or its subfolders that are named after a kind."""
    places = [folder] if (folder / RECORD_NAME).is_file() else [folder / kind for kind in SCHEMAS]
    return [place for place in places if (place / RECORD_NAME).is_file()]


def dataset_card(folder: Path, repo_id: str | None = None, license: str | None = None) -> DatasetCard:
    """The card of a dataset, or of datasets side by side.

    Raises:
        CardError: the folder has no finished dataset.
        StorageError: a record cannot be read.
    """
    places = stages_in(folder)
    if not places:
        raise CardError(f"{folder}: no dataset of a stage ({RECORD_NAME})")
    with form_of_records(folder):
        stages = [_stage(place) for place in places]
    title, several = repo_id or folder.resolve().name, places != [folder]
    data = DatasetCardData(
        **license_fields(folder / "README.md", license),
        pretty_name=one_line(title),
        tags=["movies2scenes", *(stage["kind"] for stage in stages)],
    )
    if several:
        data["configs"] = [
            {"config_name": place.name, "data_files": f"{place.name}/data/*.parquet"} for place in places
        ]
    return DatasetCard(
        render(
            "dataset.md",
            header=data.to_yaml(),
            written_here=WRITTEN_HERE,
            title=title,
            name=repo_id or SOMEWHERE,
            stages=stages,
            several=several,
            record_name=RECORD_NAME,
        )
    )


def _stage(folder: Path) -> dict[str, Any]:
    """The facts of one dataset for its card."""
    dataset = finished_dataset(folder)
    record, kind = dataset.record, dataset.kind
    row, commands, meanings = STAGES[kind]
    first = _first_row(dataset)
    columns = [
        {
            "name": field.name,
            "type": str(field.type),
            "meaning": meanings[field.name],
            "first": escaped(first[field.name]) if field.name in first else "",
        }
        for field in dataset.schema.features.arrow_schema
    ]
    return {
        "kind": kind,
        "folder": folder.name,
        "row": row,
        "commands": commands,
        "num_films": _count_films(dataset),
        "columns": columns,
        "record": record,
        "facts": {name: record[name] for name in SHOWN_FACTS if name in record},
        "tables": {name: record[name] for name in TABLES if record.get(name)},
        "videos": {name: len(found) for name, found in record.get("videos", {}).items() if found},
        "sources": [source for source in record.get("sources", []) if isinstance(source, dict)],
        "failed": dict(Counter(_reason(each) for each in record.get("failed", {}).values()).most_common(MOST_REASONS)),
        "missing": len(record.get("missing", {})),
        "leak_guard": list_names(record["leak_guard"]) if record.get("leak_guard") else None,
        "digest": shards_digest(dataset),
    }


def _count_films(dataset: FilmDataset) -> int:
    """Number of films that the rows name, in any column."""
    ids = [name for name in dataset.schema.features if name.startswith("movie_id") or name == "similar_movie_id"]
    if len(ids) == 1:
        return dataset.record["num_films"]
    table = dataset.read(ids)
    return len({film for name in ids for film in table[name].unique().to_pylist()})


def _reason(text: str) -> str:
    """A reason without its file's name, so that equal reasons are counted together."""
    return one_line(text.rpartition(": ")[2])


def _first_row(dataset: FilmDataset) -> dict[str, Any]:
    """The readable values of the first row: no pictures, bytes, vectors or files of this machine."""
    features = dataset.schema.features
    types = {each.name: str(each.type) for each in features.arrow_schema}
    hidden = ("struct", "binary", "float")
    shown = [name for name, kind in types.items() if name != "video" and not any(each in kind for each in hidden)]
    for film in dataset.films(parts=False).values():
        for table in dataset.read_film(film, 0, 1):
            return {name: table[name][0].as_py() for name in shown}
    return {}


def shards_digest(dataset: FilmDataset) -> str:
    """Sixteen hex digits that change with the name or the bytes of any shard."""
    digest = hashlib.sha256()
    for name in shard_names(dataset.folder, dataset.record):
        path = dataset.folder / "data" / name
        if not path.is_file():
            raise CardError(f"{path}: missing, but the record names it")
        with open(path, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
