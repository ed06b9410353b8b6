"""A video file to its shots and their keyframes, in one decode pass (paper §4.2: one frame a shot).

PySceneDetect reads and judges the frames; while they pass, the few that may become keyframes are kept. The obvious
alternative decodes twice: detect first, then seek to every keyframe. `benchmarks/shots.py` compares the two.
"""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .video_m2s import VideoError, VideoInfo, fit_size, openable, probe, resize

try:
    import cv2
    import scenedetect
    from scenedetect import SceneManager, VideoOpenFailure
    from scenedetect.backends import VideoStreamCv2
    from scenedetect.detector import SceneDetector
    from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector
except ImportError as error:
    raise ImportError(f"finding shots needs more packages: pip install 'movies2scenes[video]' ({error})") from error

DECODER_VERSIONS = {"scenedetect": scenedetect.__version__, "opencv": cv2.__version__}

# PySceneDetect's own default thresholds; they differ because each detector has its own score.
DETECTORS = {"adaptive": 3.0, "content": 27.0, "hash": 0.35, "histogram": 0.2}

MAX_KEYFRAMES_PER_SHOT = 31
# A shot with this many candidates drops every second one; the rest stand at most 1/32.5 of the shot apart.
_MAX_CANDIDATES = 66
# Candidates up to this size are kept as they were decoded (a reference, no work); larger ones are halved on entry.
_MAX_REFERENCE_BYTES = 2 * 2**20
# FFmpeg's threads cost small films more than they give, and detection keeps a second core busy.
_SINGLE_THREAD_PIXELS = 640 * 480


@dataclass(frozen=True)
class ShotSettings:
    """How shots are found and keyframes stored; goes into the record of a `shots` dataset.

    Args:
        detector: PySceneDetect's `adaptive` (cuts that stand out from their neighborhood), `content`, `hash` or
            `histogram`.
        threshold: the detector's score for a cut; its own default when None.
        min_shot_frames: no cut ends a shot that is shorter than this.
        keyframes_per_shot: 1 takes the frame nearest the middle (ties to the earlier), k > 1 the middles of k equal
            parts; a shot with fewer frames has fewer keyframes.
        short_side: shorter side of stored keyframes, in pixels; they are never scaled up.
        jpeg_quality: JPEG quality of stored keyframes, from 1 to 100.
    """

    detector: str = "adaptive"
    threshold: float | None = None
    min_shot_frames: int = 15
    keyframes_per_shot: int = 1
    short_side: int = 224
    jpeg_quality: int = 90

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise ValueError(f"detector={self.detector!r} is unknown; choose one of {', '.join(DETECTORS)}")
        if not 1 <= self.keyframes_per_shot <= MAX_KEYFRAMES_PER_SHOT:
            raise ValueError(f"keyframes_per_shot={self.keyframes_per_shot} is not in 1…{MAX_KEYFRAMES_PER_SHOT}")
        if self.min_shot_frames < 1 or self.short_side < 1 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"min_shot_frames, short_side and jpeg_quality must be positive: {self}")
        if self.threshold is None:
            object.__setattr__(self, "threshold", DETECTORS[self.detector])

    def build_detector(self) -> SceneDetector:
        """PySceneDetect's detector with these parameters."""
        if self.detector == "adaptive":
            return _ExactAdaptiveDetector(adaptive_threshold=self.threshold, min_scene_len=self.min_shot_frames)
        detectors = {"content": _ExactContentDetector, "hash": HashDetector, "histogram": HistogramDetector}
        return detectors[self.detector](threshold=self.threshold, min_scene_len=self.min_shot_frames)


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

    `width` and `height` are as displayed; `damage` says what could not be read, if the film was kept all the same.
    """

    shots: list[Shot]
    num_frames: int
    frame_rate: float
    duration_seconds: float
    width: int
    height: int
    damage: str | None = None


def detect_shots(
    path: str | os.PathLike,
    settings: ShotSettings | None = None,
    report: Callable[[float], None] | None = None,
    allow_damaged: bool = False,
) -> Film:
    """Find the shots of a film and their keyframes in one decode pass.

    Shots are exactly those of PySceneDetect's detector with the same parameters on its OpenCV backend. At most 66
    frames of the running shot are held, however long it is; a keyframe stands within 1/64 of its shot's length from
    the ideal place, and exactly there in shots of up to 65 frames.

    Args:
        path: a video file.
        settings: detector, thresholds, keyframes.
        report: called every 128 frames with the share of the film that has been read; 0 where its length is unknown.
        allow_damaged: keep what could be read of a file whose end or middle cannot.

    Raises:
        VideoError: no readable video, or less of it could be read than its container announces.
    """
    settings = settings or ShotSettings()
    info = probe(path)
    keyframe_size = fit_size(info.display_size, settings.short_side)
    expected = info.num_frames or None
    try:
        with openable(path) as name:
            stream = _KeepingStream(name)
            if expected is None and stream.duration is not None:
                expected = stream.duration.frame_num
            collector = _ShotCollector(settings, stream, keyframe_size, expected, report)
            manager = SceneManager()
            manager.add_detector(collector)
            manager.detect_scenes(stream)
            frame_rate = float(stream.frame_rate)
    except (VideoOpenFailure, OSError, cv2.error) as error:
        raise VideoError(path, f"not a readable video ({error})") from error
    if not collector.shots:
        raise VideoError(path, "the video stream has no frames")
    film = Film(
        shots=collector.shots,
        num_frames=stream.num_read,
        frame_rate=frame_rate,
        duration_seconds=collector.shots[-1].end_seconds,
        width=info.display_size[0],
        height=info.display_size[1],
    )
    film.damage = _missing(film, info)
    if film.damage and not allow_damaged:
        raise VideoError(path, film.damage)
    return film


def _missing(film: Film, info: VideoInfo) -> str | None:
    """The reason why a film counts as damaged, or None. OpenCV ends a damaged file early without an error.

    Frames may be missing because an edit list hides them, so the duration must be too short as well. The container's
    duration also covers other streams, so the limits are wider if it is the only one known.
    """
    durations = [seconds for seconds in (info.stream_seconds, info.container_seconds) if seconds]
    expected = min(durations, default=0.0)
    slack = (0.005, 0.5) if info.stream_seconds else (0.05, 2.0)
    frames_short = not info.num_frames or film.num_frames < info.num_frames * 0.995 - 2
    if frames_short and film.duration_seconds < expected * (1 - slack[0]) - slack[1]:
        return f"damaged or truncated: {film.duration_seconds:.1f} of {expected:.1f} s could be read"
    return None


def keyframe_places(num_frames: int, num_keyframes: int) -> list[float]:
    """Ideal places of keyframes in a shot, in frames from its start: the middles of equal parts."""
    num_keyframes = min(num_keyframes, num_frames)
    return [(i + 0.5) * num_frames / num_keyframes - 0.5 for i in range(num_keyframes)]


class _KeepingStream(VideoStreamCv2):
    """PySceneDetect's OpenCV stream that also hands each decoded frame on, by reference.

    It reads in PySceneDetect's decode thread, a few frames ahead of the detector.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self.num_read = 0
        self.passed: deque = deque()
        self._position = None
        width, height = self.frame_size
        if width * height <= _SINGLE_THREAD_PIXELS:
            self._cap = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    @property
    def position(self):
        # The position is read twice per frame and slow to compute (fractions), so it is kept. It stays there after the
        # last frame.
        return super().position if self._position is None else self._position

    def read(self, decode: bool = True):
        frame = super().read(decode)
        if frame is not False:
            self._position = super().position
            self.passed.append((self.num_read, self._position, frame))
            self.num_read += 1
        return frame


class _Candidates:
    """The frames of one shot that may become its keyframes: every stride-th, thinned as the shot grows."""

    def __init__(self, start_frame: int, start_seconds: float, num_keyframes: int):
        self.start_frame = start_frame
        self.start_seconds = start_seconds
        self.num_keyframes = num_keyframes
        self.num_frames = 0
        self.stride = 1
        self.kept: list[tuple[int, np.ndarray]] = []

    def add(self, prepare: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> None:
        place = self.num_frames
        self.num_frames += 1
        if place % self.stride:
            return
        self.kept.append((place, prepare(image)))
        if len(self.kept) == _MAX_CANDIDATES:
            self.kept = self.kept[::2]
            self.stride *= 2

    def choose(self) -> list[tuple[int, np.ndarray]]:
        places = keyframe_places(self.num_frames, self.num_keyframes)
        return [min(self.kept, key=lambda candidate: (abs(candidate[0] - place), candidate[0])) for place in places]


class _ShotCollector(SceneDetector):
    """Stands between PySceneDetect and its detector, turning cuts and passing frames into shots with keyframes.

    A detector may place a cut up to `event_buffer_length` frames back, so frames wait that long before they are
    counted into a shot.
    """

    def __init__(
        self,
        settings: ShotSettings,
        stream: _KeepingStream,
        keyframe_size: tuple[int, int],
        expected_frames: int | None,
        report: Callable[[float], None] | None,
    ):
        super().__init__()
        self.detector = settings.build_detector()
        self.settings = settings
        self.stream = stream
        self.keyframe_size = keyframe_size
        self.expected_frames = expected_frames
        self.report = report
        self.waiting: deque = deque()
        self.current: _Candidates | None = None
        self.shots: list[Shot] = []

    @property
    def event_buffer_length(self) -> int:
        return self.detector.event_buffer_length

    def process_frame(self, timecode, frame_img):
        # Frames that PySceneDetect left out (of another size) are in `passed` only.
        while (entry := self.stream.passed.popleft())[1] is not timecode:
            self.waiting.append(entry)
        self.waiting.append(entry)
        cuts = self.detector.process_frame(timecode, frame_img)
        for cut in cuts:
            self._cut(cut)
        while len(self.waiting) > self.event_buffer_length + 1:
            self._count(*self.waiting.popleft())
        if self.report and entry[0] % 128 == 0:
            self.report(min(1.0, entry[0] / self.expected_frames) if self.expected_frames else 0.0)
        return cuts

    def post_process(self, timecode):
        cuts = self.detector.post_process(timecode)
        for cut in cuts:
            self._cut(cut)
        while self.waiting:
            self._count(*self.waiting.popleft())
        if self.current is not None:
            self._close((timecode + 1).seconds)
        return cuts

    def _count(self, index: int, timecode, image: np.ndarray) -> None:
        if self.current is None:
            self.current = _Candidates(index, timecode.seconds, self.settings.keyframes_per_shot)
        self.current.add(self._prepare, image)

    def _cut(self, cut) -> None:
        # Detectors return the timecode objects that they were given; identity tells even frames of equal time apart.
        while self.waiting and self.waiting[0][1] is not cut:
            self._count(*self.waiting.popleft())
        if self.current is not None:
            self._close(cut.seconds)

    def _close(self, end_seconds: float) -> None:
        shot = self.current
        assert shot is not None
        chosen = shot.choose()
        self.shots.append(
            Shot(
                shot_index=len(self.shots),
                start_frame=shot.start_frame,
                end_frame=shot.start_frame + shot.num_frames,
                start_seconds=shot.start_seconds,
                end_seconds=end_seconds,
                keyframe_frames=[shot.start_frame + place for place, _ in chosen],
                keyframes=[self._encode(image) for _, image in chosen],
            )
        )
        self.current = None

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """Halve a large candidate to keep it; this is ten times as fast as scaling to the keyframe's size at once."""
        if image.nbytes <= _MAX_REFERENCE_BYTES:
            return image
        while min(image.shape[:2]) >= 2 * min(self.keyframe_size):
            height, width = image.shape[0] // 2, image.shape[1] // 2
            image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        return image

    def _encode(self, image: np.ndarray) -> bytes:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.settings.jpeg_quality]
        return cv2.imencode(".jpg", resize(image, self.keyframe_size), quality)[1].tobytes()


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
