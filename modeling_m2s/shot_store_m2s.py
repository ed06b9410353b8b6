"""The one engine that fills a `shots` dataset: films in, shots and the index `films` out; and shots back.

    store = ShotStore(folder, settings)
    store.plan(films)
    for film in store.run(store_video, run_isolated_with_two_workers):
        ...                                                             # its shots are stored
    store.finish()

A run can be killed at any moment and goes on when it is started again. A worker writes each film that it finished as a
part, the engine notes each failure on disk, and a shard is packed as soon as its films are done or have failed.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .shots_m2s import UNRECORDED, Shot, ShotSettings, detect_shots
from .storage_m2s import FilmDataset, StorageError, StoredFilm, default_values, exclusive
from .video_m2s import VideoError, fingerprint, printable
from .workers_m2s import Outcome

# A decoder that needs more seconds than this for 128 frames counts as hung.
MAX_SILENCE = 600.0
# Modules that are imported before a worker process starts.
WORKER_MODULES = (__name__,)


class ShotStore:
    """Brings a `shots` dataset, and the index `films` beside it, up to date with films: `plan`, `run`, `finish`.

    Films that are missing or whose file was replaced are done. If a file is temporarily unreachable, its stored shots
    are kept. If it was replaced by a file that fails, they are removed. A film that failed is tried again only after
    `finish`. The caller holds the lock of the folder meanwhile.

    Args:
        folder: folder of the dataset, made when missing.
        settings: for its record; those of an existing dataset must be the same.
        defaults: values of settings that an existing dataset may lack.

    Attributes:
        shots: the dataset.
        stored: the films in it when the store was opened.
        missing: after `plan`, files of the films to be done, by film id.
        unreachable: after `plan`, reasons why files cannot be reached now, by film id.
        failed: reasons why films have no shots, by film id; grows during `run`.

    Raises:
        StorageError: the settings differ, or the record is lost.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None):
        self.shots = FilmDataset(folder, "shots")
        self.shots.begin(settings, defaults)
        self.index = FilmDataset(self.shots.folder.parent / "films", "films")
        self.index.begin({"shots": self.shots.record["settings"]})
        self.stored = self.shots.films()
        self.missing: dict[str, Path] = {}
        self.unreachable: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def plan(
        self,
        films: Mapping[str, Path],
        identify: Callable[[Path], str] = fingerprint,
        grows: bool = False,
        job: tuple[int, int] | None = None,
    ) -> None:
        """Find out which films are to be done; writes nothing.

        Args:
            films: files by film id.
            identify: gives a file's fingerprint, which tells a replaced file from the stored one.
            grows: whether stored films that are not among `films` stay; else `finish` drops them.
            job: (i, N) does only every N-th film from film i on, in the order of their ids. `run` then packs nothing,
                and there is no `finish`.
        """
        first, step = job or (0, 1)
        self.job, self.grows = job, grows
        mine = {movie_id: Path(os.path.abspath(films[movie_id])) for movie_id in sorted(films)[first::step]}
        self.catalog = films.keys() | self.stored.keys() if grows else set(films)
        known = self.shots.failures()
        if grows:
            old = self.shots.record["failed"]
            known = {name: old[name] for name in old.keys() - mine.keys() - self.stored.keys()} | known
        self.failed = {name: reason for name, reason in known.items() if grows or name in mine}
        missing, self.unreachable = plan_films(self.stored, mine, identify)
        self.missing = {name: path for name, path in missing.items() if name not in self.failed}

    def run(
        self,
        store: Callable[..., None],
        run: Callable[..., Generator[Outcome, None, None]],
        report: Callable[[str, float], None] | None = None,
    ) -> Generator[StoredFilm, None, None]:
        """Do the missing films.

        Args:
            store: the work on a film, called as `store(movie_id, path, folder, report=…)`. It writes the film's part
                by `write_shots`; `folder` is that of the dataset.
            run: does the work, called as `run(store, inputs, report=…, preload=…, max_silence=…)` like `run_isolated`.
            report: called with (film id, share done).

        Yields:
            The films whose shots are stored, first those that were before. Closing the iterator ends the work.

        Raises:
            StorageError: a worker could not write, which is not the film's fault.
        """
        if not self.job:
            self.index.reopen()
        changing = {*self.missing, *self.failed}
        yield from (film for movie_id, film in self.stored.items() if movie_id not in changing)
        packing = None
        if not self.job:
            packing = _Packing(self.shots, self.stored, self.catalog - self.failed.keys(), self.missing)
        folder = os.path.abspath(self.shots.folder)
        inputs = [(movie_id, (movie_id, str(path), folder)) for movie_id, path in self.missing.items()]
        outcomes = run(store, inputs, report=report, preload=WORKER_MODULES, max_silence=MAX_SILENCE)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                reason = reason_of_failure(outcome, self.missing[outcome.key])
                if report:
                    report(outcome.key, 1.0)
                if reason is None:
                    yield self.shots.part(outcome.key)
                else:
                    self.fail(outcome.key, reason)
                if packing:
                    packing.settle(outcome.key, outcome.key in self.failed)

    def fail(self, movie_id: str, reason: str) -> None:
        """Note on disk that a film failed; whoever works on the films that `run` yields may call it, too."""
        self.shots.write_failure(movie_id, reason)
        self.failed[movie_id] = reason

    def finished(self) -> dict[str, StoredFilm]:
        """The stored films that `finish` keeps."""
        stored = self.shots.films()
        return {movie_id: stored[movie_id] for movie_id in stored if movie_id in self.catalog - self.failed.keys()}

    def finish(self, **facts: Any) -> None:
        """Pack all films, and write the records and the index; `facts` are further entries of the record."""
        failed = dict(self.failed)
        if not self.grows:
            failed |= {name: reason for name, reason in self.unreachable.items() if name not in self.stored}
        self.shots.finish(self.catalog - self.failed.keys(), failed, **facts)
        with exclusive(self.index.folder):  # which also removes what a killed run left there
            self.index.write_all(film_rows(self.shots))


class _Packing:
    """Packs shards during a run, so that parts stay few and a catalog never takes twice its space on disk.

    A shard is packed when its films, and all before them, are done or failed. If a packed shard must change (one of its
    films was removed or replaced, or a new film belongs there), all packing is left to `FilmDataset.finish`.

    Args:
        dataset: where the films are.
        stored: the films in it, in shards and parts.
        catalog: ids of the films that are to be in it.
        missing: ids of the films that are still to be done.
    """

    def __init__(
        self,
        dataset: FilmDataset,
        stored: Mapping[str, StoredFilm],
        catalog: Iterable[str],
        missing: Iterable[str],
    ):
        self.dataset, self.size = dataset, dataset.schema.films_per_shard
        self.missing, packed = set(missing), list(dataset.films(parts=False))
        films = [movie_id for movie_id in sorted(catalog) if movie_id in stored or movie_id in self.missing]
        stays = (
            len(packed) % self.size == 0
            and films[: len(packed)] == packed
            and all(stored[movie_id].path == dataset.shard_path(n // self.size) for n, movie_id in enumerate(packed))
        )
        self.number = len(packed) // self.size
        self.ready: list[str] = []
        self.waiting = deque(films[len(packed) :] if stays else [])
        self._pack()

    def settle(self, movie_id: str, failed: bool) -> None:
        """Note that a film is done or has failed, and pack the shards that are ready."""
        self.missing.discard(movie_id)
        if failed and movie_id in self.waiting:
            self.waiting.remove(movie_id)
        self._pack()

    def _pack(self) -> None:
        while self.waiting and self.waiting[0] not in self.missing:
            self.ready.append(self.waiting.popleft())
            if len(self.ready) == self.size:
                self.dataset.pack(self.number, self.ready)
                self.number, self.ready = self.number + 1, []


def settings_for(folder: Path, settings: ShotSettings) -> tuple[ShotSettings, dict[str, Any]]:
    """The settings for films of a `shots` dataset, and the values of those that its record may lack.

    A dataset of an earlier release goes on as it began: with settings that it does not record, as that release did it.

    Raises:
        ImportError: the detector's package is missing. Without this, every film would fail with it.
    """
    if settings.detector == "transnetv2":
        from .transnet_m2s import require_package

        require_package()
    recorded = FilmDataset(folder, "shots").record.get("settings")
    if recorded is not None:
        earlier: dict[str, Any] = {name: value for name, value in UNRECORDED.items() if name not in recorded}
        settings = replace(settings, **earlier)
    return settings, default_values(settings) | UNRECORDED


def plan_films(
    stored: Mapping[str, StoredFilm],
    films: Mapping[str, Path],
    identify: Callable[[Path], str] = fingerprint,
) -> tuple[dict[str, Path], dict[str, str]]:
    """The films that are missing or were replaced, and the reasons why others cannot be reached.

    Args:
        stored: films in a `shots` dataset.
        films: files by film id.
        identify: gives a file's fingerprint.
    """
    missing, unreachable = {}, {}
    for movie_id, path in films.items():
        film = stored.get(movie_id)
        try:
            path.stat()
            if film is None or film.facts.get("fingerprint") != identify(path):
                missing[movie_id] = path
        except OSError as error:
            unreachable[movie_id] = f"{printable(path)}: {error.strerror}"
    return missing, unreachable


def reason_of_failure(outcome: Outcome, path: Path) -> str | None:
    """Why a worker failed on a film's file, in one line that names the file; None if it did not.

    Raises:
        StorageError: the worker could not write, which is not the film's fault.
    """
    if outcome.error_type == StorageError.__name__:
        raise StorageError(outcome.error)
    if outcome.error is None or outcome.error_type == VideoError.__name__:
        return outcome.error
    return f"{printable(path)}: {outcome.error}"


def store_video(
    movie_id: str,
    path: str,
    folder: str,
    settings: ShotSettings,
    min_readable: float,
    report: Callable[[float], None] | None = None,
    device: str | None = None,
) -> None:
    """The work on a video file: find its shots, by `detect_shots`, and write them as its part of a `shots` dataset.

    Raises:
        VideoError: the file is no readable video, or less than `min_readable` of it could be read.
        StorageError: the part cannot be written.
    """
    film = detect_shots(path, settings, report, min_readable, device=device)
    facts = {name: value for name, value in vars(film).items() if name != "shots"}
    facts |= {"video": printable(path), "fingerprint": fingerprint(path)}
    write_shots(FilmDataset(Path(folder), "shots"), movie_id, film.shots, facts)


def write_shots(dataset: FilmDataset, movie_id: str, shots: Sequence[Shot], facts: Mapping[str, Any]) -> None:
    """Write a film's shots as its part of a `shots` dataset.

    Args:
        facts: those that the index has columns for, with `damage` None if everything could be read; any others.
    """
    rows = [
        {**vars(shot), "movie_id": movie_id, "keyframes": [{"bytes": jpeg, "path": None} for jpeg in shot.keyframes]}
        for shot in shots
    ]
    dataset.write_film(movie_id, rows, dict(facts))


def read_shots(
    dataset: FilmDataset,
    film: StoredFilm,
    first: int = 0,
    num_shots: int | None = None,
    with_keyframes: bool = True,
) -> list[Shot]:
    """Shots of a film from a `shots` dataset, all or `num_shots` from the `first` on.

    Args:
        with_keyframes: whether the keyframes' images are read; their frame numbers always are.
    """
    columns = [name for name in dataset.schema.features if name != "keyframes" or with_keyframes]
    rows = (row for table in dataset.read_film(film, first, num_shots, columns) for row in table.to_pylist())
    return [
        Shot(
            **{name: row[name] for name in row if name not in ("movie_id", "keyframes")},
            keyframes=[keyframe["bytes"] for keyframe in row.get("keyframes", ())],
        )
        for row in rows
    ]


def film_rows(shots: FilmDataset) -> list[dict[str, Any]]:
    """Rows of the index `films`: the place of each film's rows in `shots`, and the film's facts."""
    return [
        {
            "movie_id": film.movie_id,
            "shard": int(film.path.stem.split("-")[1]),
            "first_row": film.first_row,
            "num_shots": film.num_rows,
            "moved_keyframes": 0,
            **film.facts,
        }
        for film in shots.films().values()
    ]
