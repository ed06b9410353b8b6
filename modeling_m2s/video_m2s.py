"""One video file: the forms in which it can be given, its name, its fingerprint, its errors."""

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import httpx

try:
    import av
except ImportError as error:
    raise ImportError(f"reading videos needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .errors_m2s import UserError

# Suffixes by which FFmpeg's demuxers, cameras and programs name videos. Left out are those that mostly name something
# else: sound (.ogg), pictures (.gif), raw pixels (.yuv), and words that are used for many things (.dat, .mod).
_SUFFIXES = """
    264 265 266 3g2 3gp amv asf av1 avc avi avs2 bik bmv cdxl dav dif divx dv dvr-ms evc f4v flm flv gxf h261 h263
    h264 h265 h266 h26l hevc ifv ipu ism ismv ivf ivr kux lvf m1v m2p m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv moflex
    mov mp2v mp4 mpe mpeg mpg mpv mts mvi mxf mxg nsv nut obu ogm ogv pdv qt rcv rm rmvb roq smk tod trp ts ty ty+ usm
    vc1 viv vob vro vvc webm wmv wtv xmv y4m yop
"""
VIDEO_SUFFIXES = tuple(f".{suffix}" for suffix in _SUFFIXES.split())

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


def title_files(path: str | os.PathLike) -> list[Path]:
    """The files that a video consists of: itself, and the later parts of a DVD's title after `VTS_01_1.VOB`."""
    path = Path(path)
    part = re.fullmatch(r"(VTS_\d+_)1(\.VOB)", path.name, re.IGNORECASE)
    later = (path.with_name(f"{part[1]}{number}{part[2]}") for number in range(2, 10)) if part else ()
    return [path, *itertools.takewhile(os.path.exists, later)]


def fingerprint(path: str | os.PathLike) -> str:
    """A hash that changes when the file is replaced: SHA-256 of its size and of its first and last MiB."""
    files = title_files(path)
    size = sum(os.stat(file).st_size for file in files)
    digest = hashlib.sha256(str(size).encode())
    with open(files[0], "rb") as file:
        digest.update(file.read(2**20))
    with open(files[-1], "rb") as file:
        file.seek(max(0, os.stat(files[-1]).st_size - 2**20))
        digest.update(file.read(2**20))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def openable(path: str | os.PathLike) -> Iterator[str]:
    """The path as a string that C libraries take for a file. It is absolute, since FFmpeg takes `http:x.mp4` for an
    address. A file whose name is not UTF-8 is reached through a link. FFmpeg reads the files of a DVD's title as one.
    """
    names = [os.path.abspath(file) for file in title_files(path)]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            links = [
                os.path.join(folder, f"{number}{printable(Path(name).suffix)}") for number, name in enumerate(names)
            ]
            for name, link in zip(names, links, strict=True):
                os.symlink(name, link)
            yield _joined(links)
    else:
        yield _joined(names)


def audio_channels(path: str | os.PathLike) -> int:
    """The number of channels of the sound that a player plays with a file; 0 without sound that FFmpeg knows.

    Raises:
        VideoError: FFmpeg cannot read the file.
    """
    try:
        with openable(path) as name, av.open(name, metadata_errors="replace") as container:
            stream = container.streams.best("audio")
            if isinstance(stream, av.AudioStream) and stream.codec_context:  # None: FFmpeg has no decoder
                return stream.codec_context.channels
            return 0
    except av.error.FFmpegError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error


def _joined(names: list[str]) -> str:
    """One name for files that FFmpeg is to read one after another; a name with its separator is read alone."""
    return f"concat:{'|'.join(names)}" if len(names) > 1 and not any("|" in name for name in names) else names[0]


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
