"""A film world written to files, film after film: the work of `data_scripts.make_film_world`."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_scripts.film_world.photographs import PARTS, PhotographPainter, PhotographSettings, plan_films
from data_scripts.film_world.pictures import FilmPainter, Painter
from data_scripts.film_world.plan import PlannedFilm, PlannedShot, WorldSettings, plan_ratings, with_frames
from modeling_m2s.shot_store_m2s import ShotStore, write_shots
from modeling_m2s.shots_m2s import Shot, keyframe_places
from modeling_m2s.storage_m2s import FilmDataset, StorageError, atomic_write, exclusive, require_settings, write_json
from modeling_m2s.video_m2s import fingerprint
from modeling_m2s.workers_m2s import Outcome, run_isolated

# mbtree is off, because with it x264 encodes the same frames to different bytes from run to run.
ENCODER = {"preset": "veryfast", "crf": "23", "g": "48", "threads": "1", "x264-params": "mbtree=0"}
# Bytes per second of a film of the default size, for the announcement.
VIDEO_BYTES_PER_SECOND, KEYFRAME_BYTES_PER_SECOND = 26_000, 7_500
DEFAULT_PIXELS = 320 * 180
FILMS_A_PROCESS = 10  # keyframes of a film take half a second, a process half as long to start
# Each process that draws imports this module and the command's; the server has them ready.
PRELOAD = ("data_scripts.film_world.making", "data_scripts.make_film_world")


def make_film_world(
    settings: WorldSettings,
    folder: Path,
    keyframes_only: bool = False,
    workers: int = 1,
    source: PhotographSettings | None = None,
    keyframes_per_shot: int = 1,
) -> None:
    """Write a world, or its missing films.

    Raises:
        StorageError: the folder holds another world, or another process writes there.
        ValueError, OSError: photographs that cannot be used.
    """
    source = source or PhotographSettings()
    films, facts = plan_films(settings, source)
    if keyframes_per_shot > 1:
        facts["keyframes_per_shot"] = keyframes_per_shot
    with exclusive(folder):
        record = {**asdict(settings), "keyframes_only": keyframes_only, **facts}
        if (folder / "world.json").exists():
            require_settings(folder, json.loads((folder / "world.json").read_text()), record)
        write_json(folder / "world.json", record)
        if keyframes_only:
            write_keyframes(settings, films, folder, workers, source.photographs, facts, keyframes_per_shot)
        else:
            write_videos(settings, films, folder, workers, source.photographs)
        write_metadata(settings, films, folder / "metadata")
        write_truth(settings, films, folder / "truth")


def painter(settings: WorldSettings, look: int | None, photographs: Path | None) -> FilmPainter:
    """The painter of a film of drawings, or of photographs if their folder is given."""
    return Painter(settings, look) if photographs is None else PhotographPainter(settings, look, photographs)


def write_videos(
    settings: WorldSettings, films: list[PlannedFilm], folder: Path, workers: int, photographs: Path | None = None
) -> None:
    missing = [film for film in films if not _video_path(folder, film).exists()]
    announce(settings, len(missing), len(films), VIDEO_BYTES_PER_SECOND, folder / "videos")
    jobs = [(film.movie_id, (settings, film, _video_path(folder, film), photographs)) for film in missing]
    for outcome in tqdm(run_isolated(write_video, jobs, workers, preload=PRELOAD), total=len(jobs), disable=None):
        if outcome.error:
            raise StorageError(f"{outcome.key}: {outcome.error}")


def announce(settings: WorldSettings, missing: int, films: int, bytes_per_second: int, folder: Path) -> None:
    """Print how many films are missing and how much disk space they need."""
    pixels = settings.width * settings.height / DEFAULT_PIXELS
    megabytes = missing * settings.film_seconds * bytes_per_second * pixels / 1e6
    print(f"{missing} of {films} films to draw, about {megabytes:.1f} MB in {folder}", flush=True)


def write_video(
    settings: WorldSettings,
    film: PlannedFilm,
    path: Path,
    photographs: Path | None = None,
    report: Callable[[float], None] | None = None,
) -> None:
    """One film as MP4 (H.264, no sound). Workers pass `report`; it is unused, because a film takes only seconds."""
    pictures, index = painter(settings, film.look, photographs), 0
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=settings.frame_rate, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        for number, shot in enumerate(film.shots):
            for pixels in pictures.frames(shot, number):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, settings.frame_rate)
                container.mux(stream.encode(frame))
                index += 1
        container.mux(stream.encode())


def write_keyframes(
    settings: WorldSettings,
    films: list[PlannedFilm],
    folder: Path,
    workers: int = 1,
    photographs: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    keyframes_per_shot: int = 1,
) -> None:
    """Write the middle frame of every shot, or several frames, directly into a `shots` dataset, without videos.

    Args:
        facts: entries of the record besides the settings.

    Raises:
        StorageError: a film could not be drawn.
    """
    world = {**asdict(settings), **(facts or {})}
    store = ShotStore(
        folder / "shots",
        {"film_world": world, "keyframes_per_shot": keyframes_per_shot, "short_side": settings.height},
    )
    # A film's file is the record of the world, which says all about it.
    store.plan({film.movie_id: folder / "world.json" for film in films})
    announce(settings, len(store.missing), len(films), KEYFRAME_BYTES_PER_SECOND, folder / "shots")
    draw = partial(store_keyframes, settings, photographs, keyframes_per_shot)
    run = partial(run_in_groups, {film.movie_id: film for film in films}, workers)
    with tqdm(total=len(store.missing), disable=None) as bar:
        for _ in store.run(draw, run, lambda *_: bar.update()):
            pass
    store.finish()


def run_in_groups(
    films: Mapping[str, PlannedFilm],
    workers: int,
    function: Callable[..., None],
    inputs: list[tuple[str, tuple]],
    **_: Any,
) -> Iterator[Outcome]:
    """Call `function(film, *arguments)` on each input, on several ones a process; a single worker is this process.

    Raises:
        StorageError: a film could not be drawn.
    """
    calls = [(films[key], *arguments) for key, arguments in inputs]
    if workers == 1:
        for film, *arguments in calls:
            function(film, *arguments)
            yield Outcome(film.movie_id)
        return
    groups = [calls[start : start + FILMS_A_PROCESS] for start in range(0, len(calls), FILMS_A_PROCESS)]
    jobs = [(group[0][0].movie_id, (function, group)) for group in groups]
    for outcome in run_isolated(call_on_each, jobs, workers, preload=PRELOAD):
        if outcome.error:
            raise StorageError(f"{outcome.key} or one of the films after it: {outcome.error}")
        yield from map(Outcome, outcome.value)


def call_on_each(
    function: Callable[..., None], calls: list[tuple[PlannedFilm, ...]], report: Callable[[float], None]
) -> list[str]:
    """Call a function on several films and return their ids; a worker calls it."""
    for film, *arguments in calls:
        function(film, *arguments)
    return [film.movie_id for film, *_ in calls]


def store_keyframes(
    settings: WorldSettings,
    photographs: Path | None,
    keyframes_per_shot: int,
    film: PlannedFilm,
    movie_id: str,
    world: str,
    folder: str,
) -> None:
    """Draw a film's keyframes and write them as its part of a `shots` dataset; it has no video, only its world."""
    pictures, shots, end = painter(settings, film.look, photographs), [], 0
    for number, (shot, start, end) in enumerate(with_frames(film)):
        places = [int(place) for place in keyframe_places(end - start, keyframes_per_shot)]
        seconds = start / settings.frame_rate, end / settings.frame_rate
        keyframes = [jpeg(pictures.frame(shot, number, place)) for place in places]
        shots.append(Shot(number, start, end, *seconds, [start + place for place in places], keyframes))
    facts = {
        "theme": film.theme,
        "video": "",
        "fingerprint": fingerprint(world),
        "num_frames": end,
        "frame_rate": float(settings.frame_rate),
        "duration_seconds": end / settings.frame_rate,
        "width": settings.width,
        "height": settings.height,
        "damage": None,
    }
    write_shots(FilmDataset(Path(folder), "shots"), movie_id, shots, facts)


def jpeg(pixels_YXC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_YXC).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_metadata(settings: WorldSettings, films: list[PlannedFilm], folder: Path) -> None:
    """Write ratings, genres and links in MovieLens' layout, and synopses in the Wikipedia dump's layout."""
    write_csv(
        folder / "movies.csv",
        ["movieId", "title", "genres"],
        ([n + 1, f"{film.title} ({film.year})", "|".join(film.genres)] for n, film in enumerate(films)),
    )
    write_csv(
        folder / "links.csv",
        ["movieId", "imdbId", "tmdbId"],
        ([n + 1, film.movie_id.removeprefix("tt"), ""] for n, film in enumerate(films)),
    )
    write_csv(
        folder / "ratings.csv",
        ["userId", "movieId", "rating", "timestamp"],
        ([rating.viewer, rating.film + 1, rating.stars, rating.seconds] for rating in plan_ratings(settings, films)),
    )
    entries = [
        {"title": film.title, "year": film.year, "genres": list(film.genres), "extract": film.synopsis}
        for film in films
    ]
    write_json(folder / "wikipedia.json", entries)


def write_truth(settings: WorldSettings, films: list[PlannedFilm], folder: Path) -> None:
    """Write the truth about films and shots, and for a world of photographs a list of the films of each part."""
    has_parts = any(film.part for film in films)
    if has_parts:
        for part in PARTS:
            with atomic_write(folder / f"{part}_films.txt") as file:
                file.write("".join(f"{film.movie_id}\n" for film in films if film.part == part).encode())
    write_csv(
        folder / "films.csv",
        ["movie_id", "theme", "look", *["part"] * has_parts],
        ([film.movie_id, film.theme, film.look, *[film.part] * has_parts] for film in films),
    )
    columns = ["movie_id", "shot_index", "start_frame", "end_frame", "scene", "place", "event", "types", "view"]
    write_csv(
        folder / "shots.csv",
        [*columns, *["photograph"] * has_parts],
        (
            [film.movie_id, n, start, end, *_truth_of(shot)]
            for film in films
            for n, (shot, start, end) in enumerate(with_frames(film))
        ),
    )


def _truth_of(shot: PlannedShot) -> list[Any]:
    place, *photograph = shot.photograph or (shot.place,)
    return [shot.scene, place, shot.event, "|".join(shot.types), shot.view, *photograph]


def write_csv(path: Path, columns: list[str], rows: Iterable[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _video_path(folder: Path, film: PlannedFilm) -> Path:
    return folder / "videos" / f"{film.movie_id}.mp4"
