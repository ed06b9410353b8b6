"""Shared by the stages that fill a `shots` dataset film by film: plan, run, store, pack.

A stage can be killed at any moment and continues when it is run again. A worker writes each film that it finished as a
part; shards are packed in the catalog's order as soon as all their films are done or failed.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_scripts.runner import run_films
from data_scripts.runner_arguments import RunnerArguments
from modeling_m2s.index_m2s import MAX_SILENCE, begin_film_index, film_rows, plan_films, reason_of_failure
from modeling_m2s.storage_m2s import FilmDataset, StoredFilm, exclusive
from modeling_m2s.video_m2s import fingerprint

PRELOAD = ("modeling_m2s.index_m2s",)
BAR = "{l_bar}{bar}| {n:.1f}/{total} films [{elapsed}<{remaining}]"


@dataclass
class StageSummary:
    """Summary of a run.

    `added` films are new or were done again, `failed` gives the reason for each film that failed, `dropped` films were
    removed from the dataset, and `damaged` films are stored in part. With `--shard`, `added` and `failed` count this
    job only; the other fields count all jobs so far.
    """

    num_films: int
    num_shots: int
    added: int
    failed: dict[str, str]
    dropped: int
    damaged: int
    lost_keyframes: int
    seconds: float


def store_catalog(
    films: Mapping[str, Path],
    output: Path,
    settings: Mapping[str, Any],
    store: Callable[..., None],
    runner: RunnerArguments,
    identify: Callable[[Path], str] = fingerprint,
    defaults: Mapping[str, Any] | None = None,
    **facts: Any,
) -> StageSummary:
    """Bring a `shots` dataset, and the index `films` beside it, up to date with a catalog.

    Films that are missing or whose file was replaced are done; films that the catalog no longer has are dropped. If a
    file is temporarily unreachable, its stored shots are kept. If it was replaced by a file that fails, they are
    removed. A failed film is tried again only after a run has packed the others. With `runner.shard`, only that shard's
    films are done, and nothing is packed or dropped.

    Args:
        films: files by film id.
        output: folder of the dataset.
        settings: for its record; those of an existing dataset must be the same.
        store: the worker's job, called as `store(movie_id, path, folder, report=…)`. It writes a part whose facts have
            a `fingerprint`, the `damage` (None if everything could be read) and, if known, the number of
            `lost_keyframes`.
        runner: where the work is done.
        identify: gives a file's fingerprint.
        defaults: values of settings that an existing dataset may lack.
        facts: further entries of the record.

    Raises:
        StorageError: another run writes there, the settings differ, or the disk is full; finished films are kept.
    """
    started = time.monotonic()
    films = {movie_id: Path(os.path.abspath(path)) for movie_id, path in films.items()}
    mine = runner.films_of_shard(films)
    shots = FilmDataset(output, "shots")
    with exclusive(output, runner.shard_of):
        shots.begin(settings, defaults)
        index = begin_film_index(shots)
        stored, known = shots.films(), shots.failures()
        missing, unreachable = _look_for_changes(stored, mine, identify)
        missing = {movie_id: path for movie_id, path in missing.items() if movie_id not in known}
        whole = runner.shard is None
        if whole:
            index.reopen()
        packing = _Packing(shots, stored, films.keys() - known.keys(), missing.keys()) if whole else None
        added = _run(missing, shots, store, runner, packing)
        failed = {movie_id: reason for movie_id, reason in shots.failures().items() if movie_id in mine}
        kept = films.keys() - failed.keys()
        now = {movie_id: film for movie_id, film in shots.films().items() if movie_id in kept or not whole}
        damaged = sum(bool(film.facts["damage"]) for film in now.values())
        lost_keyframes = sum(film.facts.get("lost_keyframes", 0) for film in now.values())
        if whole:
            lost = {movie_id: reason for movie_id, reason in unreachable.items() if movie_id not in stored}
            shots.finish(kept, {**lost, **failed}, **facts, damaged=damaged, lost_keyframes=lost_keyframes)
            index.write_all(film_rows(shots))
    return StageSummary(
        num_films=len(now),
        num_shots=sum(film.num_rows for film in now.values()),
        added=added,
        failed=dict(sorted({**unreachable, **failed}.items())),
        dropped=len(stored.keys() - now.keys()),
        damaged=damaged,
        lost_keyframes=lost_keyframes,
        seconds=time.monotonic() - started,
    )


def _look_for_changes(
    stored: Mapping[str, StoredFilm], films: Mapping[str, Path], identify: Callable[[Path], str]
) -> tuple[dict[str, Path], dict[str, str]]:
    with tqdm(total=len(stored.keys() & films.keys()), desc="looking for changes", leave=False, disable=None) as bar:

        def look(path: Path) -> str:
            bar.update()
            return identify(path)

        return plan_films(stored, films, look)


def _run(
    missing: Mapping[str, Path],
    shots: FilmDataset,
    store: Callable[..., None],
    runner: RunnerArguments,
    packing: "_Packing | None",
) -> int:
    """Process the missing films and store the reason of each failure. Returns how many are done."""
    folder = os.path.abspath(shots.folder)
    jobs = [(movie_id, (movie_id, str(path), folder)) for movie_id, path in missing.items()]
    added, shares = 0, dict.fromkeys(missing, 0.0)
    with tqdm(total=len(jobs), bar_format=BAR, disable=None) as bar:

        def report(movie_id: str, share: float) -> None:
            bar.update(share - shares[movie_id])
            shares[movie_id] = share

        with contextlib.closing(run_films(store, jobs, runner, report, PRELOAD, MAX_SILENCE)) as outcomes:
            for outcome in outcomes:
                reason = reason_of_failure(outcome, missing[outcome.key])
                if reason is None:
                    added += 1
                else:
                    shots.write_failure(outcome.key, reason)
                report(outcome.key, 1.0)
                if packing:
                    packing.settle(outcome.key, reason is not None)
    return added


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
        self.number, self.ready = len(packed) // self.size, []
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
