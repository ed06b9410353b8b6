"""The checks of `data_scripts.check`, a function for each kind of dataset."""

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.stages.inputs import candidates_of
from modeling_m2s.schemas_m2s import SCHEMAS
from modeling_m2s.shot_store_m2s import film_rows
from modeling_m2s.storage_m2s import RECORD_NAME, FilmDataset, StorageError, shard_names


def check_folder(folder: Path) -> list[str]:
    """The problems of a dataset, one line each; empty if there are none.

    Raises:
        StorageError: there is no dataset.
    """
    dataset = FilmDataset(folder, kind_of(folder))
    problems = dataset.check()
    for left in sorted({*folder.glob("parts/*"), *folder.rglob(".m2s-*.tmp")}):
        problems.append(f"{left}: left by a run that did not end; the same command again ends it")
    if not problems and dataset.kind in CHECKS:
        problems = [f"{folder}: {problem}" for problem in CHECKS[dataset.kind](dataset)]
    return problems


def kind_of(folder: Path) -> str:
    """The kind of dataset that a folder's record names.

    Raises:
        StorageError: no record, or one of another kind.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise StorageError(f"{folder}: no dataset here; a dataset's folder has the file {RECORD_NAME}")
    try:
        kind = json.loads(path.read_bytes())["dataset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: not the record of a dataset ({error!r})") from error
    if kind not in SCHEMAS:
        raise StorageError(f"{path}: a dataset of kind {kind!r}; known are {', '.join(SCHEMAS)}")
    return kind


def check_shots(dataset: FilmDataset) -> Iterator[str]:
    """Shots are counted from 0 without a gap and follow each other; each keyframe is a frame of its shot."""
    limit = dataset.record["settings"]["keyframes_per_shot"]
    columns = ["movie_id", "shot_index", "start_frame", "end_frame", "keyframe_frames"]
    for table in _shards(dataset, columns):
        for movie_id, rows in groupby(table.to_pylist(), key=lambda row: row["movie_id"]):
            end = 0
            for index, row in enumerate(rows):
                start, frames = row["start_frame"], row["keyframe_frames"]
                if row["shot_index"] != index:
                    yield f"{movie_id}: shot {row['shot_index']} where shot {index} is due"
                if not end <= start < row["end_frame"]:
                    yield f"{movie_id}, shot {index}: frames {start} to {row['end_frame']} after one that ends at {end}"
                if len(frames) > limit or any(not start <= frame < row["end_frame"] for frame in frames):
                    yield f"{movie_id}, shot {index}: keyframes {frames} are not up to {limit} of its frames"
                end = row["end_frame"]
    for table in _shards(dataset, ["movie_id", "shot_index", "keyframe_frames", "keyframes"]):
        frames, images = table["keyframe_frames"].combine_chunks(), table["keyframes"].combine_chunks()
        differ = np.flatnonzero(np.diff(frames.offsets) != np.diff(images.offsets))
        for row in table.select(["movie_id", "shot_index"]).take(differ).to_pylist():
            yield f"{row['movie_id']}, shot {row['shot_index']}: not as many keyframes as numbers of frames"


def check_films(dataset: FilmDataset) -> Iterator[str]:
    """The index gives the right place of each film of `shots`."""
    if not (shots := _beside(dataset, "shots")):
        return
    expected = pa.Table.from_pylist(film_rows(shots), schema=dataset.schema.features.arrow_schema)
    index, films = ({row["movie_id"]: row for row in table.to_pylist()} for table in (dataset.read(), expected))
    for movie_id in sorted(index.keys() | films.keys()):
        if index.get(movie_id) != films.get(movie_id):
            yield f"{movie_id}: the index has {index.get(movie_id)}, {shots.folder} {films.get(movie_id)}"


def check_shot_features(dataset: FilmDataset) -> Iterator[str]:
    """Features are finite float16 numbers, num_shots × dim of them; num_shots agrees with `films`."""
    lengths = _num_shots(dataset, "films")
    dims = set()
    for table in _shards(dataset):
        for row in table.to_pylist():
            movie_id, shape = row["movie_id"], (row["num_shots"], row["dim"])
            dims.add(row["dim"])
            if row["dtype"] != "float16" or len(row["features"]) != 2 * shape[0] * shape[1]:
                yield f"{movie_id}: {len(row['features'])} bytes of {row['dtype']} for {shape[0]}×{shape[1]} float16"
            elif not np.isfinite(np.frombuffer(row["features"], "<f2")).all():
                yield f"{movie_id}: features that are not finite"
            if lengths and lengths.get(movie_id) != row["num_shots"]:
                yield f"{movie_id}: features of {row['num_shots']} shots, films beside it has {lengths.get(movie_id)}"
    if len(dims) > 1:
        yield f"features of several sizes: {sorted(dims)}"


def check_similar_movies(dataset: FilmDataset) -> Iterator[str]:
    """Ranks count from 1 for each film and source; no film is its own neighbor; the catalog allows all films."""
    named = candidates_of(dataset)
    for table in _shards(dataset):
        for (movie_id, source), rows in groupby(table.to_pylist(), key=lambda row: (row["movie_id"], row["source"])):
            for rank, row in enumerate(rows, 1):
                other = row["similar_movie_id"]
                named |= {movie_id, other}
                if row["rank"] != rank:
                    yield f"{movie_id}, {source}: rank {row['rank']} where rank {rank} is due"
                if other == movie_id or not np.isfinite(row["score"]):
                    yield f"{movie_id}, {source}, rank {rank}: similar to {other} with score {row['score']}"
    yield from _not_allowed(dataset, named)


def check_scene_pairs(dataset: FilmDataset) -> Iterator[str]:
    """The scenes of a pair are from two films that the catalog allows, and lie within the shots in `shot_features`."""
    lengths = _num_shots(dataset, "shot_features")
    named: set[str] = set()
    for table in _shards(dataset):
        for row in table.to_pylist():
            a, b = ((row[f"movie_id_{side}"], row[f"first_shot_{side}"]) for side in "ab")
            name = f"{a[0]}:{a[1]} and {b[0]}:{b[1]}"
            named |= {a[0], b[0]}
            if a[0] == b[0] or row["num_shots"] < 1 or not np.isfinite(row["score"]):
                yield f"{name}: {row['num_shots']} shots with score {row['score']}"
            for movie_id, first in (a, b) if lengths else ():
                if movie_id not in lengths:
                    yield f"{name}: {movie_id} is not in the shot_features beside it"
                elif not 0 <= first <= lengths[movie_id] - row["num_shots"]:
                    yield f"{name}: beyond the {lengths[movie_id]} shots of {movie_id}"
    yield from _not_allowed(dataset, named)


CHECKS: dict[str, Callable[[FilmDataset], Iterator[str]]] = {
    "shots": check_shots,
    "films": check_films,
    "shot_features": check_shot_features,
    "similar_movies": check_similar_movies,
    "scene_pairs": check_scene_pairs,
}


def _shards(dataset: FilmDataset, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Each shard of a dataset as a table; the rows of a film are together, in one shard."""
    for shard in shard_names(dataset.folder, dataset.record):
        yield pq.read_table(dataset.folder / "data" / shard, columns=columns)


def _beside(dataset: FilmDataset, kind: str) -> FilmDataset | None:
    """The finished dataset of another kind in the same catalog, under its usual name."""
    other = FilmDataset(dataset.folder.absolute().parent / kind, kind)
    return other if other.record.get("complete") else None


def _not_allowed(dataset: FilmDataset, movie_ids: set[str]) -> Iterator[str]:
    """The films that a dataset for training must not name: the catalog beside it lacks or excludes them [4.3]."""
    if not (movies := _beside(dataset, "movies")):
        return
    excluded = {row["movie_id"]: row["excluded"] for row in movies.read(["movie_id", "excluded"]).to_pylist()}
    for movie_id in sorted(movie_ids):
        if movie_id not in excluded:
            yield f"{movie_id} is not in the movies beside it"
        elif reason := excluded[movie_id]:
            yield f"{movie_id} is excluded from training by the movies beside it ({reason})"


def _num_shots(dataset: FilmDataset, kind: str) -> dict[str, int]:
    other = _beside(dataset, kind)
    if not other:
        return {}
    table = other.read(["movie_id", "num_shots"])
    return dict(zip(table["movie_id"].to_pylist(), table["num_shots"].to_pylist(), strict=True))
