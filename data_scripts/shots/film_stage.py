"""Shared by the stages that fill a `shots` dataset from a catalog: progress bars around the engine, and a summary."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_scripts.stages.runner import run_films
from data_scripts.stages.runner_arguments import RunnerArguments
from modeling_m2s.shot_store_m2s import ShotStore
from modeling_m2s.storage_m2s import exclusive
from modeling_m2s.video_m2s import fingerprint

BAR = "{l_bar}{bar}| {n:.1f}/{total} films [{elapsed}<{remaining}]"


@dataclass
class StageSummary:
    """Summary of a run.

    `added` films are new or were done again, `failed` gives the reason for each film that failed, `dropped` films were
    removed from the dataset, and `damaged` films are stored in part. With `--job`, `added` and `failed` count this job
    only; the other fields count all jobs so far.
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
    """Bring a `shots` dataset, and the index `films` beside it, up to date with a catalog; other films are dropped.

    With `runner.job`, only that job's films are done, and nothing is packed or dropped.

    Args:
        films: files by film id.
        output: folder of the dataset.
        settings, defaults: as in `ShotStore`.
        store: the work on a film, as in `ShotStore.run`. The film's facts may have a number of `lost_keyframes`.
        runner: where the work is done.
        identify: gives a file's fingerprint.
        facts: further entries of the record.

    Raises:
        StorageError: another run writes there, the settings differ, or the disk is full; finished films are kept.
    """
    started = time.monotonic()
    with exclusive(output, runner.job_of):
        shots = ShotStore(output, settings, defaults)
        with tqdm(desc="looking for changes", unit=" films", leave=False, disable=None) as bar:
            shots.plan(films, _counted(identify, bar), job=runner.job_of)
        with tqdm(total=len(shots.missing), bar_format=BAR, disable=None) as bar:
            shares = dict.fromkeys(shots.missing, 0.0)

            def report(movie_id: str, share: float) -> None:
                bar.update(share - shares[movie_id])
                shares[movie_id] = share

            for _ in shots.run(store, partial(run_films, arguments=runner), report):
                pass
        kept = {
            movie_id: film
            for movie_id, film in shots.shots.films().items()
            if runner.job or (movie_id in films and movie_id not in shots.failed)
        }
        damaged = sum(bool(film.facts["damage"]) for film in kept.values())
        lost_keyframes = sum(film.facts.get("lost_keyframes", 0) for film in kept.values())
        if not runner.job:
            shots.finish(**facts, damaged=damaged, lost_keyframes=lost_keyframes)
    return StageSummary(
        num_films=len(kept),
        num_shots=sum(film.num_rows for film in kept.values()),
        added=len(shots.missing.keys() - shots.failed.keys()),
        failed=dict(sorted({**shots.unreachable, **shots.failed}.items())),
        dropped=len(shots.stored.keys() - kept.keys()),
        damaged=damaged,
        lost_keyframes=lost_keyframes,
        seconds=time.monotonic() - started,
    )


def _counted(identify: Callable[[Path], str], bar: tqdm) -> Callable[[Path], str]:
    def count(path: Path) -> str:
        bar.update()
        return identify(path)

    return count
