"""A film world written to files, film after film: the work of `data_scripts.make_film_world`."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_scripts.world_photographs import PARTS, PhotographPainter, PhotographSettings, plan_films
from data_scripts.world_pictures import FilmPainter, Painter
from data_scripts.world_plan import PlannedFilm, PlannedShot, WorldSettings, plan_ratings, with_frames
from modeling_m2s.shots_m2s import Shot, keyframe_places
from modeling_m2s.storage_m2s import FilmDataset, StorageError, atomic_write, exclusive, require_settings, write_json
from modeling_m2s.workers_m2s import run_isolated

# mbtree is off, because with it x264 encodes the same frames to different bytes from run to run.
ENCODER = {"preset": "veryfast", "crf": "23", "g": "48", "threads": "1", "x264-params": "mbtree=0"}
# Bytes per second of a film of the default size, for the announcement.
VIDEO_BYTES_PER_SECOND, KEYFRAME_BYTES_PER_SECOND = 26_000, 7_500
DEFAULT_PIXELS = 320 * 180
FILMS_A_PROCESS = 10  # keyframes of a film take half a second, a process half as long to start
# Each process that draws imports this module and the command's; the server has them ready.
PRELOAD = ("data_scripts.film_world", "data_scripts.make_film_world")


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
    dataset = FilmDataset(folder / "shots", "shots")
    world = {**asdict(settings), **(facts or {})}
    dataset.begin({"film_world": world, "keyframes_per_shot": keyframes_per_shot, "short_side": settings.height})
    done = dataset.films()
    missing = [film for film in films if film.movie_id not in done]
    announce(settings, len(missing), len(films), KEYFRAME_BYTES_PER_SECOND, folder / "shots")
    themes = {film.movie_id: film.theme for film in missing}
    drawn = draw_keyframes(settings, missing, workers, photographs, keyframes_per_shot)
    for movie_id, rows in tqdm(drawn, total=len(missing), disable=None):
        dataset.write_film(movie_id, rows, {"theme": themes[movie_id]})
    dataset.finish([film.movie_id for film in films], {})


def draw_keyframes(
    settings: WorldSettings,
    films: list[PlannedFilm],
    workers: int,
    photographs: Path | None,
    keyframes_per_shot: int,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Ids of films with their rows of the `shots` dataset, as they are drawn; a single worker is this process.

    Raises:
        StorageError: a film could not be drawn.
    """
    if workers == 1:
        for film in films:
            yield film.movie_id, keyframe_rows(settings, film, photographs, keyframes_per_shot)
        return
    parts = [films[start : start + FILMS_A_PROCESS] for start in range(0, len(films), FILMS_A_PROCESS)]
    jobs = [(part[0].movie_id, (settings, part, photographs, keyframes_per_shot)) for part in parts]
    for outcome in run_isolated(rows_of_films, jobs, workers, preload=PRELOAD):
        if outcome.error:
            raise StorageError(f"{outcome.key} or one of the films after it: {outcome.error}")
        yield from outcome.value


def rows_of_films(
    settings: WorldSettings,
    films: list[PlannedFilm],
    photographs: Path | None,
    keyframes_per_shot: int,
    report: Callable[[float], None],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Ids of films with their rows; a worker calls it."""
    return [(film.movie_id, keyframe_rows(settings, film, photographs, keyframes_per_shot)) for film in films]


def keyframe_rows(
    settings: WorldSettings, film: PlannedFilm, photographs: Path | None = None, keyframes_per_shot: int = 1
) -> list[dict[str, Any]]:
    """A film's rows of the `shots` dataset."""
    pictures, rows = painter(settings, film.look, photographs), []
    for number, (shot, start, end) in enumerate(with_frames(film)):
        places = [int(place) for place in keyframe_places(end - start, keyframes_per_shot)]
        seconds = start / settings.frame_rate, end / settings.frame_rate
        found = Shot(number, start, end, *seconds, [start + place for place in places], [])
        keyframes = [{"bytes": jpeg(pictures.frame(shot, number, place)), "path": None} for place in places]
        rows.append({**vars(found), "movie_id": film.movie_id, "keyframes": keyframes})
    return rows


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
