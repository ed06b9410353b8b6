"""A copy of a film with chapters: every picture, sound and subtitle stays as it is, to the bit."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from .interval_formats_m2s import milliseconds
from .storage_m2s import StorageError, atomic_write
from .video_m2s import VideoError, openable

try:
    import av
except ImportError as error:
    raise ImportError(f"writing chapters needs more packages: pip install 'movies2scenes[video]' ({error})") from error

# FFmpeg's names of the containers that can hold chapters, by suffix.
CHAPTER_FORMATS = {".mkv": "matroska", ".webm": "webm", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}
_MATROSKA = ("matroska", "webm")


def copy_with_chapters(video: Path, target: Path, chapters: Sequence[tuple[str, int, int]]) -> list[str]:
    """Write a film's packets into another file of the same container, with `chapters` in place of the film's own.

    Args:
        video: a file with a suffix of `CHAPTER_FORMATS`.
        target: appears when it is complete; an earlier file of this name is replaced.
        chapters: title, start and end, in milliseconds from the film's first frame.

    Returns:
        The names of streams that the copy lacks: data such as a camera's positions.

    Raises:
        VideoError: the film is gone, cannot be read, or has a container without chapters.
        StorageError: the target is the film itself or cannot be written.
    """
    container = CHAPTER_FORMATS.get(video.suffix.lower())
    if container is None:
        raise VideoError(
            video, f"chapters fit into {' '.join(CHAPTER_FORMATS)} files; leave out --embed for a text file"
        )
    if not video.is_file():
        raise VideoError(video, "the film is not there any more; leave out --embed for a text file")
    if target.exists() and os.path.samefile(video, target):
        raise StorageError(f"{target}: this is the film itself, which is never written over; choose another --output")
    with openable(video) as name:
        try:
            with (
                av.open(name) as source,
                atomic_write(target) as file,
                av.open(file.name, "w", format=container) as copy,  # by its name: a full disk is then an OSError
            ):
                return _copy(source, copy, chapters)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(video, f"cannot be copied ({getattr(error, 'strerror', None) or error})") from error


def _copy(source: Any, copy: Any, chapters: Sequence[tuple[str, int, int]]) -> list[str]:
    copy.metadata.update(source.metadata)
    twins, left_out = {}, []
    for stream in source.streams:
        if stream.type == "data":
            if not _is_written_anew(stream, source):
                left_out.append(f"stream {stream.index}, {stream.metadata.get('handler_name', 'data')}")
        elif is_cover(stream) and copy.format.name in _MATROSKA:
            _attach_picture(stream, copy)
        else:
            twins[stream.index] = twin_stream(stream, copy)
    first = next(stream for stream in source.streams.video if not is_cover(stream))
    offset = milliseconds((first.start_time or 0) * first.time_base)
    copy.set_chapters(
        [
            {
                "id": number,
                "start": start + offset,
                "end": end + offset,
                "time_base": Fraction(1, 1000),
                "metadata": {"title": title},
            }
            for number, (title, start, end) in enumerate(chapters, 1)
        ]
    )
    for packet in source.demux():
        # An empty packet ends a stream. The first packets of Matroska have no decoding time.
        if packet.size and packet.stream.index in twins:
            packet.stream = twins[packet.stream.index]
            copy.mux(packet)
    return left_out


def is_cover(stream: Any) -> bool:
    """Whether a stream is a still picture that stands for the film."""
    return stream.type == "video" and bool(stream.disposition & av.stream.Disposition.attached_pic)


def _is_written_anew(stream: Any, source: Any) -> bool:
    """Whether a data stream of MP4 is the timecode, which FFmpeg makes from the metadata, or the former chapters."""
    chapters = source.chapters()
    return "timecode" in stream.metadata or (bool(chapters) and stream.frames == len(chapters))


def twin_stream(stream: Any, copy: Any) -> Any:
    """A stream of the copy that takes the stream's packets as they are."""
    twin = copy.add_stream_from_template(stream, opaque=True)
    if stream.codec_context is not None and copy.format.name not in _MATROSKA:
        twin.codec_context.codec_tag = stream.codec_context.codec_tag  # Apple plays HEVC as hvc1, not as hev1
    twin.metadata.update(stream.metadata)
    if "name" in stream.metadata:  # so FFmpeg reads a stream's title in MP4; it writes `title`
        twin.metadata["title"] = stream.metadata["name"]
    twin.disposition = stream.disposition
    return twin


def _attach_picture(stream: Any, copy: Any) -> None:
    """A cover of Matroska is an attachment, which FFmpeg reads as a stream of one packet but would not write as one."""
    with av.open(stream.container.name) as source:
        packet = next(source.demux(source.streams[stream.index]))
        copy.add_attachment(stream.metadata["filename"], stream.metadata["mimetype"], bytes(packet))
