"""Sources of the frames of labeled scenes: a `shots` dataset, video files, folders of pictures.

    >>> media = StoredShots("catalog/shots", image_processor, Reading("evenly", 9))
    >>> labeled = LabeledScene("tt0133093_0004", "tt0133093", video="tt0133093", split="test", seconds=(61.0, 94.5))
    >>> (scene,) = media.read("tt0133093", [labeled])
    >>> scene.windows[0].shape, scene.extent
    (torch.Size([9, 3, 224, 224]), Extent(first_shot=7, num_shots=12, start_seconds=58.2, end_seconds=95.0))

Missing media raise no error: for a scene that cannot be read, the reason is returned, and a scene that is read in part
has a note. A scene that begins in its video and ends past its end is read up to the video's end.

Names of tensors end in their shape: F frames, C color channels, Y×X pixels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import BaseImageProcessor

from data_scripts.features.scene_embedding import Scene, read_scene
from data_scripts.formats.labeled_scenes import LabeledScene, films_by_name
from data_scripts.formats.photographs import PICTURE_SUFFIXES
from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.inputs import finished
from modeling_m2s.decoding_m2s import frame_times, read_frames
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.frames_m2s import Preparation
from modeling_m2s.images_m2s import open_picture
from modeling_m2s.pipeline_m2s import SHOTS_PER_SCENE, evenly_spaced, scene_windows
from modeling_m2s.video_m2s import VIDEO_SUFFIXES, VideoError, fingerprint, printable

READ = ("evenly", "windows", "all")
# A scene may end this much after its video without a note: labels are often rounded to whole seconds.
SLACK_SECONDS = 1.0


class MediaError(UserError, ValueError):
    """The media cannot serve the scenes; the message names both and the fix."""


class Extent(NamedTuple):
    """A scene's part of its video. Without shots, `num_shots` is 0; pictures have no seconds."""

    first_shot: int
    num_shots: int
    start_seconds: float | None
    end_seconds: float | None


class SceneRead(NamedTuple):
    """Frames of a scene.

    Attributes:
        windows: uint8 pixels (F, C, Y, X) for each pass of the encoder.
        note: names the parts that could not be read; usually empty.
    """

    extent: Extent
    windows: list[Tensor]
    note: str = ""


@dataclass(frozen=True)
class Reading:
    """Which of a scene's shots, pictures or moments are read.

    Args:
        read: `evenly` reads `shots_per_scene` of them, evenly spaced, or all if there are fewer [3.3]. The paper says
            no more, so there are two other ways (ours): `windows` reads all, `shots_per_scene` at a time, and `all`
            reads all at once.
        shots_per_scene: shots, pictures or moments that are read at a time.
    """

    read: Literal["evenly", "windows", "all"] = "evenly"
    shots_per_scene: int = SHOTS_PER_SCENE

    def __post_init__(self) -> None:
        """Raises: ValueError: an unknown way, or fewer than one shot per scene."""
        if self.read not in READ:
            raise ValueError(f"read={self.read!r} must be one of {', '.join(READ)}")
        if self.shots_per_scene < 1:
            raise ValueError(f"shots_per_scene={self.shots_per_scene} must be at least 1")

    def windows(self, count: int) -> list[list[int]]:
        """The indices, among `count` shots, that each pass reads."""
        if self.read == "evenly":
            return [evenly_spaced(0, count, self.shots_per_scene)]
        size = self.shots_per_scene if self.read == "windows" else count
        return [list(range(first, first + length)) for first, length in scene_windows(count, size)]


class Media(Protocol):
    """Videos by name, and the scenes in them.

    Attributes:
        settings: everything that frames depend on besides the media themselves, for records.
        run_length: scenes of a video that are read at a time.
    """

    settings: dict[str, Any]
    run_length: int

    def identify(self, video: str, scenes: Sequence[LabeledScene]) -> str:
        """A digest of the video, which changes if it is replaced.

        Raises:
            FileNotFoundError: the video does not exist; the message says so.
            MediaError: its scenes are given in a form that these media do not support.
        """
        ...

    def read(self, video: str, scenes: Sequence[LabeledScene]) -> list[SceneRead | str]:
        """Read scenes of one video; for each, its frames, or the reason why there are none."""
        ...


class StoredShots:
    """Scenes of a `shots` dataset: parts in shots, parts in seconds (the shots that overlap them), whole videos.

    A scene's `video` is the id of its film, or the last part of the id: `abc` for `2012/abc`.

    Raises:
        StorageError: no finished `shots` dataset.
    """

    run_length = 16

    def __init__(self, folder: Path, image_processor: BaseImageProcessor, reading: Reading):
        self.frames = SceneFrames(folder, image_processor, arrow_copy=False)
        self.reading, self.folder = reading, folder
        dataset = finished(folder, "shots")
        self.films = dataset.films(parts=False)
        self.names = films_by_name(self.films)
        self.settings = {"media": "shots", "read": reading.read, "shots_per_scene": reading.shots_per_scene}
        columns = [column.to_numpy() for column in dataset.read(["start_seconds", "end_seconds"]).columns]
        first_rows = np.cumsum([0] + [film.num_rows for film in self.films.values()])
        self.seconds = {
            movie_id: tuple(column[first:stop] for column in columns)
            for movie_id, first, stop in zip(self.films, first_rows[:-1], first_rows[1:], strict=True)
        }

    def identify(self, video: str, scenes: Sequence[LabeledScene]) -> str:
        movie_ids = self.names.get(video, [])
        if not movie_ids:
            raise FileNotFoundError(f"{self.folder} has no shots of {video}")
        if len(movie_ids) > 1:
            raise MediaError(
                f"{self.folder} has several films of the name {video}: {', '.join(movie_ids)}; use the whole id in the "
                "labels, or rename one"
            )
        if scenes[0].pictures:
            raise MediaError(f"scene {scenes[0].scene_id} is one of pictures: give --pictures instead of --shots")
        film = self.films[movie_ids[0]]
        return digest(self.frames.record["settings"], film.facts, film.num_rows)

    def read(self, video: str, scenes: Sequence[LabeledScene]) -> list[SceneRead | str]:
        return [self._read_scene(video, scene) for scene in scenes]

    def _read_scene(self, video: str, scene: LabeledScene) -> SceneRead | str:
        (movie_id,) = self.names[video]
        starts, ends = self.seconds[movie_id]
        if not len(starts):
            return f"{video} has no shots"
        first, stop, note = self._shots_of(scene, starts, ends)
        if first >= stop:
            return note or f"no shot of {video} overlaps it"
        extent = Extent(first, stop - first, float(starts[first]), float(ends[stop - 1]))
        windows, bad = [], 0
        for places in self.reading.windows(stop - first):
            pixels_FCYX, unreadable = read_scene(self.frames, Scene(movie_id, [first + place for place in places]))
            bad += len(unreadable)
            if len(unreadable) < len(places):
                windows.append(pixels_FCYX)
        if not windows:
            return f"no keyframe of shots {first} to {stop - 1} of {video} decodes"
        return SceneRead(
            extent, windows, "; ".join(filter(None, (note, f"{bad} keyframes do not decode" if bad else "")))
        )

    def _shots_of(self, scene: LabeledScene, starts: np.ndarray, ends: np.ndarray) -> tuple[int, int, str]:
        """First shot, the shot after the last, and a note on missing parts; no shots if all are missing."""
        if scene.shots is not None:
            first, stop = scene.shots[0], scene.shots[0] + scene.shots[1]
            past = f"shots {first} to {stop - 1} are asked for, {scene.video} has {len(starts)}" * (stop > len(starts))
            return first, min(stop, len(starts)), past
        if scene.seconds is None:
            return 0, len(starts), ""
        first, stop = ends.searchsorted(scene.seconds[0], "right"), starts.searchsorted(scene.seconds[1], "left")
        return int(first), int(stop), past_the_end(scene, float(ends[-1]))


class VideoFiles:
    """Scenes of video files without shots: moments evenly spaced over a part in seconds, or over the whole video.

    The moments are the middles of equal parts; the frame shown at each moment is read. If a video has fewer frames than
    moments, each frame is read once. The paper reads clips of moderation as nine frames [4.4].

    Args:
        folder: has videos anywhere below it; a scene's `video` is a file's name without suffix.

    Raises:
        MediaError: no video below the folder, two with the same name, or another `reading` than evenly.
    """

    run_length = 4  # small, because a run's frames are held at the video's full size

    def __init__(self, folder: Path, image_processor: BaseImageProcessor, reading: Reading):
        if reading.read != "evenly":
            raise MediaError(f"read={reading.read} needs shots: run data_scripts.detect_shots and give --shots")
        self.folder, self.reading, self.prepare = folder, reading, Preparation(image_processor)
        self.settings = {"media": "videos", "read": reading.read, "frames_per_scene": reading.shots_per_scene}
        self.paths: dict[str, Path] = {}
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES):
            if (other := self.paths.setdefault(path.stem, path)) != path:
                raise MediaError(f"{printable(other)} and {printable(path)} have the same name: rename one")
        if not self.paths:
            raise MediaError(f"{folder}: no video files below this folder ({' '.join(VIDEO_SUFFIXES)})")

    def identify(self, video: str, scenes: Sequence[LabeledScene]) -> str:
        for scene in scenes:
            if scene.shots is not None or scene.pictures:
                flag = "--pictures" if scene.pictures else "--shots"
                raise MediaError(f"scene {scene.scene_id} is not given in seconds: give {flag} instead of --videos")
        if video not in self.paths:
            raise FileNotFoundError(f"{self.folder} has no video of the name {video}")
        return fingerprint(self.paths[video])

    def read(self, video: str, scenes: Sequence[LabeledScene]) -> list[SceneRead | str]:
        path = self.paths[video]
        try:
            times, backend = frame_times(path)
            found = [self._moments(scene, times) for scene in scenes]
            frames = sorted({frame for places, _, _ in found for frame in places})
            images = dict(zip(frames, read_frames(path, frames, backend=backend), strict=True))
        except (VideoError, IndexError, OSError) as error:
            return [f"{printable(path)}: {getattr(error, 'reason', error)}"] * len(scenes)
        return [
            SceneRead(extent, [self._pixels([images[frame] for frame in places])], note) if places else note
            for places, extent, note in found
        ]

    def _moments(self, scene: LabeledScene, times: np.ndarray) -> tuple[list[int], Extent, str]:
        """Frames at the scene's moments; none if the scene begins past the end."""
        end = float(times[-1] + np.diff(times).mean()) if len(times) > 1 else float(times[-1]) + 0.04
        start, stop = scene.seconds or (0.0, end)
        note = past_the_end(scene, end)
        extent = Extent(0, 0, start, min(stop, end))
        if start >= end:
            return [], extent, note
        moments = self.reading.shots_per_scene
        seconds = start + (np.arange(moments) + 0.5) * (min(stop, end) - start) / moments
        return np.unique((times.searchsorted(seconds, "right") - 1).clip(0)).tolist(), extent, note

    def _pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([self.prepare(Image.fromarray(image)) for image in images]))


class Pictures:
    """Scenes of pictures: those that a scene names, or all in the folder named by its `video`, sorted by name.

    Args:
        folder: base folder of the pictures' paths.

    Raises:
        MediaError: no such folder.
    """

    run_length = 16

    def __init__(self, folder: Path, image_processor: BaseImageProcessor, reading: Reading):
        if not folder.is_dir():
            raise MediaError(f"{folder}: no such folder")
        self.folder, self.reading, self.prepare = folder, reading, Preparation(image_processor)
        self.settings = {"media": "pictures", "read": reading.read, "shots_per_scene": reading.shots_per_scene}

    def identify(self, video: str, scenes: Sequence[LabeledScene]) -> str:
        sizes = []
        for scene in scenes:
            if scene.seconds is not None or scene.shots is not None:
                raise MediaError(
                    f"scene {scene.scene_id} is a part of a video: give --shots or --videos, not --pictures"
                )
            sizes += [[path.name, path.stat().st_size] for path in self._paths(scene) if path.is_file()]
        if not sizes:
            raise FileNotFoundError(f"{self.folder} has no pictures of {video}")
        return digest(sizes)

    def read(self, video: str, scenes: Sequence[LabeledScene]) -> list[SceneRead | str]:
        return [self._read_scene(scene) for scene in scenes]

    def _read_scene(self, scene: LabeledScene) -> SceneRead | str:
        paths, problems = self._paths(scene), []
        if not paths:
            return f"{self.folder} has no pictures of {scene.video}"
        windows = []
        for places in self.reading.windows(len(paths)):
            images = [image for place in places if (image := self._open(paths[place], problems)) is not None]
            if images:
                windows.append(torch.from_numpy(np.stack([self.prepare(image) for image in images])))
        note = problems[0] + f" and {len(problems) - 1} more" * (len(problems) > 1) if problems else ""
        return SceneRead(Extent(0, len(paths), None, None), windows, note) if windows else note

    def _paths(self, scene: LabeledScene) -> list[Path]:
        root = self.folder.resolve()
        paths = [self.folder / name for name in scene.pictures or [scene.video]]
        if outside := [path for path in paths if not path.resolve().is_relative_to(root)]:
            raise MediaError(f"scene {scene.scene_id}: {outside[0]} is not below {self.folder}")
        if not scene.pictures and paths[0].is_dir():
            return sorted(path for path in paths[0].iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        return paths if scene.pictures or paths[0].is_file() else []

    def _open(self, path: Path, problems: list[str]) -> Image.Image | None:
        """A picture, upright, in RGB; if it cannot be read, the reason is appended to `problems`."""
        try:
            return open_picture(path)
        except FileNotFoundError:
            problems.append(f"{path} is not there")
        except Exception as error:  # Pillow's decoders raise errors of many kinds on broken bytes
            problems.append(f"{path} does not decode ({error})")
        return None


@dataclass
class Videos:
    """The scenes by video, in order of time.

    Attributes:
        scenes: scenes of each video (pictures: of each film), which are the rows of a film in the dataset.
        sources: digest of each existing video and its scenes.
        missing: reason why each other video cannot be found.
    """

    scenes: dict[str, list[LabeledScene]]
    sources: dict[str, str]
    missing: dict[str, str]

    @classmethod
    def of(cls, scenes: Sequence[LabeledScene], media: Media) -> "Videos":
        """Look for all videos."""
        found = cls(scenes_by_video(scenes), {}, {})
        for name, its_scenes in tqdm(found.scenes.items(), desc="looking for media", leave=False, disable=None):
            try:
                found.sources[name] = digest(
                    media.identify(name, its_scenes), [scene[:3] + scene[4:] for scene in its_scenes]
                )
            except OSError as error:
                found.missing[name] = str(error)
        return found


def scenes_by_video(scenes: Sequence[LabeledScene]) -> dict[str, list[LabeledScene]]:
    """Scenes of each video, in order of time; scenes of pictures are grouped by film."""
    found: dict[str, list[LabeledScene]] = {}
    for scene in scenes:
        found.setdefault(scene.movie_id if scene.pictures else scene.video, []).append(scene)
    for its_scenes in found.values():
        its_scenes.sort(key=lambda scene: (scene.seconds or (0.0, 0.0), scene.shots or (0, 0), scene.scene_id))
    return dict(sorted(found.items()))


class Run(NamedTuple):
    """Neighboring scenes of one video, with their frames."""

    video: str
    scenes: list[LabeledScene]
    is_last: bool
    reads: list[SceneRead | str]


class Runs(Dataset):
    """Scenes of videos as `Run`s, in order. None spans two videos; see `data_scripts.features.extraction.ShotRuns`."""

    def __init__(self, media: Media, scenes: Mapping[str, Sequence[LabeledScene]]):
        self.media, self.scenes = media, scenes
        self.starts = [
            (name, first) for name, found in scenes.items() for first in range(0, len(found), media.run_length)
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Run:
        name, first = self.starts[number]
        stop = first + self.media.run_length
        scenes = list(self.scenes[name][first:stop])
        return Run(name, scenes, stop >= len(self.scenes[name]), self.media.read(name, scenes))


def past_the_end(scene: LabeledScene, end: float) -> str:
    """A note if a scene in seconds ends after its video, else an empty string."""
    if scene.seconds is None or (scene.seconds[0] < end and scene.seconds[1] <= end + SLACK_SECONDS):
        return ""
    start, stop = scene.seconds
    return f"{start:g} to {stop:g} s are asked for, {scene.video} ends at {end:.2f} s"


def digest(*content: Any) -> str:
    """A digest of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
