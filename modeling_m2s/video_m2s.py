"""One video file: its properties, single frames, and the errors that its decoder reports."""

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import httpx

try:
    import av
    import cv2
except ImportError as error:
    raise ImportError(f"reading videos needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .errors_m2s import UserError

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in "3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogm ogv ts vob webm wmv".split()  # noqa: SIM905
)

_FRAMES_DECODED_AT_A_TIME = 16


class VideoError(UserError):
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
class VideoInfo:
    """Facts from the container: size in coded pixels, pixel aspect ratio, clockwise rotation in degrees, length."""

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
    """A hash that changes when the file is replaced: SHA-256 of its size and of its first and last MiB."""
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
        with openable(path) as name, av.open(name) as container:
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


def fit_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down so that the smaller one is `short_side`; never up."""
    smaller = min(size)
    if short_side is None or smaller <= short_side:
        return size
    return (max(1, round(size[0] * short_side / smaller)), max(1, round(size[1] * short_side / smaller)))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to `size` (width, height) by pixel area, which does not alias when shrinking."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_frames(
    path: str | os.PathLike, frames: Sequence[int], short_side: int | None = None, backend: str = "auto"
) -> list[np.ndarray]:
    """Read single frames by their index in the order they are shown, upright and with square pixels.

    Args:
        path: a video file.
        frames: indices from 0, in any order, repeats allowed.
        short_side: shorter side of the images in pixels; they are only scaled down.
        backend: `"decord"` seeks; `"pyav"` decodes up to the last index; `"auto"` is decord, and PyAV where decord
            cannot be loaded, cannot read the file, or counts its frames wrong (containers without an index).

    Returns:
        RGB images (height, width, 3), uint8, one for each entry of `frames`.

    Raises:
        VideoError: the file cannot be read.
        IndexError: a frame before the start or beyond the end.
    """
    frames = [int(index) for index in frames]
    if frames and min(frames) < 0:
        raise IndexError(f"frame {min(frames)} was asked for; frames are counted from 0")
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
            with openable(path) as name:
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
def openable(path: str | os.PathLike) -> Iterator[str]:
    """The path as a string that C libraries take for a file. It is absolute, since FFmpeg takes `http:x.mp4` for an
    address. A file whose name is not UTF-8 is reached through a link.
    """
    name = os.path.abspath(os.fspath(path))
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, "video" + printable(Path(name).suffix))
            os.symlink(name, link)
            yield link
    else:
        yield name


@contextlib.contextmanager
def video_file(video: Any) -> Iterator[str | os.PathLike]:
    """The path of a file that holds this video; a file made for this is deleted when the block ends.

    Args:
        video: a path; an address that starts with http:// or https://, which is downloaded; a file's bytes; a row
            `{"path", "bytes"}` of `datasets.Video(decode=False)`; or an object with the interface of torchcodec's
            `VideoDecoder` (`get_frames_at`, `metadata`). A decoder from `datasets` gives the file behind it. The
            frames of any other decoder are stored without loss, at their average rate.

    Raises:
        VideoError: the download fails, or there is nothing to read. A VideoError of the block about a file made here
            is raised again; it then names the address, or the type of `video`.
        TypeError: `video` is none of these.
    """
    name, video = _named(video)
    is_address = isinstance(video, str) and video.startswith(("http://", "https://"))
    if isinstance(video, str | os.PathLike) and not is_address:
        yield video
        return

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        try:
            if is_address:
                _download(video, path)
            elif isinstance(video, bytes | bytearray | memoryview):
                path.write_bytes(video)
            elif hasattr(video, "get_frames_at") and hasattr(video, "metadata"):
                _store_frames(video, path)
            else:
                raise TypeError(
                    f"{name} is no video; a video is a path, an address, bytes, a row with path and "
                    "bytes, or a VideoDecoder"
                )
            yield path
        except VideoError as error:
            raise VideoError(name, error.reason) from error


def _named(video: Any) -> tuple[str, Any]:
    """A video's name for errors, and the path, address, bytes or decoder behind it."""
    encoded = getattr(video, "_hf_encoded", None)  # where `datasets` notes what a decoder decodes
    if isinstance(encoded, Mapping) and (encoded.get("bytes") or encoded.get("path")):
        video = encoded
    if isinstance(video, Mapping):
        path, content = video.get("path"), video.get("bytes")
        if path is None and content is None:
            raise VideoError("video", "the row has neither bytes nor a path")
        return path or "video in bytes", path if content is None else content
    if isinstance(video, bytes | bytearray | memoryview):
        return "video in bytes", video
    return video if isinstance(video, str) else type(video).__name__, video


def _download(address: str, path: Path) -> None:
    try:
        with httpx.stream("GET", address, follow_redirects=True) as response, path.open("wb") as file:
            response.raise_for_status()
            for block in response.iter_bytes():
                file.write(block)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise VideoError(address, f"cannot be downloaded ({str(error) or type(error).__name__})") from error


def _store_frames(decoder: Any, path: Path) -> None:
    """Store all frames of a decoder in a file, without loss."""
    num_frames, rate = decoder.metadata.num_frames, decoder.metadata.average_fps
    if not num_frames or not rate:
        raise VideoError("decoder", "its metadata has no number of frames or no frame rate")
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate).limit_denominator(1001))
        stream.pix_fmt = "bgr0"
        for image in _decoded(decoder, num_frames):
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _decoded(decoder: Any, num_frames: int) -> Iterator[np.ndarray]:
    """Every frame of a decoder, RGB (height, width, 3)."""
    for first in range(0, num_frames, _FRAMES_DECODED_AT_A_TIME):
        indices = list(range(first, min(first + _FRAMES_DECODED_AT_A_TIME, num_frames)))
        for frame in np.asarray(decoder.get_frames_at(indices).data):
            yield np.ascontiguousarray(frame if frame.shape[-1] == 3 else frame.transpose(1, 2, 0))


@contextlib.contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collect FFmpeg's complaints while the block runs; the list is filled at its end.

    FFmpeg repairs damaged pictures and reports them only on the process's standard error, so they are read from there.
    Standard error of the whole process is diverted: use this in a worker process.
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
