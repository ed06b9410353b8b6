"""Read rows of a `shots` dataset from an Arrow copy that is mapped into memory, or directly from the Parquet files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.readers.arrow_copy import arrow_copy
from data_scripts.stages.inputs import finished
from modeling_m2s.storage_m2s import RECORD_NAME, StorageError, shard_names

COLUMNS = ["start_frame", "end_frame", "keyframe_frames", "keyframes"]


class Place(NamedTuple):
    """The place of a film's rows: the number of a shard, the first row there, and how many."""

    shard: int
    first_row: int
    num_rows: int


class ShotRows(Protocol):
    """Rows of films.

    Attributes:
        name: folder or URL, for messages.
        record: content of `m2s.json`.
        films: places of films by their ids.
    """

    name: str
    record: dict[str, Any]
    films: dict[str, Place]

    def read(self, movie_id: str, first: int, num_rows: int) -> list[pa.RecordBatch]:
        """Consecutive rows of a film, which must exist, with the columns `COLUMNS`.

        Raises:
            StorageError: a file cannot be read.
        """
        ...


class ParquetShots:
    """Rows from the Parquet files of a folder or a URL, by row groups. The row group that was read last is kept.

    Raises:
        StorageError: no finished `shots` dataset, or a shard is missing or cut.
    """

    def __init__(self, shots: Path | str):
        self.name = str(shots).rstrip("/")
        self._connection: _Connection | None = None
        self._footers: dict[int, pq.FileMetaData] = {}
        self.record: dict[str, Any] = self._read_record()
        self.shards: list[str] = shard_names(self.name, self.record)
        self.films: dict[str, Place] = {}
        self.num_rows: list[int] = []  # of each shard
        for number, shard in enumerate(self.shards):
            footer = self._footer(number)
            self.num_rows.append(footer.num_rows)
            try:
                entries = json.loads((footer.metadata or {})[b"m2s.films"])
            except (KeyError, ValueError) as error:
                raise StorageError(
                    f"{self.name}/data/{shard}: its footer names no films; make the shots again"
                ) from error
            for entry in entries:
                self.films[entry["movie_id"]] = Place(number, entry["first_row"], entry["num_rows"])

    def read(self, movie_id: str, first: int, num_rows: int) -> list[pa.RecordBatch]:
        """See `ShotRows`; reads only the row groups that hold the rows."""
        place = self.films[movie_id]
        start, batches = place.first_row + first, []
        stop = start + num_rows
        footer = self._footer(place.shard)
        group_starts = np.cumsum([0] + [footer.row_group(group).num_rows for group in range(footer.num_row_groups)])
        for group in range(footer.num_row_groups):
            group_start, group_stop = int(group_starts[group]), int(group_starts[group + 1])
            if group_start < stop and start < group_stop:
                table = self._row_group(place.shard, group)
                begin = max(start - group_start, 0)
                batches += table.slice(begin, min(stop, group_stop) - group_start - begin).to_batches()
        return batches

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process: no open files, and no footers, which are large if there are many shards."""
        return {**vars(self), "_connection": None, "_footers": {}}

    def _connect(self) -> "_Connection":
        if self._connection is None or self._connection.process != os.getpid():
            self._connection = _Connection(self.name)
        return self._connection

    def _read_record(self) -> dict[str, Any]:
        if "://" not in self.name:
            return finished(Path(self.name), "shots").record
        try:
            record = json.loads(self._connect().filesystem.cat_file(self._connect().path(RECORD_NAME)))
        except Exception as error:  # each store has errors of its own
            raise StorageError(f"{self.name}/{RECORD_NAME}: cannot be read ({_reason(error)})") from error
        if not isinstance(record, dict) or record.get("dataset") != "shots" or not record.get("complete"):
            raise StorageError(f"{self.name}: no finished shots dataset")
        return record

    def _footer(self, number: int) -> pq.FileMetaData:
        if number not in self._footers:
            self._footers[number] = self._read(number, lambda file: file.metadata)
        return self._footers[number]

    def _row_group(self, number: int, group: int) -> pa.Table:
        connection = self._connect()
        if connection.last_group != (number, group):
            connection.last_table = self._read(number, lambda file: file.read_row_group(group, COLUMNS))
            connection.last_group = (number, group)
        return connection.last_table

    def _read(self, number: int, what: Any) -> Any:
        try:
            return what(self._connect().file(number, self.shards[number], self._footers.get(number)))
        except Exception as error:  # each store has errors of its own
            path = f"{self.name}/data/{self.shards[number]}"
            if isinstance(error, FileNotFoundError):
                raise StorageError(f"{path}: is missing, but {RECORD_NAME} names it; make the shots again") from error
            raise StorageError(f"{path}: cannot be read ({_reason(error)})") from error


class _Connection:
    """Files that one process has open. A forked process must not read from the open files of its parent."""

    MOST_OPEN = 16

    def __init__(self, name: str):
        self.process = os.getpid()
        if "://" in name:
            self.filesystem, self.root = fsspec.core.url_to_fs(name)
        else:
            self.filesystem, self.root = fsspec.filesystem("file"), os.path.abspath(name)
        self.last_group: tuple[int, int] | None = None
        self.last_table: pa.Table | None = None
        self._files: dict[int, pq.ParquetFile] = {}

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def file(self, number: int, shard: str, footer: pq.FileMetaData | None) -> pq.ParquetFile:
        if number not in self._files:
            if len(self._files) == self.MOST_OPEN:
                self._files.pop(next(iter(self._files))).close(force=True)
            # No cache, because fsspec's would read megabytes ahead of each row group.
            file = self.filesystem.open(self.path(f"data/{shard}"), "rb", cache_type="none")
            self._files[number] = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
        return self._files[number]


class ArrowShots:
    """Rows as slices of an Arrow copy in the cache of `datasets`; other rows are not touched.

    Raises:
        StorageError: no finished `shots` dataset, or a shard is missing, cut, or not in the record.
    """

    def __init__(self, folder: Path | str, cache: Path | None = None):
        self.name = str(folder)
        index = ParquetShots(folder)
        self.record = index.record
        first_rows = np.cumsum([0, *index.num_rows]).tolist()
        self.films = {
            movie_id: Place(0, first_rows[place.shard] + place.first_row, place.num_rows)
            for movie_id, place in index.films.items()
        }
        paths = [Path(folder) / "data" / shard for shard in index.shards]
        if found := sorted({path.name for path in (Path(folder) / "data").glob("*.parquet")} - set(index.shards)):
            raise StorageError(f"{folder}/data/{found[0]}: {RECORD_NAME} does not name this shard; remove it")
        self._table = _arrow_copy(Path(folder), paths, cache).data if self.films else None
        if self._table is not None and len(self._table) != first_rows[-1]:
            raise StorageError(
                f"{folder}: its Arrow copy has {len(self._table)} rows, the shards {first_rows[-1]}; remove the copy"
            )

    def read(self, movie_id: str, first: int, num_rows: int) -> list[pa.RecordBatch]:
        """See `ShotRows`."""
        if not num_rows or self._table is None:
            return []
        return self._table.fast_slice(self.films[movie_id].first_row + first, num_rows).select(COLUMNS).to_batches()


def _arrow_copy(folder: Path, paths: Sequence[Path], cache: Path | None) -> datasets.Dataset:
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    try:
        return arrow_copy(paths, cache, f"{folder}: an Arrow copy of {megabytes:,.1f} MB")
    except datasets.exceptions.DatasetGenerationError as error:
        for path in paths:
            try:
                pq.read_table(path)
            except (OSError, pa.ArrowException) as problem:
                raise StorageError(f"{path}: cannot be read ({problem}); make the shots again") from error
        raise StorageError(f"{folder}: no Arrow copy can be made ({_reason(error.__cause__ or error)})") from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
