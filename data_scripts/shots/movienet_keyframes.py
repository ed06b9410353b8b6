"""MovieNet's keyframes and shot lists as a `shots` dataset, without videos; called by `detect_shots`.

    240P/tt0217505/shot_0000_img_0.jpg     three keyframes per shot, at its quarters
    shot_movie318/tt0217505.txt            one line per shot: first and last frame, the frames of its three keyframes

A shot with a missing or undecodable keyframe keeps its row, so that shot indexes hold.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data_scripts.shots.detection import read_videos
from data_scripts.shots.film_stage import StageSummary, store_catalog
from data_scripts.stages.inputs import license_of
from data_scripts.stages.runner_arguments import RunnerArguments
from modeling_m2s.images_m2s import rgb
from modeling_m2s.pictures_m2s import fit_size, resize
from modeling_m2s.shot_store_m2s import write_shots
from modeling_m2s.shots_m2s import Shot
from modeling_m2s.storage_m2s import FilmDataset, default_values
from modeling_m2s.video_m2s import printable

# Images that are kept, by `keyframes_per_shot`. The paper takes one frame per shot and does not say which; the middle
# one is our choice.
KEPT_IMAGES = {1: (1,), 3: (0, 1, 2)}


@dataclass(frozen=True)
class KeyframeSettings:
    """How given keyframes are kept; goes into the record of the `shots` dataset.

    Args:
        keyframes_per_shot: 1 takes the middle one, 3 takes all.
        short_side: JPEG files whose shorter side has at most this many pixels are kept byte by byte; larger ones are
            scaled down to it.
        jpeg_quality: JPEG quality of those that are scaled down.
        frame_rate: turns frames into seconds, for films whose own rate is not known.
    """

    keyframes_per_shot: int = 1
    short_side: int = 224
    jpeg_quality: int = 90
    frame_rate: float = 24.0

    def __post_init__(self):
        if self.keyframes_per_shot not in KEPT_IMAGES:
            raise ValueError(f"keyframes_per_shot={self.keyframes_per_shot}: of MovieNet's keyframes 1 or 3 are kept")
        if self.short_side < 1 or not 1 <= self.jpeg_quality <= 100 or not self.frame_rate > 0:
            raise ValueError(f"short_side, jpeg_quality and frame_rate must be positive: {self}")


def import_keyframes(
    keyframes: Path,
    shot_lists: Path,
    output: Path,
    settings: KeyframeSettings,
    runner: RunnerArguments,
    video_info: Path | None = None,
    movies: Path | None = None,
) -> StageSummary:
    """Bring a `shots` dataset up to date with MovieNet's folders.

    Args:
        keyframes: folder with one folder per film.
        shot_lists: folder with one text file per film.
        output: folder of the shots; the index `films` goes beside it.
        settings: must equal those of an existing dataset.
        runner: where the work is done.
        video_info: MovieNet's JSON file with each film's `fps`.
        movies: folder of the catalog, whose films are wanted; None takes every shot list.

    Raises:
        ValueError: no shot list, none of the catalog, or no frame rates in `video_info`.
        StorageError: there is no such catalog, another run writes to the output, the settings differ, or the disk is
            full.
    """
    catalog = None if movies is None else read_videos(movies)
    lists = {path.stem: path for path in shot_lists.glob("*.txt") if re.fullmatch(r"tt\d{7,}", path.stem)}
    films = {movie_id: path for movie_id, path in lists.items() if catalog is None or movie_id in catalog}
    if not films:
        raise ValueError(f"{shot_lists}: {len(lists)} shot lists tt….txt, none of them of a film of the catalog")
    if len(films) < len(lists):
        print(f"{len(lists) - len(films)} of {len(lists)} shot lists are of films outside the catalog")
    frame_rates = read_frame_rates(video_info) if video_info else {}
    if video_info:
        print(f"{len(films.keys() - frame_rates.keys())} films have no frame rate there: {settings.frame_rate:g}")
    record = {"source": "movienet", **asdict(settings), "video_info": _digest(video_info) if video_info else None}
    folder = os.path.abspath(keyframes)
    store = partial(store_keyframes, keyframes=folder, settings=settings, frame_rates=frame_rates)
    identify = partial(keyframes_fingerprint, folder)
    license = {} if movies is None else license_of(FilmDataset(movies, "movies"))
    return store_catalog(films, output, record, store, runner, identify, default_values(settings), **license)


def read_frame_rates(path: Path) -> dict[str, float]:
    """The frame rate of each film, from `movie1K.video_info.v1.json`.

    Raises:
        ValueError: it is another kind of file.
    """
    try:
        rates = {movie_id: float(film["fps"]) for movie_id, film in json.loads(path.read_bytes()).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: not of the form {{"tt0217505": {{"fps": 23.976, …}}, …}} ({error!r})') from error
    if wrong := [movie_id for movie_id, rate in rates.items() if not rate > 0]:
        raise ValueError(f"{path}: fps of {wrong[0]} is {rates[wrong[0]]}")
    return rates


def keyframes_fingerprint(keyframes: str, shot_list: Path) -> str:
    """A hash that changes with the film: of the shot list's bytes and the names of the images."""
    names = sorted(os.listdir(os.path.join(keyframes, shot_list.stem)))
    return hashlib.sha256("\n".join([_digest(shot_list), *names]).encode(errors="replace")).hexdigest()[:16]


def store_keyframes(
    movie_id: str,
    path: str,
    folder: str,
    keyframes: str,
    settings: KeyframeSettings,
    frame_rates: Mapping[str, float],
    report: Callable[[float], None] | None = None,
) -> None:
    """The work on a film: write its keyframes as its part of a `shots` dataset.

    Raises:
        ValueError: the file is not a shot list, or no keyframe can be read.
        StorageError: the part cannot be written.
    """
    entries = read_shot_list(Path(path))
    images = Path(keyframes, movie_id)
    if not images.is_dir():
        packed = images.with_name(f"{movie_id}.tar")
        raise ValueError(f"no folder {printable(images)}" + (f"; unpack {packed.name}" if packed.exists() else ""))
    frame_rate = frame_rates.get(movie_id, settings.frame_rate)
    shots, lost, size = [], [], None
    for index, (start, last, *places) in enumerate(entries):
        shot = Shot(index, start, last + 1, start / frame_rate, (last + 1) / frame_rate)
        for number in KEPT_IMAGES[settings.keyframes_per_shot]:
            file = images / f"shot_{index:04d}_img_{number}.jpg"
            try:
                jpeg, stored_size = read_keyframe(file, settings)
            except OSError:  # PIL's errors are of this kind, too
                lost.append(file.name)
                continue
            size = size or stored_size
            shot.keyframe_frames.append(places[number])
            shot.keyframes.append(jpeg)
        shots.append(shot)
        if report and index % 64 == 0:
            report(index / len(entries))
    if size is None:
        raise ValueError(f"none of its {len(lost)} keyframes can be read, the first: {images / lost[0]}")
    facts = {
        "video": printable(images),
        "fingerprint": keyframes_fingerprint(keyframes, Path(path)),
        "num_frames": entries[-1][1] + 1,
        "frame_rate": frame_rate,
        "duration_seconds": (entries[-1][1] + 1) / frame_rate,
        "width": size[0],
        "height": size[1],
        "damage": f"{len(lost)} keyframes are missing or cannot be decoded, the first: {lost[0]}" if lost else None,
        "lost_keyframes": len(lost),
    }
    write_shots(FilmDataset(Path(folder), "shots"), movie_id, shots, facts)


def read_shot_list(path: Path) -> list[list[int]]:
    """First and last frame of each shot, and the frames of its three keyframes.

    Raises:
        ValueError: a line is not one of a shot list; the message names it.
    """
    entries: list[list[int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        words = line.split()
        if len(words) != 5 or not all(word.isdecimal() for word in words):
            raise ValueError(f"line {number}: {line[:80]!r} is not five frame numbers: start end keyframe×3")
        start, last, *places = map(int, words)
        if not start <= places[0] <= places[1] <= places[2] <= last:
            raise ValueError(f"line {number}: {line[:80]!r} is not in the order start ≤ keyframes ≤ end")
        if entries and start <= entries[-1][1]:
            raise ValueError(f"line {number}: the shot starts at {start}, before the last one's end {entries[-1][1]}")
        entries.append([start, last, *places])
    if not entries:
        raise ValueError("the shot list is empty")
    return entries


def read_keyframe(path: Path, settings: KeyframeSettings) -> tuple[bytes, tuple[int, int]]:
    """A keyframe as JPEG bytes, and the (width, height) of its file.

    Raises:
        OSError: it is missing or cannot be decoded.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        size = fit_size(image.size, settings.short_side)
        if size == image.size and image.format == "JPEG":
            return data, image.size
        pixels = np.asarray(rgb(image))[:, :, ::-1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
    return cv2.imencode(".jpg", resize(pixels, size), quality)[1].tobytes(), image.size


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
