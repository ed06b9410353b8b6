"""An index of scenes on disk: films in, the `shots`, `films` and `scene_embeddings` datasets out.

Films are decoded in worker processes that each write their own part; this process runs the model on finished films.
Finished work is kept, so the same call continues after a kill and adds films later.
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from .figures_m2s import THUMBNAIL_WIDTH, contact_sheet, encode, timecode
from .pipeline_m2s import SceneEmbeddingPipeline, open_image
from .pretrained_m2s import model_name
from .shots_m2s import DECODER_VERSIONS, Film, Shot, ShotSettings, detect_shots
from .storage_m2s import (
    FilmDataset,
    StorageError,
    StoredFilm,
    atomic_write,
    default_values,
    exclusive,
    file_name,
)
from .video_m2s import VIDEO_SUFFIXES, VideoError, decoder_messages, fingerprint, printable
from .workers_m2s import Outcome, run_isolated

# A decoder that needs more seconds than this for 128 frames counts as hung.
MAX_SILENCE = 600.0
# Modules that are imported before a worker process starts.
WORKER_MODULES = (__name__,)


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are cut and embedded; goes into the record of a `scene_embeddings` dataset.

    Args:
        revision: identifies the encoder's weights: the Hub's commit, or a hash of a folder's files.
        shots_per_scene: shots that one scene spans.
        stride: shots from one scene's start to the next one's.
        dtype: number format that the model computed with.
    """

    revision: str
    shots_per_scene: int = 9
    stride: int = 9
    dtype: str = "float32"


@dataclass
class Summary:
    """The result of a run: films and scenes in the index, films added, reasons by failed film, ids of the others."""

    num_films: int = 0
    num_scenes: int = 0
    added: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)


def find_films(paths: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """Absolute paths of video files by film id: given files as they are, given folders with all videos below them.

    A film's id is its file's name below the given folder, without suffix. If two files would share it, the id is the
    first of these that no other file has: name with suffix, whole path, whole path with a hash of its bytes.

    Raises:
        VideoError: a folder cannot be read or holds no video.
    """
    found: dict[Path, tuple[str, ...]] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in _walk(path) if file.suffix.lower() in VIDEO_SUFFIXES)
            if not files:
                raise VideoError(path, f"no video files in this folder ({' '.join(VIDEO_SUFFIXES)})")
        for file in files:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            file = Path(os.path.abspath(file))
            digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
            whole = printable(file)
            found[file] = (printable(name.with_suffix("")), printable(name), whole, f"{whole} ({digest})")
    # All kinds of names are counted together, so no id of one film is any name of another.
    shared = Counter(name for names in found.values() for name in set(names))
    films = {next(name for name in names if shared[name] == 1): file for file, names in found.items()}
    return dict(sorted(films.items()))


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError):
        raise VideoError(error.filename or folder, error.strerror or str(error))

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent) / name for name in names)


def embed_films(
    films: Mapping[str, Path],
    output: Path,
    pipeline: SceneEmbeddingPipeline,
    shot_settings: ShotSettings,
    scene_settings: SceneSettings,
    num_workers: int = 1,
    allow_damaged: bool = False,
    report: Callable[[str, str, float], None] | None = None,
) -> Summary:
    """Bring films into an index: detect their shots, embed their scenes, draw their contact sheets.

    Films in the index stay, under the id they have; only those of `films` that are missing or were replaced are done.
    A film that fails is recorded with its reason, and the others go on.

    Args:
        films: files by film id, as `find_films` gives them.
        output: the index's folder, made when missing.
        pipeline: holds the model.
        shot_settings, scene_settings: must be those of an existing index.
        num_workers: films decoded at a time, each in a process.
        allow_damaged: keep what could be read of damaged files.
        report: called with (film id, `"shots"` or `"scenes"`, share done).

    Raises:
        StorageError: another run holds the folder, it was made with other settings, a film of the same id came from
            another file, or it cannot be written.
    """
    with exclusive(output):
        shots = FilmDataset(output / "shots", "shots")
        embeddings = FilmDataset(output / "scene_embeddings", "scene_embeddings")
        shots.begin(asdict(shot_settings), default_values(shot_settings))
        embeddings.begin(asdict(scene_settings), default_values(scene_settings))

        stored, embedded = shots.films(), embeddings.films()
        failed: dict[str, str] = {**shots.record["failed"], **embeddings.record["failed"]}
        known = {film.facts["video"]: movie_id for movie_id, film in stored.items()}
        renamed = {known.get(printable(path), movie_id): path for movie_id, path in films.items()}
        if len(renamed) < len(films):
            raise StorageError(
                f"{output}: a new film would get the id of one that is there; embed it alone or rename it"
            )
        films = renamed
        failed = {movie_id: reason for movie_id, reason in failed.items() if movie_id not in films}
        missing, unreachable = plan_films(stored, films)
        for movie_id, path in missing.items():
            if movie_id in stored and (video := stored[movie_id].facts["video"]) != printable(path):
                raise StorageError(
                    f"{output} already has a film {movie_id!r} from {video}, and {printable(path)} is another file; "
                    "rename one or choose another folder"
                )
        waiting = [
            film
            for movie_id, film in stored.items()
            if movie_id not in missing and _is_stale(embedded.get(movie_id), film)
        ]

        def finished() -> Generator[StoredFilm, None, None]:
            yield from waiting
            inputs = [
                (movie_id, (movie_id, str(path), str(shots.folder), shot_settings, allow_damaged))
                for movie_id, path in missing.items()
            ]
            on_share = (lambda movie_id, share: report(movie_id, "shots", share)) if report else None
            outcomes = run_isolated(
                store_shots, inputs, num_workers, on_share, preload=WORKER_MODULES, max_silence=MAX_SILENCE
            )
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    reason = reason_of_failure(outcome, missing[outcome.key])
                    if reason is None:
                        yield shots.part(outcome.key)
                    else:
                        failed[outcome.key] = reason

        added = 0
        with contextlib.closing(finished()) as stored_films:
            for film in stored_films:
                try:
                    _embed_film(film, shots, embeddings, pipeline, scene_settings, output, report)
                    added += 1
                except ValueError as error:
                    failed[film.movie_id] = f"{film.facts['video']}: {error}"

        catalog = shots.films().keys()
        film_index = begin_film_index(shots)
        film_index.reopen()
        shots.finish(catalog, failed, versions=DECODER_VERSIONS)
        inputs = {"shots": shots.record["settings"]}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        embeddings.finish(catalog, failed, model=_model_name(pipeline), inputs=inputs, versions=versions)
        film_index.write_all(film_rows(shots))
        failed = {movie_id: reason for movie_id, reason in {**failed, **unreachable}.items() if movie_id in films}
        ready = [movie_id for movie_id in films if movie_id not in failed]
        return Summary(len(catalog), embeddings.record["num_rows"], added, failed, ready)


def store_shots(
    movie_id: str,
    path: str,
    folder: str,
    settings: ShotSettings,
    allow_damaged: bool,
    report: Callable[[float], None] | None = None,
) -> None:
    """A worker's job: write one film's shots into its part of a `shots` dataset.

    Raises:
        VideoError: the file is no readable video, or it is damaged and `allow_damaged` is false.
        StorageError: the part cannot be written.
    """
    with decoder_messages() as messages:
        film = detect_shots(path, settings, report, allow_damaged)
    if messages:
        film.damage = f"damaged: the decoder reported {len(messages)} errors, the first: {messages[0]}"
        if not allow_damaged:
            raise VideoError(path, film.damage)
    rows = [
        {**vars(shot), "movie_id": movie_id, "keyframes": [{"bytes": jpeg, "path": None} for jpeg in shot.keyframes]}
        for shot in film.shots
    ]
    facts = {name: value for name, value in vars(film).items() if name != "shots"}
    facts |= {"video": printable(path), "fingerprint": fingerprint(path)}
    FilmDataset(Path(folder), "shots").write_film(movie_id, rows, facts)


def plan_films(
    stored: Mapping[str, StoredFilm],
    films: Mapping[str, Path],
    identify: Callable[[Path], str] = fingerprint,
) -> tuple[dict[str, Path], dict[str, str]]:
    """The work that is left until a `shots` dataset holds all `films`.

    Args:
        stored: films in the dataset.
        films: files by film id.
        identify: gives a fingerprint, which tells a replaced file from the stored one.

    Returns:
        The films that are missing or were replaced, and the reasons why others cannot be reached. The stored shots of
        unreachable films stay, since their files may come back.
    """
    missing, unreachable = {}, {}
    for movie_id, path in films.items():
        film = stored.get(movie_id)
        try:
            path.stat()
            if film is None or film.facts["fingerprint"] != identify(path):
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


def _is_stale(embedded: StoredFilm | None, stored: StoredFilm) -> bool:
    return embedded is None or embedded.facts["fingerprint"] != stored.facts["fingerprint"]


def read_shots(dataset: FilmDataset, film: StoredFilm, first: int = 0, num_shots: int | None = None) -> list[Shot]:
    """Shots of a film from a `shots` dataset, all or `num_shots` from the `first` on."""
    rows = (row for table in dataset.read_film(film, first, num_shots) for row in table.to_pylist())
    return [
        Shot(
            **{name: row[name] for name in row if name not in ("movie_id", "keyframes")},
            keyframes=[keyframe["bytes"] for keyframe in row["keyframes"]],
        )
        for row in rows
    ]


def _embed_film(
    stored_film: StoredFilm,
    shots: FilmDataset,
    embeddings: FilmDataset,
    pipeline: SceneEmbeddingPipeline,
    settings: SceneSettings,
    output: Path,
    report: Callable[[str, str, float], None] | None,
) -> None:
    movie_id, facts = stored_film.movie_id, stored_film.facts
    measures = {name: facts[name] for name in ("num_frames", "frame_rate", "duration_seconds", "width", "height")}
    film = Film(shots=read_shots(shots, stored_film), **measures)
    scenes = []
    for scene in pipeline.iterate(film, shots_per_scene=settings.shots_per_scene, stride=settings.stride):
        scenes.append(scene)
        if report:
            report(movie_id, "scenes", (scene["first_shot"] + scene["num_shots"]) / len(film.shots))
    rows = [
        {
            **scene,
            "scene_id": f"{movie_id}:{scene['first_shot']}-{scene['first_shot'] + scene['num_shots'] - 1}",
            "movie_id": movie_id,
            "model": _model_name(pipeline),
            "revision": settings.revision,
        }
        for scene in scenes
    ]
    sheet = contact_sheet(
        f"{movie_id}   {timecode(film.duration_seconds)}   {len(film.shots)} shots, {len(scenes)} scenes",
        map(_thumbnail, film.shots),
        [shot.start_seconds for shot in film.shots],
        [(scene["first_shot"], scene["num_shots"]) for scene in scenes],
        columns=settings.shots_per_scene,
    )
    with atomic_write(_sheet_path(output, movie_id)) as file:
        file.write(encode(sheet, "JPEG"))
    embeddings.write_film(movie_id, rows, {"fingerprint": facts["fingerprint"]})


def _thumbnail(shot: Shot) -> Image.Image | None:
    """A shot's first keyframe, scaled down so that a whole film's fit into memory."""
    if not shot.keyframes:
        return None
    image = open_image(shot.keyframes[0])
    image.thumbnail((THUMBNAIL_WIDTH, image.height))
    return image


def begin_film_index(shots: FilmDataset) -> FilmDataset:
    """The dataset `films` beside a `shots` dataset, to be written anew with `film_rows` when the shots change."""
    index = FilmDataset(shots.folder.parent / "films", "films")
    index.begin({"shots": shots.record["settings"]})
    return index


def film_rows(shots: FilmDataset) -> list[dict[str, Any]]:
    """Rows of the `films` dataset: the place of each film's rows in `shots`, and the film's facts."""
    return [
        {
            "movie_id": film.movie_id,
            "shard": int(film.path.stem.split("-")[1]),
            "first_row": film.first_row,
            "num_shots": film.num_rows,
            **film.facts,
        }
        for film in shots.films().values()
    ]


def _sheet_path(output: Path, movie_id: str) -> Path:
    return output / "contact_sheets" / f"{file_name(movie_id)}.jpg"


def _model_name(pipeline: SceneEmbeddingPipeline) -> str:
    return model_name(pipeline.model.config.name_or_path)
