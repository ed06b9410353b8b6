"""Shots of a catalog's films, film after film: the work of `data_scripts.detect_shots`."""

import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path

from data_scripts.detect_shots import DetectShotsArguments
from data_scripts.shots.film_stage import StageSummary, store_catalog
from data_scripts.stages.inputs import finished, license_of
from data_scripts.stages.runner import RunnerArguments
from modeling_m2s.shot_store_m2s import settings_for, store_video
from modeling_m2s.shots_m2s import DECODER_VERSIONS, MIN_READABLE, ShotSettings
from modeling_m2s.storage_m2s import FilmDataset


def detect_catalog_shots(
    movies: Path, output: Path, settings: ShotSettings, runner: RunnerArguments, min_readable: float = MIN_READABLE
) -> StageSummary:
    """Bring a `shots` dataset up to date with the videos of a `movies` dataset.

    Args:
        movies: folder of the catalog.
        output: folder of the shots; the index `films` goes beside it.
        settings: must equal those of an existing dataset.
        runner: where the films are decoded.
        min_readable: share of a film, from 0 to 1, that must be readable.

    Raises:
        ValueError: no film of the catalog has a video.
        StorageError: there is no catalog, another run writes to the output, the settings differ, or the disk is full.
    """
    catalog = read_videos(movies)
    videos = {movie_id: Path(video) for movie_id, video in catalog.items() if video}
    if not videos:
        raise ValueError(f"{movies}: none of its {len(catalog)} films has a video")
    without = len(catalog) - len(videos)
    if without:
        print(f"{without} of {len(catalog)} films of the catalog have no video")
    settings, defaults = settings_for(output, settings)
    store = partial(store_video, settings=settings, min_readable=min_readable)
    license = license_of(FilmDataset(movies, "movies"))
    facts = {"versions": DECODER_VERSIONS, "films_without_video": without, **license}
    return store_catalog(videos, output, asdict(settings), store, runner, defaults=defaults, **facts)


def read_videos(movies: Path) -> dict[str, str]:
    """The path of each film's video, by film id; empty if there is none.

    Raises:
        StorageError: no finished `movies` dataset is there.
    """
    table = finished(movies, "movies").read(["movie_id", "video"])
    return dict(zip(table["movie_id"].to_pylist(), table["video"].to_pylist(), strict=True))


def print_summary(summary: StageSummary, arguments: DetectShotsArguments) -> None:
    for movie_id, reason in summary.failed.items():
        print(f"failed: {movie_id}   {reason}")
    print(
        f"{arguments.output}: {summary.num_shots} shots of {summary.num_films} films ({summary.added} done now, "
        f"{len(summary.failed)} failed, {summary.dropped} dropped; {summary.seconds:.0f} s)"
    )
    if summary.damaged:
        print(f"damaged films: {summary.damaged}, lost keyframes: {summary.lost_keyframes}; see the index of films")
    if arguments.job_of:
        print(f"next: when all {arguments.job_of[1]} jobs are done, the same command without --job")
        return
    features = shlex.quote(str(arguments.output.parent / "shot_features"))
    print(
        f"next: python -m data_scripts.extract_features --shots {shlex.quote(str(arguments.output))} "
        f"--model openai/clip-vit-base-patch16 --output {features}"
    )
