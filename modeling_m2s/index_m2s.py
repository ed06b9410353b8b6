"""An index of scenes on disk: films in, the `shots`, `films` and `scene_embeddings` datasets out.

Worker processes decode the next films while this process embeds the scenes of a finished one. A thread prepares its
keyframes ahead of the model, another one draws and writes. Finished work is kept, so the same call continues after a
kill and adds films later.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from .pipeline_m2s import SceneEmbeddingPipeline
from .scene_store_m2s import SceneSettings, SceneStore
from .shot_store_m2s import ShotStore, settings_for, store_video
from .shots_m2s import DECODER_VERSIONS, MIN_READABLE, ShotSettings
from .storage_m2s import StorageError, StoredFilm, exclusive
from .video_m2s import printable
from .workers_m2s import run_isolated


@dataclass
class Summary:
    """The result of a run: films and scenes in the index, films added, reasons by failed film, ids of the others."""

    num_films: int = 0
    num_scenes: int = 0
    added: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)


def embed_films(
    films: Mapping[str, Path],
    output: Path,
    pipeline: SceneEmbeddingPipeline,
    shot_settings: ShotSettings,
    scene_settings: SceneSettings,
    num_workers: int = 1,
    min_readable: float = MIN_READABLE,
    report: Callable[[str, str, float], None] | None = None,
) -> Summary:
    """Bring films into an index: detect their shots, embed their scenes, draw their contact sheets.

    Films in the index stay, under the id they have; only those of `films` that are missing or were replaced are done.
    A film that fails is recorded with its reason, and the others go on.

    Args:
        films: files by film id, as `find_films` gives them.
        output: the index's folder, made when missing.
        pipeline: holds the model. Its device is also that of the shot detector `transnetv2`, as `detect_shots` says.
        shot_settings, scene_settings: must be those of an existing index.
        num_workers: films decoded at a time, each in a process.
        min_readable: share of a film, from 0 to 1, that must be readable.
        report: called with (film id, `"shots"` or `"scenes"`, share done).

    Raises:
        StorageError: another run holds the folder, it was made with other settings, a film of the same id came from
            another file, or it cannot be written.
    """
    with exclusive(output):
        shot_settings, defaults = settings_for(output / "shots", shot_settings)
        store = ShotStore(output / "shots", asdict(shot_settings), defaults)
        scenes = SceneStore(output, store.shots, scene_settings, pipeline)
        films = _under_known_ids(films, store.stored, output)
        store.plan(films, grows=True)
        _refuse_other_files(store, output)
        find_shots = partial(
            store_video, settings=shot_settings, min_readable=min_readable, device=str(pipeline.device)
        )
        run = partial(run_isolated, num_workers=num_workers)
        on_shots, on_scenes = (partial(_report, report, stage) for stage in ("shots", "scenes"))
        with scenes:
            with contextlib.closing(store.run(find_shots, run, on_shots)) as stored_films:
                for film in stored_films:
                    try:
                        scenes.add(film, partial(on_scenes, film.movie_id))
                    except ValueError as error:
                        store.fail(film.movie_id, f"{film.facts['video']}: {error}")
            scenes.reopen_unless_of(store.finished())
            store.finish(versions=DECODER_VERSIONS)
            scenes.embed_story(on_scenes)
        scenes.finish(store.failed)
        failed = {**store.failed, **store.unreachable}
        return Summary(
            num_films=scenes.dataset.record["num_films"],
            num_scenes=scenes.dataset.record["num_rows"],
            added=len(scenes.embedded),
            failed={movie_id: reason for movie_id, reason in failed.items() if movie_id in films},
            ready=[movie_id for movie_id in films if movie_id not in failed],
        )


def _under_known_ids(films: Mapping[str, Path], stored: Mapping[str, StoredFilm], output: Path) -> dict[str, Path]:
    """The files by the ids that the index knows them by.

    Raises:
        StorageError: a new film would get the id of another one.
    """
    known = {film.facts["video"]: movie_id for movie_id, film in stored.items()}
    renamed = {known.get(printable(path), movie_id): path for movie_id, path in films.items()}
    if len(renamed) < len(films):
        raise StorageError(f"{output}: a new film would get the id of one that is there; embed it alone or rename it")
    return renamed


def _refuse_other_files(store: ShotStore, output: Path) -> None:
    for movie_id in store.missing.keys() & store.stored.keys():
        path, video = store.missing[movie_id], store.stored[movie_id].facts["video"]
        if video != printable(path):
            raise StorageError(
                f"{output} already has a film {movie_id!r} from {video}, and {printable(path)} is another file; "
                "rename one or choose another folder"
            )


def _report(report: Callable[[str, str, float], None] | None, stage: str, movie_id: str, share: float) -> None:
    if report:
        report(movie_id, stage, share)
