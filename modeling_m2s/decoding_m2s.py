"""The frames of a video file in the order they are shown, each with its film time; single frames by their index.

    >>> with VideoFrames("film.mp4") as frames:
    ...     for film_frame in frames:
    ...         print(frames.seconds(film_frame.ticks), film_frame.frame)
    ...     print(frames.damage.readable)

Film time is what a player shows: seconds after the file's first sound or picture. It goes on where time stamps jump, as
it does when FFmpeg reads a file.
"""

import contextlib
import functools
import logging
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

try:
    import av
    from av.stream import Disposition
    from av.video.stream import VideoStream
except ImportError as error:
    raise ImportError(f"reading videos needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .damage_m2s import Damage
from .pictures_m2s import DisplayPictures, FilmFrame, Orientation, Shape, deinterlaced, resize
from .video_m2s import VideoError, fingerprint, openable, printable

logger = logging.getLogger(__name__)

DEFAULT_FRAME_RATE = Fraction(25)
# FFmpeg's limits, in seconds: a jump of time stamps back or ahead that starts a new recording; one that is an error.
_JUMP_BACK, _JUMP_AHEAD, _WRONG_AHEAD = Fraction(1, 10), 10, 108_000
# Frames that a decoder may lack key frames for before they are taken as they are: some codecs never mark one.
_MAX_FRAMES_WITHOUT_KEY = 300
_MAX_READ_ERRORS = 16
# Packets that are fed to a decoder before their frames come back: at most, and by how many more than before.
_MAX_DELAY, _MAX_MORE_DELAY = 64, 4
# FFmpeg's threads cost small films more than they give, and detection keeps a second core busy.
_SINGLE_THREAD_PIXELS = 640 * 480
# Pixels that are much wider than high, or the reverse, are errors of the container.
_MAX_PIXEL_ASPECT = 8
# No turn, and clockwise turns by 90, 180 and 270 degrees.
_ROTATIONS = (Orientation(), Orientation(True, True), Orientation(False, True, True), Orientation(True, False, True))
_NO_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class FilmClock:
    """Turns time stamps of frames, in the order they are shown, into film time that never goes back.

    Args:
        time_base: seconds of a tick.
        period: ticks of a frame at the film's frame rate.
        may_jump: the container joins recordings, so that a jump ahead starts a new one, as in FFmpeg.
    """

    def __init__(self, time_base: Fraction, period: int, may_jump: bool):
        self.period, self.offset = period, 0
        self._back = int(_JUMP_BACK / time_base)
        self._ahead = int((_JUMP_AHEAD if may_jump else _WRONG_AHEAD) / time_base)
        self._last: int | None = None
        self._next = 0

    def tick(self, stamp: int | None, duration: int) -> int:
        """Ticks of a frame after the first one, for its time stamp, or None, and its duration."""
        if self._last is None:
            self.offset = -(stamp or 0)
        ticks = self._next if stamp is None else stamp + self.offset
        last = -1 if self._last is None else self._last
        if ticks < last - self._back or ticks > self._next + self._ahead:
            assert stamp is not None
            ticks = self._next
            self.offset = ticks - stamp
        elif ticks <= last:
            ticks = last + max(1, self.period // 2)
        self._last, self._next = ticks, ticks + max(1, duration)
        return ticks


class VideoFrames:
    """The frames of one video stream, in the order they are shown, once. A context manager.

    Interlaced frames are deinterlaced. Frames that cannot be read are left out; in the end `damage` has their times.

    Args:
        path: a video file.
        video_stream: number of the stream among the file's video streams, from 0; by default the one a player shows.

    Attributes:
        first: the first frame, which the iteration gives as well.
        frame_rate: frames a second, as PySceneDetect takes it from FFmpeg.
        time_base: seconds of a tick.
        start_seconds: film time of the first frame.
        expected_frames: number of frames as far as it is known, else None.

    Raises:
        VideoError: no such file, none that can be read, no video stream in it or none that can be decoded, no frame.
    """

    def __init__(self, path: str | os.PathLike, video_stream: int | None = None):
        self.path = path
        with contextlib.ExitStack() as stack:
            try:
                if os.stat(path).st_size == 0:
                    raise VideoError(path, "the file is empty")
                name = stack.enter_context(openable(path))
                self._container = stack.enter_context(av.open(name, metadata_errors="replace"))
                self._begin(choose_stream(path, self._container, video_stream))
                first = next(self._iterator, None)
            except av.error.FFmpegError as error:
                raise VideoError(path, f"not a readable video ({error.strerror})") from error
            except OSError as error:
                raise VideoError(path, error.strerror or str(error)) from error
            if first is None:
                lost = " that can be read" if self._num_packets else ""
                raise VideoError(path, f"the video stream has no frames{lost}")
            self.first: FilmFrame = first
            self._stack = stack.pop_all()

    def __enter__(self) -> "VideoFrames":
        return self

    def __exit__(self, *_: object) -> None:
        self._iterator.close()
        self._stack.close()

    def __iter__(self) -> Iterator[FilmFrame]:
        yield self.first
        yield from self._iterator

    def seconds(self, ticks: int) -> float:
        """Film time in seconds."""
        return float(self.start_seconds + ticks * self.time_base)

    @property
    def is_plain(self) -> bool:
        """Whether a decoder that knows nothing of interlacing, mirroring, high dynamic range and damage would do."""
        frame = self.first.frame
        return (
            any(name in self._container.format.name for name in ("mp4", "matroska"))
            and len(self._container.streams.video) == 1
            and self.stream.codec_context.field_order <= 1
            and not frame.interlaced_frame
            and frame.format.components[0].bits == 8
            and Orientation.of(frame) in _ROTATIONS
            and self._begins_with_key
        )

    def _begin(self, stream: VideoStream) -> None:
        self.stream = stream
        self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
        self.frame_rate = Fraction(stream.guessed_rate or stream.average_rate or DEFAULT_FRAME_RATE)
        period = max(1, round(1 / self.frame_rate / self.time_base))
        flags = av.format.Flags(self._container.format.flags)
        self._may_jump = bool(flags & av.format.Flags.ts_discont)
        self._has_stamps = not flags & av.format.Flags.no_timestamps
        # AVI has no presentation times: frames are shown at the decoding times of its packets, in order.
        self._packet_stamps: deque[int | None] | None = deque() if self._container.format.name == "avi" else None
        self._clock = FilmClock(self.time_base, period, self._may_jump)
        self.damage = Damage(self.time_base, period)
        self.start_seconds = Fraction(0)
        self.expected_frames = stream.frames or round((self._announced_seconds() or 0) * self.frame_rate) or None
        self._codec_aspect = stream.codec_context.sample_aspect_ratio
        self._aspect = stream.sample_aspect_ratio
        self._num_packets = 0
        self._begins_with_key = False
        self._first_stamp: int | None = None
        self._last_packet = 0
        self._others_end = Fraction(0)
        if stream.width * stream.height <= _SINGLE_THREAD_PIXELS:
            stream.thread_count = 1
        else:
            stream.thread_type = "AUTO"
        self._iterator = deinterlaced(self._read())

    def _read(self) -> Iterator[FilmFrame]:
        """Readable frames, as they were coded."""
        num_decoded = num_read = 0
        delay = _MAX_DELAY
        for frame in self._decode():
            stamp = frame.pts if self._has_stamps else None
            if self._packet_stamps is not None:
                stamp = self._packet_stamps.popleft() if self._packet_stamps else None
                delay = min(delay, len(self._packet_stamps))
                if len(self._packet_stamps) > delay + _MAX_MORE_DELAY:
                    self._packet_stamps.popleft()  # of a packet that gave no frame
            num_decoded += 1
            waits_for_key = not (num_read or self._begins_with_key or frame.key_frame)
            if frame.is_corrupt or (waits_for_key and num_decoded <= _MAX_FRAMES_WITHOUT_KEY):
                self.damage.lose()
                continue
            duration = max(0, frame.duration if self._packet_stamps is None else 0) or self._clock.period
            ticks = self._clock.tick(stamp, duration)
            if not num_read:
                self._set_start(stamp, num_decoded - 1)
            num_read += 1
            self.damage.keep(ticks, duration)
            yield FilmFrame(frame, ticks, duration, Shape(frame.width, frame.height, self._pixel_aspect()))
        announced = self._announced_end()
        self.damage.finish(self._last_packet + self._clock.offset, announced)

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            if packet.is_corrupt:
                self.damage.lose()
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self.damage.lose()
                if self._packet_stamps:
                    self._packet_stamps.popleft()
        with contextlib.suppress(av.error.FFmpegError):
            yield from self.stream.decode(None)

    def _packets(self) -> Iterator[av.Packet]:
        """Packets of the stream. Those of other streams only tell how far the file reaches."""
        num_errors = 0
        packets = self._container.demux()
        while num_errors < _MAX_READ_ERRORS:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                self.damage.lose()
                num_errors += 1
                packets = self._container.demux()  # goes on behind what could not be read
                continue
            except IndexError:  # PyAV's own at the end of a file in which a stream begins late
                return
            if packet is None:
                if self._num_packets >= self.stream.frames:
                    return
                # MP4 ends at the first packet that is not there, even if it is another stream's.
                num_errors += 1
                packets = self._container.demux()
                continue
            if not packet.size:  # demux() ends with an empty packet for each stream
                continue
            shown = packet.dts if packet.pts is None else packet.pts
            end = None if shown is None else shown + (packet.duration or 0)
            if packet.stream_index != self.stream.index:
                if end is not None and packet.time_base:
                    self._others_end = max(self._others_end, end * Fraction(packet.time_base))
                continue
            num_errors = 0
            if not self._num_packets:
                self._begins_with_key = packet.is_keyframe
            if self._first_stamp is None and not packet.is_discard:
                self._first_stamp = packet.pts if self._packet_stamps is None else packet.dts
            if end is not None:
                self._last_packet = max(self._last_packet, end)
            if self._packet_stamps is not None:
                self._packet_stamps.append(packet.dts)
            self._num_packets += 1
            yield packet

    def _set_start(self, stamp: int | None, num_lost: int) -> None:
        """Note the film time of the first readable frame, and what is missing before it."""
        missing = num_lost * self._clock.period
        if stamp is not None:
            starts = [
                stream.start_time * Fraction(stream.time_base)
                for stream in self._container.streams
                if stream.type in ("audio", "video") and stream.start_time is not None and stream.time_base
            ]
            start = stamp * self.time_base - min(starts, default=Fraction(0))
            if start > 0 and not (self._may_jump and start > _JUMP_AHEAD):
                self.start_seconds = start
            missing = stamp - (stamp if self._first_stamp is None else self._first_stamp)
            missing = min(missing, int(self.start_seconds / self.time_base))
        if missing <= self._clock.period / 2:
            return
        if self._begins_with_key:
            self.damage.broken_start = missing
        else:
            self.damage.early_start = missing

    def _pixel_aspect(self) -> Fraction:
        """The pixel aspect of the frame just decoded: the container's for all frames if it is not the codec's."""
        aspect = self.stream.codec_context.sample_aspect_ratio
        if not aspect or self._aspect != (self._codec_aspect or self._aspect):
            aspect = self._aspect
        aspect = Fraction(aspect or 1)
        return aspect if Fraction(1, _MAX_PIXEL_ASPECT) <= aspect <= _MAX_PIXEL_ASPECT else Fraction(1)

    def _stream_seconds(self) -> float | None:
        """Length of the video stream by its container; Matroska's tag has its end, which is as good."""
        if self._packet_stamps is not None:  # AVI counts ticks, and FFmpeg takes a cut file's duration for whole
            return float(self.stream.frames * self.time_base)
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        if tag := re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", self.stream.metadata.get("DURATION", "")):
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        return None

    def _announced_seconds(self) -> float | None:
        """Length of the video by its container, which may be longer: it may be that of all streams."""
        whole = self._container.duration
        return self._stream_seconds() or (whole / av.time_base if whole else None)

    def _announced_end(self) -> int:
        """End of the film in ticks, by a container that announces more than its packets hold; else 0.

        Packets are compared, not frames, because an edit list may hide frames. A container's length is that of its
        longest stream; it says nothing of the video if another stream reaches it.
        """
        if self._may_jump or not self._has_stamps:
            return 0  # these containers are recordings of any length: FFmpeg guesses their length from what is there
        if self.stream.frames and self._num_packets >= self.stream.frames * 0.995 - 2:
            return 0
        reached, seconds = self._last_packet * self.time_base, self._stream_seconds()
        start = (self.stream.start_time or 0) * self.time_base if self.stream.duration else Fraction(0)
        slack = 0.005 * (seconds or 0) + 0.5
        if seconds is None:
            seconds = self._announced_seconds() or 0.0
            start = Fraction(self._container.start_time or 0, av.time_base)
            reached, slack = max(reached, self._others_end), 0.05 * seconds + 2
        end = start + Fraction(seconds)
        return 0 if reached > end - slack else round(end / self.time_base) + self._clock.offset


def choose_stream(path: str | os.PathLike, container: av.container.InputContainer, number: int | None) -> VideoStream:
    """The video stream of this number, or the one that a player shows: the first default one that moves.

    Raises:
        VideoError: there is none, or it cannot be decoded.
    """
    streams = list(container.streams.video)
    if number is not None and not 0 <= number < len(streams):
        raise VideoError(path, f"video stream {number} is asked for; it has {len(streams)}, counted from 0")
    real = [stream for stream in streams if not stream.disposition & _NO_PICTURES]
    moving = [stream for stream in real if stream.frames != 1] or real
    if number is not None:
        moving = [streams[number]]
    if not moving:
        raise VideoError(path, "the file has no video stream")
    readable = [stream for stream in moving if stream.codec_context is not None]
    if not readable:
        raise VideoError(path, "no decoder for its video stream")
    return next((stream for stream in readable if stream.disposition & Disposition.default), readable[0])


def read_frames(
    path: str | os.PathLike,
    frames: Sequence[int],
    short_side: int | None = None,
    backend: str = "auto",
    video_stream: int | None = None,
) -> list[np.ndarray]:
    """Read single frames by their index in the order they are shown, upright and with square pixels.

    Args:
        path: a video file.
        frames: indices from 0, in any order, repeats allowed; frames that cannot be read are not counted.
        short_side: shorter side of the images in pixels; they are only scaled down.
        backend: `"decord"` seeks; `"pyav"` decodes up to the last index; `"auto"` is decord for plain files, and PyAV
            where decord cannot be loaded, cannot read the file, or counts or shows its frames wrong.
        video_stream: number of the stream among the video streams, from 0; by default the one a player shows.

    Returns:
        RGB images (height, width, 3), uint8, one for each entry of `frames`.

    Raises:
        VideoError: the file cannot be read.
        IndexError: a frame before the start or beyond the end.
    """
    if backend not in ("auto", "decord", "pyav"):
        raise ValueError(f"backend={backend!r} is unknown; choose one of auto, decord, pyav")
    indices = [int(index) for index in frames]
    if indices and min(indices) < 0:
        raise IndexError(f"frame {min(indices)} was asked for; frames are counted from 0")
    with VideoFrames(path, video_stream) as stream:
        if backend == "decord" or (backend == "auto" and stream.is_plain):
            size = DisplayPictures(stream.first, short_side).size
            try:
                with openable(path) as name:
                    return [resize(image, size) for image in _read_decord(name, indices)]
            except IndexError:
                raise
            except Exception as error:
                if backend == "decord":
                    raise VideoError(path, f"decord cannot read it ({error})") from error
                logger.warning("decord cannot read %s (%s); using PyAV", printable(path), error)
        return _read_pyav(stream, indices, short_side)


def _read_decord(path: str, frames: Sequence[int]) -> list[np.ndarray]:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    if frames and max(frames) >= len(reader):
        raise IndexError(f"{path} has {len(reader)} frames; frame {max(frames)} was asked for")
    return [reader[index].asnumpy() for index in frames]


def _read_pyav(stream: VideoFrames, frames: Sequence[int], short_side: int | None) -> list[np.ndarray]:
    pictures = DisplayPictures(stream.first, short_side, "rgb24")
    wanted, found = set(frames), {}
    for index, film_frame in enumerate(stream):
        if index in wanted:
            found[index] = np.ascontiguousarray(pictures.read(film_frame))
        if len(found) == len(wanted):
            break
    if missing := wanted - found.keys():
        raise IndexError(f"{printable(stream.path)} ends before frame {max(missing)}")
    return [found[index] for index in frames]


def frame_times(path: str | os.PathLike) -> tuple[np.ndarray, str]:
    """Film time of each frame that `read_frames` counts, in seconds.

    A plain file's times are those of its packets, which need no decoding.

    Returns:
        The times, float64 (frames,), and the `backend` for which they hold.

    Raises:
        VideoError: the file cannot be read, or has no video stream.
    """
    return _frame_times(os.fspath(path), fingerprint(path))


@functools.lru_cache(maxsize=1)
def _frame_times(path: str, _: str) -> tuple[np.ndarray, str]:
    with VideoFrames(path) as stream:
        if stream.is_plain and (times := _packet_times(stream)) is not None:
            return times, "auto"
        return np.array([stream.seconds(film_frame.ticks) for film_frame in stream]), "pyav"


def _packet_times(stream: VideoFrames) -> np.ndarray | None:
    """Film time of the packets in the order they are shown; None if some are hidden or have no time."""
    with openable(stream.path) as name, av.open(name, metadata_errors="replace") as container:
        packets = [packet for packet in container.demux(container.streams[stream.stream.index]) if packet.size]
    stamps = [packet.pts for packet in packets if not packet.is_discard and packet.pts is not None]
    if len(stamps) < len(packets):  # decord counts frames that an edit list hides
        return None
    ticks = np.array(sorted(stamps), np.float64) - min(stamps)
    return float(stream.start_seconds) + ticks * float(stream.time_base)
