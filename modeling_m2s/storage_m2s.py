"""Datasets on disk: typed Parquet shards that `datasets.load_dataset` reads, and a record of how they were made.

    shots/
      m2s.json                      schema version, settings, films, what failed and why, counts, checksums of shards
      data/train-00000.parquet      whole films, in the order of their ids
      parts/                        while a run lasts: one file for each finished film and for each failed one

The sorted ids alone decide which film goes into which shard, so the finished folder depends only on films and settings,
not on how often the run was killed. Files are written under another name, synced and renamed; nobody sees half a file.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(f"datasets on disk need more packages: pip install 'movies2scenes[video]' ({error})") from error

from .checksums_m2s import ChecksummedFile, checksum_of
from .errors_m2s import UserError
from .schemas_m2s import SCHEMAS

SCHEMA_VERSION = 1
RECORD_NAME = "m2s.json"
MOST_DIFFERENCES = 6  # settings in one message
SHARD_NAME = re.compile(r"train-\d{5}\.parquet")


class StorageError(UserError):
    """A dataset folder that cannot be used as asked; the message names the folder, the values and the fix."""


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; the file is replaced as a whole or not at all.

    Raises:
        StorageError: the file cannot be written, for lack of space or permission.
        TypeError: JSON cannot hold a value.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(
            text.encode(errors="backslashreplace")
        )  # half of a surrogate pair, as in a damaged file name, becomes an escape of JSON


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when complete and on disk.

    Raises:
        StorageError: the file cannot be written, for lack of space or permission.
    """
    aside = path.with_name(f".m2s-{secrets.token_hex(4)}-{path.name}.tmp")  # random: machines may share a folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def exclusive(folder: Path, job: tuple[int, int] | None = None) -> Iterator[None]:
    """Lock a folder against a second run. A killed run's lock ends with it; the next run removes its temporary files.

    Args:
        folder: made when missing.
        job: (i, N) if N jobs share the work on the folder. Each of them excludes a second run of the same job and any
            run on the whole folder.

    Raises:
        StorageError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks on folders.
        yield
        return
    with contextlib.ExitStack() as held:
        handle = os.open(folder, os.O_RDONLY)
        held.callback(os.close, handle)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if job else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if job:
                # The name is a temporary file's, so a killed run's lock is removed with its other temporary files.
                name = f".m2s-job-{job[0]}-of-{job[1]}.tmp"
                lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(lock).st_nlink:  # its last holder has just ended and removed it
                    raise BlockingIOError
                held.callback((folder / name).unlink, missing_ok=True)
        except BlockingIOError:
            doing = f"is doing job {job[0]}/{job[1]} of the work or all of it" if job else "is writing"
            raise StorageError(f"{folder}: another run {doing} here; wait for it or choose another folder") from None
        if not job:
            _remove_temporary(folder)
            held.callback(_remove_temporary, folder)  # files of workers killed when this run was interrupted
        yield


def _remove_temporary(folder: Path) -> None:
    for path in folder.rglob(".m2s-*.tmp"):
        path.unlink(missing_ok=True)


def file_name(movie_id: str, fingerprint: str | None = None) -> str:
    """A safe file name for a film: the legible part of its id, and a part of its fingerprint or a hash of its id."""
    legible = re.sub(r"[^A-Za-z0-9._-]+", "_", movie_id).lstrip(".")[:80]
    return f"{legible}-{(fingerprint or hashlib.sha256(movie_id.encode()).hexdigest())[:8]}"


def shard_names(name: Path | str, record: Mapping[str, Any]) -> list[str]:
    """File names of a finished dataset's shards, from its record.

    Records may come from others, so a name that leaves `data/` is refused.

    Args:
        name: the dataset's folder or URL, for messages.
        record: the content of `m2s.json`.

    Raises:
        StorageError: the record names no shards, or something else as one.
    """
    try:
        names = [shard["file"] for shard in record["shards"]]
    except (KeyError, TypeError) as error:
        raise StorageError(f"{name}/{RECORD_NAME}: names no shards; make the dataset again") from error
    if wrong := [shard for shard in names if not (isinstance(shard, str) and SHARD_NAME.fullmatch(shard))]:
        raise StorageError(f"{name}/{RECORD_NAME}: {wrong[0]!r} is no name of a shard")
    return names


@dataclass
class StoredFilm:
    """The place of a film's rows: file, first row and number of rows; `facts` are the writer's notes on the film."""

    movie_id: str
    path: Path
    first_row: int
    num_rows: int
    facts: dict[str, Any] = field(default_factory=dict)


class FilmDataset:
    """A dataset of one kind, written film by film and read film by film.

    Args:
        folder: the dataset's folder, which need not exist yet.
        kind: one of `SCHEMAS`.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder = Path(folder)
        self.kind = kind
        self.schema = SCHEMAS[kind]
        self._checksums: dict[str, str] = {}  # of the shards that this object has written, by file name

    @property
    def record(self) -> dict[str, Any]:
        """The content of `m2s.json`; empty where there is none.

        Raises:
            StorageError: it is not a record of this kind and version.
        """
        path = self.folder / RECORD_NAME
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_bytes())
            found = (record["dataset"], record["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path}: not a record of a dataset ({error})") from error
        if found != (self.kind, SCHEMA_VERSION):
            raise StorageError(f"{path}: holds {found}; expected {(self.kind, SCHEMA_VERSION)}")
        return record

    def begin(self, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """Start or continue writing with `settings`.

        Args:
            defaults: values of settings that an earlier release did not record, as `default_values` gives them.

        Raises:
            StorageError: the folder was made with other settings (the message names both values), or its record is
                lost.
        """
        settings = json.loads(json.dumps(dict(settings)))
        films = {} if self.record else self.films()
        # The record is read after the films: a concurrent run writes its record before its first film.
        if record := self.record:
            require_settings(self.folder, record["settings"], settings, defaults)
        elif films:
            raise StorageError(f"{self.folder} holds {len(films)} films but no {RECORD_NAME}; remove it to start anew")
        else:
            self._write_record({"complete": False, "settings": settings, "failed": {}})

    def reopen(self) -> None:
        """Mark the dataset as unfinished while it is rewritten."""
        self._reopen(changed=())

    def _reopen(self, changed: Collection[Path]) -> None:
        """Mark the dataset as unfinished, and forget the checksums of shards that are written anew or removed."""
        record, names = self.record, {path.name for path in changed}
        shards = [shard for shard in record.get("shards", []) if shard["file"] not in names]
        unfinished = {"complete": False, "settings": record["settings"], "failed": record["failed"], "shards": shards}
        if unfinished != {name: record.get(name) for name in unfinished}:
            self._write_record(unfinished)

    def write_film(self, movie_id: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        """Store a finished film as a part; from here on it is kept, whatever happens to the run."""
        path = self._part_path(movie_id)
        table = pa.Table.from_pylist(rows, schema=self.schema.features.arrow_schema)
        with atomic_write(path) as file:
            self._write_films(file, [(StoredFilm(movie_id, path, 0, len(rows), facts), [table])])
        self._failure_path(movie_id).unlink(missing_ok=True)

    def write_failure(self, movie_id: str, reason: str) -> None:
        """Store why a film failed until the dataset is finished, so that a continued run knows it."""
        write_json(self._failure_path(movie_id), {"movie_id": movie_id, "reason": reason})

    def failures(self) -> dict[str, str]:
        """Reasons by film id, for the films that failed since the dataset was last finished."""
        entries = [json.loads(path.read_bytes()) for path in (self.folder / "parts").glob("*.failed.json")]
        return {entry["movie_id"]: entry["reason"] for entry in sorted(entries, key=lambda entry: entry["movie_id"])}

    def part(self, movie_id: str) -> StoredFilm:
        """A film that was just written."""
        return films_in(self._part_path(movie_id))[0]

    def write_all(self, rows: list[dict[str, Any]] | pa.Table, **facts: Any) -> None:
        """Write a finished dataset at once, in place of what is there; `facts` go into the record.

        Args:
            rows: in the schema's order, a film's rows together.
        """
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist(rows, schema=self.schema.features.arrow_schema)
        table = rows.cast(self.schema.features.arrow_schema)
        index: list[dict[str, Any]] = []
        for movie_id, run in itertools.groupby(table[self.schema.film_column].to_pylist()):
            first_row = index[-1]["first_row"] + index[-1]["num_rows"] if index else 0
            index.append({"movie_id": movie_id, "first_row": first_row, "num_rows": len(list(run))})
        with self._shard_file(0) as file, pq.ParquetWriter(file, table.schema) as writer:
            writer.write_table(table, row_group_size=self.schema.rows_per_group)
            writer.add_key_value_metadata({"m2s.films": json.dumps(index)})
        counts = {"num_films": len(index), "num_rows": len(table)}
        shards = [self._shard_entry(self.shard_path(0), len(index), {})]
        settings = self.record["settings"]
        record = {"complete": True, "settings": settings, **facts, "failed": {}, **counts, "shards": shards}
        self._write_record(record)

    def films(self, parts: bool = True) -> dict[str, StoredFilm]:
        """Every stored film by its id, in shards and, if asked, parts; a part takes precedence over a shard."""
        stored: dict[str, StoredFilm] = {}
        paths = [*self.shard_paths(), *(sorted((self.folder / "parts").glob("*.parquet")) if parts else [])]
        for path in paths:
            stored.update((film.movie_id, film) for film in films_in(path))
        return dict(sorted(stored.items()))

    def read_film(
        self, film: StoredFilm, first: int = 0, num_rows: int | None = None, columns: list[str] | None = None
    ) -> Iterator[pa.Table]:
        """The rows of one film, or `num_rows` from the `first` on, as a table per row group; reads no other groups."""
        start = film.first_row + first
        stop = film.first_row + film.num_rows if num_rows is None else start + num_rows
        # Reading ahead would hold the whole file in memory.
        with pq.ParquetFile(film.path, pre_buffer=False) as file:
            row = 0
            for group in range(file.num_row_groups):
                after = row + file.metadata.row_group(group).num_rows
                if row < stop and start < after:
                    table = self.schema.complete(file.read_row_group(group, columns))
                    yield table.slice(max(0, start - row), min(after, stop) - max(row, start))
                row = after

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows of a finished dataset, in order."""
        tables = [self.schema.read(path, columns) for path in self.shard_paths()]
        return pa.concat_tables(tables) if tables else self.schema.features.arrow_schema.empty_table()

    def pack(self, number: int, movie_ids: list[str]) -> None:
        """Turn parts into shard `number` before the dataset is finished; their films must be in no other shard."""
        films = [self.part(movie_id) for movie_id in movie_ids]
        self._reopen(changed=[self.shard_path(number)])
        with self._shard_file(number) as file:
            self._write_films(file, ((film, self.read_film(film)) for film in films))
        for film in films:
            film.path.unlink()

    def finish(self, movie_ids: Iterable[str], failed: Mapping[str, str], **facts: Any) -> None:
        """Pack the films into their shards, remove the parts, write the record.

        Films of shards that do not change stay where they are. Others become parts first, so that every film is in
        some complete file at every moment.

        Args:
            movie_ids: the catalog; stored films outside it are dropped. Its films need not all be stored.
            failed: reasons by film id, for the record.
            facts: further entries of the record.
        """
        stored = self.films()
        catalog = sorted(set(movie_ids) & stored.keys())
        size = self.schema.films_per_shard
        plan = {self.shard_path(k): catalog[k * size : (k + 1) * size] for k in range(-(-len(catalog) // size))}
        changed = {
            path: (number, films)
            for number, (path, films) in enumerate(plan.items())
            if not path.exists()
            or [stored[movie_id].path for movie_id in films] != [path] * len(films_in(path))
            or len(pq.read_schema(path)) < len(self.schema.features)  # of an earlier release
        }
        obsolete = [path for path in self.shard_paths() if path not in plan]
        if changed or obsolete:
            self._reopen([*changed, *obsolete])
        recorded = {shard["file"]: shard for shard in self.record.get("shards", [])}
        for movie_id in catalog:
            film = stored[movie_id]
            if film.path in changed or film.path in obsolete:
                self._copy_to_part(film)
                stored[movie_id] = self.part(movie_id)
        for number, films in changed.values():
            with self._shard_file(number) as file:
                self._write_films(file, ((stored[movie_id], self.read_film(stored[movie_id])) for movie_id in films))
        for path in obsolete:
            path.unlink()
        for path in (self.folder / "parts").glob("*"):
            path.unlink()
        with contextlib.suppress(OSError):  # absent, or a killed run's worker has just written there
            (self.folder / "parts").rmdir()
        shards = [self._shard_entry(path, len(films), recorded) for path, films in plan.items()]
        record = {
            "complete": True,
            "settings": self.record["settings"],
            **facts,
            "failed": dict(sorted(failed.items())),
        }
        num_rows = sum(stored[movie_id].num_rows for movie_id in catalog)
        self._write_record({**record, "num_films": len(catalog), "num_rows": num_rows, "shards": shards})

    def check(self) -> list[str]:
        """The problems of a finished dataset, one line each; empty if there are none."""
        from .dataset_check_m2s import check_dataset

        return check_dataset(self)

    def _write_record(self, content: dict[str, Any]) -> None:
        record = {"dataset": self.kind, "schema_version": SCHEMA_VERSION, **content}
        write_json(self.folder / RECORD_NAME, record)

    @contextlib.contextmanager
    def _shard_file(self, number: int) -> Iterator[ChecksummedFile]:
        with atomic_write(self.shard_path(number)) as file:
            checksummed = ChecksummedFile(file)
            yield checksummed
        self._checksums[self.shard_path(number).name] = checksummed.checksum()

    def _shard_entry(self, path: Path, num_films: int, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """A shard's entry in the record. A shard that this run did not write keeps its checksum, or its lack of one."""
        entry = {"file": path.name, "films": num_films}
        if path.name not in self._checksums and path.name in recorded:
            return {**recorded[path.name], **entry}
        return {**entry, "sha256": self._checksums.get(path.name) or checksum_of(path)}

    def _write_films(
        self, file: IO[bytes] | ChecksummedFile, films: Iterable[tuple[StoredFilm, Iterable[pa.Table]]]
    ) -> None:
        """Write films one after the other, each in row groups of its own, and their index into the file's metadata."""
        index, first_row = [], 0
        with pq.ParquetWriter(file, self.schema.features.arrow_schema) as writer:
            for film, tables in films:
                place = {"movie_id": film.movie_id, "first_row": first_row, "num_rows": film.num_rows}
                index.append({**place, "facts": film.facts})
                for table in tables:
                    writer.write_table(table, row_group_size=self.schema.rows_per_group)
                first_row += film.num_rows
            writer.add_key_value_metadata({"m2s.films": json.dumps(index)})

    def _copy_to_part(self, film: StoredFilm) -> None:
        with atomic_write(self._part_path(film.movie_id)) as file:
            self._write_films(file, [(film, self.read_film(film))])

    def _part_path(self, movie_id: str) -> Path:
        return self.folder / "parts" / f"{file_name(movie_id)}.parquet"

    def _failure_path(self, movie_id: str) -> Path:
        return self.folder / "parts" / f"{file_name(movie_id)}.failed.json"

    def shard_path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / "data" / f"train-{number:05d}.parquet"

    def shard_paths(self) -> list[Path]:
        """The files of the shards that are there, in order."""
        return sorted((self.folder / "data").glob("train-*.parquet"))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds a table.

    Raises:
        StorageError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path}: JSON, but not a table")
    return content


def finished_dataset(folder: Path) -> "FilmDataset":
    """Open a finished dataset of any kind; its record names the kind.

    Raises:
        StorageError: there is no record, its kind is unknown, or the dataset is not finished.
    """
    kind = read_json(folder / RECORD_NAME).get("dataset")
    if kind not in SCHEMAS:
        raise StorageError(f"{folder}: a dataset of kind {kind!r}; known are {', '.join(SCHEMAS)}")
    dataset = FilmDataset(folder, kind)
    if not dataset.record.get("complete"):
        raise StorageError(f"{folder}: not finished; run the command that makes it again")
    return dataset


def require_settings(
    folder: Path, found: Mapping[str, Any], needed: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse data that was made with other settings than needed.

    Args:
        defaults: values of settings that `found` lacks because an earlier release did not know them.

    Raises:
        StorageError: names the first settings that differ, each with both values.
    """
    added = {key: value for key, value in (defaults or {}).items() if key in needed}
    found = json.loads(json.dumps(added)) | dict(found)
    differ = [key for key in sorted({*found, *needed}) if found.get(key) != needed.get(key)]
    if differ:
        told = [f"{key} is {found.get(key)!r} there, {needed.get(key)!r} now" for key in differ[:MOST_DIFFERENCES]]
        if len(differ) > MOST_DIFFERENCES:
            told.append(f"and {len(differ) - MOST_DIFFERENCES} more")
        details = "; ".join(told)
        raise StorageError(f"{folder} was made with other settings: {details}. Use the same, or another folder")


def default_values(settings: Any) -> dict[str, Any]:
    """The defaults of a dataclass, or of an instance of one, by field; fields without a default are left out."""
    found = {}
    for each in fields(settings):
        if each.default is not MISSING:
            found[each.name] = each.default
        elif each.default_factory is not MISSING:
            found[each.name] = each.default_factory()
    return found


def films_in(path: Path) -> list[StoredFilm]:
    """The films of a Parquet file of a dataset.

    Raises:
        StorageError: it cannot be read, or names no films.
    """
    try:
        entries = json.loads((pq.read_metadata(path).metadata or {})[b"m2s.films"])
        return [StoredFilm(path=path, **entry) for entry in entries]
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{path}: holds no films ({error}); remove it, and they are made again") from error
