"""A video file to its shots and their keyframes, in one decode pass (paper §4.2: one frame a shot).

PySceneDetect reads and judges the frames; while they pass, the few that may become keyframes are kept. The obvious
alternative decodes twice: detect first, then seek to every keyframe. `benchmarks/` compares the two.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

try:
    import av
    import cv2
    from scenedetect import SceneManager, VideoOpenFailure
    from scenedetect.backends import VideoStreamCv2
    from scenedetect.detector import SceneDetector
    from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector
except ImportError as error:
    raise ImportError(
        f"reading video files needs more packages: pip install 'movies2scenes[video]' ({error})"
    ) from error

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in "3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogm ogv ts vob webm wmv".split()  # noqa: SIM905
)

# PySceneDetect's own default thresholds: the detectors' scores are of different kinds.
DETECTORS = {"adaptive": 3.0, "content": 27.0, "hash": 0.35, "histogram": 0.2}

MAX_KEYFRAMES_PER_SHOT = 31
# Thinning starts at this many candidates a shot and halves them: they then stand at most 1/32.5 of the shot apart.
_MAX_CANDIDATES = 66
# Below this size candidates are kept as they were decoded (a reference, no work); above, they are shrunk on entry.
_MAX_REFERENCE_BYTES = 2 * 2**20
# FFmpeg's threads cost small films more than they give, and detection keeps a second core busy.
_SINGLE_THREAD_PIXELS = 640 * 480


class VideoError(Exception):
    """A video that cannot be used; the message names the file and the reason."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{printable(path)}: {reason}")
        self.reason = reason

    def __reduce__(self):
        return _rebuild_video_error, (str(self), self.reason)


def _rebuild_video_error(message: str, reason: str) -> VideoError:
    error = VideoError("", reason)
    error.args = (message,)
    return error


def printable(path: str | os.PathLike) -> str:
    """A file's name as valid Unicode; bytes that are not UTF-8 become �."""
    return os.fsencode(path).decode("utf-8", "replace")


@dataclass(frozen=True)
class ShotSettings:
    """How shots are found and keyframes stored; goes into the record of a `shots` dataset.

    Args:
        detector: PySceneDetect's `adaptive` (cuts that stand out from their neighborhood), `content`, `hash` or
            `histogram`.
        threshold: the detector's score for a cut; its own default when None.
        min_shot_frames: shots shorter than this are not cut off.
        keyframes_per_shot: 1 takes the frame nearest the middle (ties to the earlier), k > 1 the middles of k equal
            parts; a shot with fewer frames has fewer keyframes.
        short_side: smaller one of height and width of stored keyframes, in pixels; never scaled up.
        jpeg_quality: of the stored keyframes.
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
    """A film's shots in order, and what is known of its video stream. `width` and `height` are as displayed."""

    shots: list[Shot]
    num_frames: int
    frame_rate: float
    duration_seconds: float
    width: int
    height: int


@dataclass(frozen=True)
class VideoInfo:
    """What the container says: pixels as coded, their aspect ratio, clockwise rotation in degrees, length."""

    width: int
    height: int
    pixel_aspect: Fraction
    rotation: int
    num_frames: int  # 0 where the container does not count them
    stream_seconds: float | None  # of the video stream
    container_seconds: float | None  # of all streams
    container: str

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) with square pixels, upright."""
        width, height = max(1, round(self.width * self.pixel_aspect)), self.height
        return (height, width) if self.rotation % 180 else (width, height)


def fingerprint(path: str | os.PathLike) -> str:
    """Tells a replaced file from the one seen before: size and SHA-256 of the first and last MiB."""
    size = os.stat(path).st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(2**20))
        file.seek(max(0, size - 2**20))
        digest.update(file.read(2**20))
    return digest.hexdigest()[:16]


def probe(path: str | os.PathLike) -> VideoInfo:
    """Open the container and describe its first real video stream, without decoding more than one frame.

    Raises:
        VideoError: missing, unreadable, empty or not a video file; no video stream; no frame in it.
    """
    try:
        if os.stat(path).st_size == 0:
            raise VideoError(path, "the file is empty")
        with _openable(path) as name, av.open(name) as container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise VideoError(path, "the file has no video stream")
            stream = streams[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(path, "the video stream has no frames")
            aspect = stream.sample_aspect_ratio
            stream_seconds = None
            if stream.duration and stream.time_base:
                stream_seconds = float(stream.duration * stream.time_base)
            elif tag := re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", "")):
                stream_seconds = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
            return VideoInfo(
                width=frame.width,
                height=frame.height,
                pixel_aspect=Fraction(aspect) if aspect else Fraction(1),
                rotation=-round(frame.rotation) % 360,
                num_frames=stream.frames,
                stream_seconds=stream_seconds,
                container_seconds=container.duration / av.time_base if container.duration else None,
                container=container.format.name,
            )
    except av.error.FFmpegError as error:
        raise VideoError(path, f"not a readable video ({error.strerror})") from error
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error


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
        report: called now and then with the share of the film that has been read.
        allow_damaged: keep what could be read of a file whose end or middle cannot.

    Raises:
        VideoError: no readable video, or less of it could be read than its container announces.
    """
    settings = settings or ShotSettings()
    info = probe(path)
    keyframe_size = fit_size(info.display_size, settings.short_side)
    expected = info.num_frames or None
    try:
        with _openable(path) as name:
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
    missing = _missing(film, info)
    if missing and not allow_damaged:
        raise VideoError(path, missing)
    return film


def _missing(film: Film, info: VideoInfo) -> str | None:
    """Why the film is not whole, or None. OpenCV ends a damaged file early without an error.

    Frame counts may be off by the few that edit lists hide; the container's duration also speaks of other streams.
    """
    if info.num_frames:
        if film.num_frames < info.num_frames * 0.995 - 2:
            return f"damaged or truncated: {film.num_frames} of {info.num_frames} frames could be read"
        return None
    expected = info.stream_seconds or info.container_seconds or 0.0
    slack = (0.005, 0.5) if info.stream_seconds else (0.05, 2.0)
    if film.duration_seconds < expected * (1 - slack[0]) - slack[1]:
        return f"damaged or truncated: {film.duration_seconds:.1f} of {expected:.1f} s could be read"
    return None


def fit_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down so that the smaller one is `short_side`; never up."""
    smaller = min(size)
    if short_side is None or smaller <= short_side:
        return size
    return (max(1, round(size[0] * short_side / smaller)), max(1, round(size[1] * short_side / smaller)))


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
        # Asked for twice a frame and made of fractions, so it is kept; after the last frame it stays there.
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
        if self.report and self.expected_frames and entry[0] % 128 == 0:
            self.report(min(1.0, entry[0] / self.expected_frames))
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
        # Detectors return the very timecodes they were given, which also tells frames of equal time apart.
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
        return image if image.nbytes <= _MAX_REFERENCE_BYTES else resize(image, self.keyframe_size)

    def _encode(self, image: np.ndarray) -> bytes:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.settings.jpeg_quality]
        return cv2.imencode(".jpg", resize(image, self.keyframe_size), quality)[1].tobytes()


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image of (width, height) `size` by pixel area, which does not alias when shrinking."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


class _ExactScores:
    """PySceneDetect's content score, the same number to the last bit, without int32 copies of every channel.

    The mean absolute difference of two uint8 images is an integer over the number of pixels, however it is summed;
    OpenCV's L1 norm sums it in one pass.
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


def read_frames(
    path: str | os.PathLike, frames: Sequence[int], short_side: int | None = None, backend: str = "auto"
) -> list[np.ndarray]:
    """Read single frames by their index in decoding order, upright and with square pixels.

    Args:
        path: a video file.
        frames: indices from 0, in any order, repeats allowed.
        short_side: scale down to this in pixels.
        backend: `"decord"` seeks; `"pyav"` decodes up to the last index; `"auto"` is decord, and PyAV where decord
            cannot be loaded, cannot read the file, or counts its frames wrong (containers without an index).

    Returns:
        RGB images (height, width, 3), uint8, one for each entry of `frames`.

    Raises:
        VideoError: the file cannot be read.
        IndexError: a frame beyond the end.
    """
    info = probe(path)
    indexed = any(name in info.container for name in ("mp4", "matroska"))
    readers = {
        "decord": [_read_decord],
        "pyav": [_read_pyav],
        "auto": [_read_decord, _read_pyav] if indexed else [_read_pyav],
    }
    if backend not in readers:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(readers)}")
    for reader in readers[backend]:
        try:
            with _openable(path) as name:
                images = reader(name, frames)
            break
        except IndexError:
            raise
        except Exception as error:
            if reader is readers[backend][-1]:
                raise VideoError(path, f"{reader.__name__[6:]} cannot read it ({error})") from error
            logger.warning("decord cannot read %s (%s); using PyAV", printable(path), error)
    size = fit_size(info.display_size, short_side)
    return [resize(image, size) for image in images]


def _read_decord(path: str, frames: Sequence[int]) -> list[np.ndarray]:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    if frames and max(frames) >= len(reader):
        raise IndexError(f"{path} has {len(reader)} frames; frame {max(frames)} was asked for")
    return [reader[int(index)].asnumpy() for index in frames]


def _read_pyav(path: str, frames: Sequence[int]) -> list[np.ndarray]:
    wanted, found = set(frames), {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                # decord turns frames upright by itself.
                found[index] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation) // 90)
                if len(found) == len(wanted):
                    break
    if missing := wanted - found.keys():
        raise IndexError(f"{path} ends before frame {max(missing)}")
    return [found[index] for index in frames]


@contextlib.contextmanager
def _openable(path: str | os.PathLike) -> Iterator[str]:
    """The path as a string that C libraries take: names that are not UTF-8 are reached through a link."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, "video" + printable(Path(name).suffix))
            os.symlink(os.path.abspath(name), link)
            yield link
    else:
        yield name


@contextlib.contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collect what FFmpeg complains of while the block runs; the list is filled at its end.

    FFmpeg repairs damaged pictures silently and only writes to the process's standard error, so that is where this
    listens. It diverts the whole process's: use it in a worker process.
    """
    messages: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            for line in log.read().decode("utf-8", "replace").splitlines():
                if match := re.match(r"\[\S+ @ 0x[0-9a-f]+\] (.+)", line):
                    messages.append(match[1].strip())
                elif line.strip():
                    print(line, file=sys.stderr)
