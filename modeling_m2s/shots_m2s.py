"""A video file to its shots and their keyframes, in one decode pass (paper §4.2: one frame a shot).

PySceneDetect judges the frames; while they pass, the few that may become keyframes are kept as they were decoded. The
obvious alternative decodes twice: detect first, then seek to every keyframe. `benchmarks/shots.py` compares the two.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .video_m2s import VideoError

try:
    import av
    import cv2
    import scenedetect
    from scenedetect import SceneManager
    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.detector import SceneDetector
    from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector
    from scenedetect.video_stream import VideoStream
except ImportError as error:
    raise ImportError(f"finding shots needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .decoding_m2s import VideoFrames
from .pictures_m2s import DetectorPictures, DisplayPictures, FilmFrame, Shape, contrast

if TYPE_CHECKING:
    from .transnet_m2s import NetworkPictures

# Without a handler, PySceneDetect's messages would go to standard error beside the errors that are raised here.
logging.getLogger("pyscenedetect").addHandler(logging.NullHandler())

DECODER_VERSIONS = {"scenedetect": scenedetect.__version__, "opencv": cv2.__version__, "av": av.__version__}

# PySceneDetect's own default thresholds, and TransNet V2's; they differ because each detector has its own score.
DETECTORS = {"adaptive": 3.0, "content": 27.0, "hash": 0.35, "histogram": 0.2, "transnetv2": 0.5}

MAX_KEYFRAMES_PER_SHOT = 31
# A shot with this many candidates drops every second one; the rest stand at most 1/32.5 of the shot apart.
_MAX_CANDIDATES = 66
# Candidates up to this size are kept as they were decoded (a reference, no work); larger ones are halved on entry.
_MAX_REFERENCE_BYTES = 2 * 2**20
# Large frames that wait for a detector are halved at once if more of them wait.
_MOST_WHOLE = 16
# A keyframe whose `contrast` is lower is blank. In real films, blank frames have 0 to 2, others more than 15.
BLANK_CONTRAST = 4.0
# Settings that earlier releases did not record, as they did it.
UNRECORDED = {"any_keyframe": True}
# A film of which less can be read is refused.
MIN_READABLE = 0.9


@dataclass(frozen=True)
class ShotSettings:
    """How shots are found and keyframes stored; goes into the record of a `shots` dataset.

    Args:
        detector: PySceneDetect's `adaptive` (cuts that stand out from their neighborhood), `content`, `hash` or
            `histogram`; or the network `transnetv2` (`transnet_m2s.py`), which needs a package of its own.
        threshold: the detector's score for a cut; its own default when None.
        min_shot_frames: no cut ends a shot that is shorter than this.
        keyframes_per_shot: 1 takes the frame nearest the middle (ties to the earlier), k > 1 the middles of k equal
            parts; a shot with fewer frames has fewer keyframes.
        short_side: shorter side of stored keyframes, in pixels; they are never scaled up.
        jpeg_quality: JPEG quality of stored keyframes, from 1 to 100.
        video_stream: number of the stream among a file's video streams, from 0; by default the one that a player shows.
        any_keyframe: take a blank frame (black, white, faded out) as any other. Otherwise the nearest frame of the
            shot, or of its equal part, that shows something is taken instead, if there is one.
    """

    detector: str = "adaptive"
    threshold: float | None = None
    min_shot_frames: int = 15
    keyframes_per_shot: int = 1
    short_side: int = 224
    jpeg_quality: int = 90
    video_stream: int | None = None
    any_keyframe: bool = False

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise ValueError(f"detector={self.detector!r} is unknown; choose one of {', '.join(DETECTORS)}")
        if not 1 <= self.keyframes_per_shot <= MAX_KEYFRAMES_PER_SHOT:
            raise ValueError(f"keyframes_per_shot={self.keyframes_per_shot} is not in 1…{MAX_KEYFRAMES_PER_SHOT}")
        if self.min_shot_frames < 1 or self.short_side < 1 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"min_shot_frames, short_side and jpeg_quality must be positive: {self}")
        if self.video_stream is not None and self.video_stream < 0:
            raise ValueError(f"video_stream={self.video_stream} is negative; streams are counted from 0")
        if self.threshold is None:
            object.__setattr__(self, "threshold", DETECTORS[self.detector])

    def build_detector(self, device: str | None = None) -> SceneDetector:
        """The detector with these parameters; `device` is as in `detect_shots`.

        Raises:
            ImportError: it is `transnetv2`, whose package is missing.
        """
        if self.detector == "transnetv2":
            from .transnet_m2s import TransNetDetector

            return TransNetDetector(self.threshold or 0.0, self.min_shot_frames, device)
        if self.detector == "adaptive":
            return _ExactAdaptiveDetector(adaptive_threshold=self.threshold, min_scene_len=self.min_shot_frames)
        detectors = {"content": _ExactContentDetector, "hash": HashDetector, "histogram": HistogramDetector}
        return detectors[self.detector](threshold=self.threshold, min_scene_len=self.min_shot_frames)

    def build_pictures(self, first: Shape) -> "DetectorPictures | NetworkPictures":
        """What makes the pictures that the detector reads, of a film whose first frame has this shape."""
        if self.detector == "transnetv2":
            from .transnet_m2s import NetworkPictures

            return NetworkPictures()
        return DetectorPictures(first)


@dataclass
class Shot:
    """One shot: frames `start_frame` to `end_frame` (exclusive) of the film, its keyframes as JPEG bytes."""

    shot_index: int
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    keyframe_frames: list[int] = field(default_factory=list)
    keyframes: list[bytes] = field(default_factory=list)


@dataclass
class Film:
    """A film's shots in order, and what is known of its video stream.

    `width` and `height` are as displayed; `damage` says what could not be read; None if all could. `moved_keyframes` is
    the number of keyframes that stand elsewhere because the frame at their place is blank.
    """

    shots: list[Shot]
    num_frames: int
    frame_rate: float
    duration_seconds: float
    width: int
    height: int
    damage: str | None = None
    moved_keyframes: int = 0


def detect_shots(
    path: str | os.PathLike,
    settings: ShotSettings | None = None,
    report: Callable[[float], None] | None = None,
    min_readable: float = MIN_READABLE,
    span: tuple[float, float] | None = None,
    device: str | None = None,
) -> Film:
    """Find the shots of a film and their keyframes in one decode pass.

    Shots are those of PySceneDetect's detector with the same parameters on its PyAV backend, or those of TransNet V2.

    At most 66 frames of the running shot are held, however long it is; a keyframe stands within 1/64 of its shot's
    length from the ideal place, and exactly there in shots of up to 65 frames. Frames that cannot be read are left out.

    A blank keyframe costs no more memory. When the shot ends, the frames that are held anyway are scaled down one after
    another, at most 65 more than without it. Other keyframes cost a measure of a small picture that is made anyway.

    Args:
        path: a video file.
        settings: detector, thresholds, keyframes.
        report: called every 128 frames with the share of the film that has been read; 0 where its length is unknown.
        min_readable: share of the film, from 0 to 1, that must be readable.
        span: only the frames shown from the first to the second of these times, in seconds. Frames are then counted
            from the first one of them, while times stay those of the film.
        device: where the network `transnetv2` runs: a GPU such as `cuda:1`, else the processor; by default the first
            GPU, if there is one. Other detectors run on the processor.

    Raises:
        VideoError: no readable video, less than `min_readable` of it could be read, or no frame in the span.
        ImportError: the package of the detector `transnetv2` is missing.
    """
    settings = settings or ShotSettings()
    try:
        with VideoFrames(path, settings.video_stream) as frames:
            stream = _PassingStream(frames, settings.build_pictures(frames.first.shape), span)
            pictures = DisplayPictures(frames.first, settings.short_side)
            collector = _ShotCollector(settings, stream, pictures, report, device)
            manager = SceneManager()
            manager.add_detector(collector)
            manager.detect_scenes(stream)
            damage = frames.damage.describe(frames.start_seconds)
            readable = frames.damage.readable
    except av.error.FFmpegError as error:
        raise VideoError(path, f"not a readable video ({error.strerror})") from error
    if readable < min_readable:
        raise VideoError(path, f"{damage}; a min_readable of {math.floor(readable * 100) / 100} keeps the rest")
    return Film(
        shots=collector.shots,
        num_frames=stream.frame_number,
        frame_rate=float(frames.frame_rate),
        duration_seconds=collector.shots[-1].end_seconds,
        width=pictures.display_size[0],
        height=pictures.display_size[1],
        damage=damage,
        moved_keyframes=collector.moved_keyframes,
    )


def keyframe_places(num_frames: int, num_keyframes: int) -> list[float]:
    """Ideal places of keyframes in a shot, in frames from its start: the middles of equal parts."""
    num_keyframes = min(num_keyframes, num_frames)
    return [(i + 0.5) * num_frames / num_keyframes - 0.5 for i in range(num_keyframes)]


class _PassingStream(VideoStream):
    """Frames as PySceneDetect reads them, with their times. It also hands each decoded frame on, by reference.

    It reads in PySceneDetect's decode thread, a few frames ahead of the detector.
    """

    BACKEND_NAME = "movies2scenes"
    is_seekable = False
    aspect_ratio = 1.0
    duration = None
    position = FrameTimecode(0, fps=1.0)
    frame_number = 0

    def __init__(
        self,
        frames: VideoFrames,
        pictures: "DetectorPictures | NetworkPictures",
        span: tuple[float, float] | None = None,
    ):
        self.frames = frames
        self.passed: deque[tuple[FrameTimecode, FilmFrame]] = deque()
        self.position = self.base_timecode
        self.end_ticks = 0
        self._iterator = iter(frames) if span is None else self._within(*span)
        self._pictures = pictures

    path = property(lambda self: str(self.frames.path))
    name = path
    frame_rate = property(lambda self: self.frames.frame_rate)
    frame_size = property(lambda self: self._pictures.size)
    position_ms = property(lambda self: 1000.0 * self.position.seconds)

    def read(self, decode: bool = True) -> np.ndarray | bool:
        film_frame = next(self._iterator, None)
        if film_frame is None:
            return False
        timecode = Timecode(film_frame.ticks, self.frames.time_base)
        self.position = FrameTimecode(timecode, self.frames.frame_rate)
        self.frame_number += 1
        self.passed.append((self.position, film_frame))
        self.end_ticks = film_frame.ticks + film_frame.duration
        return self._pictures.read(film_frame)

    def _within(self, start_seconds: float, end_seconds: float) -> Iterator[FilmFrame]:
        film_end = 0.0
        for film_frame in self.frames:
            film_end = self.frames.seconds(film_frame.ticks + film_frame.duration)
            if self.frames.seconds(film_frame.ticks) >= end_seconds:
                break
            if film_end > start_seconds:
                yield film_frame
        if not self.frame_number:
            end = "s on" if end_seconds == float("inf") else f"to {end_seconds:.1f} s"
            reason = f"no picture from {start_seconds:.1f} {end}; it has pictures up to {film_end:.1f} s"
            raise VideoError(self.frames.path, reason)

    def reset(self) -> None:
        raise NotImplementedError("frames pass once")

    def seek(self, target) -> None:
        raise NotImplementedError("frames pass once")


class _Candidates:
    """The frames of one shot that may become its keyframes: every stride-th, thinned as the shot grows."""

    def __init__(self, start_frame: int, start_seconds: float, num_keyframes: int):
        self.start_frame = start_frame
        self.start_seconds = start_seconds
        self.num_keyframes = num_keyframes
        self.num_frames = 0
        self.stride = 1
        self.kept: list[tuple[int, FilmFrame]] = []

    def add(self, prepare: Callable[[FilmFrame], FilmFrame], film_frame: FilmFrame) -> None:
        place = self.num_frames
        self.num_frames += 1
        if place % self.stride:
            return
        self.kept.append((place, prepare(film_frame)))
        if len(self.kept) == _MAX_CANDIDATES:
            self.kept = self.kept[::2]
            self.stride *= 2

    def choose(self) -> list[list[tuple[int, FilmFrame]]]:
        """For each keyframe the candidates in its part of the shot, the nearest to its ideal place first."""
        places = keyframe_places(self.num_frames, self.num_keyframes)
        reach = 0.5 * self.num_frames / len(places)
        chosen = []
        for place in places:
            nearest, *others = sorted(self.kept, key=lambda candidate: (abs(candidate[0] - place), candidate[0]))
            chosen.append([nearest, *(each for each in others if abs(each[0] - place) < reach)])
        return chosen


class _ShotCollector(SceneDetector):
    """Stands between PySceneDetect and its detector, turning cuts and passing frames into shots with keyframes.

    A detector may place a cut up to `event_buffer_length` frames back, so frames wait that long before they are
    counted into a shot.
    """

    def __init__(
        self,
        settings: ShotSettings,
        stream: _PassingStream,
        pictures: DisplayPictures,
        report: Callable[[float], None] | None,
        device: str | None,
    ):
        super().__init__()
        self.detector = settings.build_detector(device)
        self.settings = settings
        self.stream = stream
        self.pictures = pictures
        self.report = report
        self.waiting: deque[tuple[FrameTimecode, FilmFrame]] = deque()
        self.current: _Candidates | None = None
        self.num_seen = self.num_counted = 0
        self.waits_long = self.event_buffer_length > _MOST_WHOLE
        self.shots: list[Shot] = []
        self.moved_keyframes = 0

    @property
    def event_buffer_length(self) -> int:
        return self.detector.event_buffer_length

    def process_frame(self, timecode, frame_img):
        passed, film_frame = self.stream.passed.popleft()
        self.waiting.append((passed, self._prepare(film_frame) if self.waits_long else film_frame))
        cuts = self.detector.process_frame(timecode, frame_img)
        for cut in cuts:
            self._cut(cut)
        while len(self.waiting) > self.event_buffer_length + 1:
            self._count()
        if self.report and self.num_seen % 128 == 0:
            expected = self.stream.frames.expected_frames
            self.report(min(1.0, self.num_seen / expected) if expected else 0.0)
        self.num_seen += 1
        return cuts

    def post_process(self, timecode):
        cuts = self.detector.post_process(timecode)
        for cut in cuts:
            self._cut(cut)
        while self.waiting:
            self._count()
        self._close(self.stream.end_ticks)
        return cuts

    def _count(self) -> None:
        _, film_frame = self.waiting.popleft()
        if self.current is None:
            start_seconds = self.stream.frames.seconds(film_frame.ticks)
            self.current = _Candidates(self.num_counted, start_seconds, self.settings.keyframes_per_shot)
        self.current.add(self._prepare, film_frame)
        self.num_counted += 1

    def _cut(self, cut: FrameTimecode) -> None:
        # Detectors return the timecode objects that they were given.
        while self.waiting[0][0] is not cut:
            self._count()
        if self.current is not None:
            self._close(self.waiting[0][1].ticks)

    def _close(self, end_ticks: int) -> None:
        shot = self.current
        assert shot is not None
        chosen = [self._clearest(candidates) for candidates in shot.choose()]
        self.shots.append(
            Shot(
                shot_index=len(self.shots),
                start_frame=shot.start_frame,
                end_frame=shot.start_frame + shot.num_frames,
                start_seconds=shot.start_seconds,
                end_seconds=self.stream.frames.seconds(end_ticks),
                keyframe_frames=[shot.start_frame + place for place, _ in chosen],
                keyframes=[self._encode(picture) for _, picture in chosen],
            )
        )
        self.current = None

    def _prepare(self, film_frame: FilmFrame) -> FilmFrame:
        return self.pictures.shrink(film_frame, _MAX_REFERENCE_BYTES)

    def _clearest(self, candidates: list[tuple[int, FilmFrame]]) -> tuple[int, np.ndarray]:
        """Place and picture of the first candidate that is not blank, or of the first one if all are.

        In place of a blank one comes the next that has at least half the contrast of the best: no frame of a fade.
        """
        place, film_frame = candidates[0]
        picture = self.pictures.read(film_frame)
        if self.settings.any_keyframe or contrast(picture) >= BLANK_CONTRAST:
            return place, picture
        contrasts = [contrast(self.pictures.read(film_frame)) for _, film_frame in candidates]
        if max(contrasts) < BLANK_CONTRAST:
            return place, picture
        self.moved_keyframes += 1
        place, film_frame = next(
            each for each, found in zip(candidates, contrasts, strict=True) if found >= max(contrasts) / 2
        )
        return place, self.pictures.read(film_frame)

    def _encode(self, picture: np.ndarray) -> bytes:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.settings.jpeg_quality]
        return cv2.imencode(".jpg", picture, quality)[1].tobytes()


class _ExactScores:
    """PySceneDetect's content score, the same number to the last bit, without int32 copies of every channel.

    The mean absolute difference of two uint8 images is an integer divided by the number of pixels, so the order of
    summation does not matter. OpenCV's L1 norm sums in one pass.
    """

    def _calculate_frame_score(self, timecode, frame_img: np.ndarray) -> float:
        channels = cv2.split(cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV))
        previous, self._previous = getattr(self, "_previous", None), channels
        if previous is None:
            return 0.0
        num_pixels = float(channels[0].size)
        deltas = [
            cv2.norm(now, before, cv2.NORM_L1) / num_pixels for now, before in zip(channels, previous, strict=True)
        ]
        weights = self._weights  # type: ignore[attr-defined]
        score = sum(delta * weight for delta, weight in zip([*deltas, 0.0], weights, strict=True))
        return score / sum(abs(weight) for weight in weights)


class _ExactContentDetector(_ExactScores, ContentDetector):
    pass


class _ExactAdaptiveDetector(_ExactScores, AdaptiveDetector):
    pass
