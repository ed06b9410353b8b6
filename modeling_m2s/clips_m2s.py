"""A stretch of a film as a file of its own: its packets as they are, from a key frame on.

Nothing is re-encoded, so a clip is made fast and looks exactly like the film. Decoding can only start at a key frame. A
clip therefore begins at the last key frame at or before its start, often some seconds early, and ends with its end, or
a few frames after it. AVI stores no presentation times, so clips of AVI films with B-frames may be a few frames off.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .chapters_m2s import CHAPTER_FORMATS, is_cover, twin_stream
from .storage_m2s import StorageError, atomic_write, file_name
from .video_m2s import VideoError, fingerprint, openable

try:
    import av
except ImportError as error:
    raise ImportError(f"cutting clips needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .decoding_m2s import choose_stream

# FFmpeg's names of the containers that clips are written to, by the film's suffix. All else goes into Matroska.
CLIP_FORMATS = {
    **CHAPTER_FORMATS,
    ".3gp": "3gp",
    ".asf": "asf",
    ".avi": "avi",
    ".flv": "flv",
    ".m2ts": "mpegts",
    ".mts": "mpegts",
    ".ogv": "ogg",
    ".ts": "mpegts",
    ".wmv": "asf",
}
_TIMED = ("video", "audio", "subtitle")
# Seconds that a search for a key frame goes back first; then twice as many, and so on.
_STEP_BACK = 2
# Packets of sound may stand so many seconds behind the pictures that they belong to.
_INTERLEAVED_SECONDS = 10


@dataclass(frozen=True)
class FilmClip:
    """A clip's file, and the film time, in seconds, at which it begins and ends."""

    path: Path
    start_seconds: float
    end_seconds: float


def cut_clip(
    video: Path,
    folder: Path,
    movie_id: str,
    start_seconds: float,
    end_seconds: float,
    identity: str | None = None,
    video_stream: int | None = None,
) -> FilmClip:
    """Write a stretch of a film into a folder.

    The file's name has the film's id, a part of its fingerprint and the stretch, so that two different clips never
    share a name. A file of this name is replaced. Subtitles and all sound tracks stay, covers and data do not.

    Args:
        video: the film's file.
        folder: made when missing.
        movie_id: the film's id.
        start_seconds, end_seconds: film time; a start before the film is its beginning.
        identity: the film's fingerprint when its times were measured.
        video_stream: number of the stream among the file's video streams; by default the one a player shows.

    Raises:
        VideoError: the film is gone or was replaced, cannot be read, or has no picture there, or no container takes
            its packets.
        StorageError: the clip cannot be written, or would be written over the film.
    """
    if not video.is_file():
        raise VideoError(video, "the film is not there any more, so no clip can be cut")
    found = fingerprint(video)
    if identity not in (None, found):
        raise VideoError(video, "another film than when the index was made; run m2s embed again")
    start_seconds = max(0.0, start_seconds)
    stem = f"{file_name(movie_id, found)}-{start_seconds:.2f}-{end_seconds:.2f}"
    own = video.suffix.lower()
    reason = ""
    for suffix in dict.fromkeys((own if own in CLIP_FORMATS else ".mkv", ".mkv")):
        target = folder / f"{stem}{suffix}"
        if target.exists() and os.path.samefile(video, target):
            raise StorageError(f"{target}: this is the film itself, which is never written over; choose another --cut")
        try:
            with (
                openable(video) as name,
                av.open(name, metadata_errors="replace") as source,
                atomic_write(target) as file,
                av.open(file.name, "w", format=CLIP_FORMATS[suffix]) as copy,
            ):
                begin = _copy(source, copy, choose_stream(video, source, video_stream), start_seconds, end_seconds)
            return FilmClip(target, begin, end_seconds)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    raise VideoError(video, f"no clip can be cut ({reason})")


def _copy(source: Any, copy: Any, pictures: Any, start_seconds: float, end_seconds: float) -> float:
    """Copy the packets of a stretch; returns the film time of the first picture.

    Raises:
        ValueError: the film has no picture there.
    """
    streams = [stream for stream in source.streams if stream.type in _TIMED and not is_cover(stream)]
    streams = [stream for stream in streams if stream.type != "video" or stream.index == pictures.index]
    starts = [s.start_time * s.time_base for s in streams if s.type != "subtitle" and s.start_time is not None]
    origin = min(starts, default=Fraction(0))  # film time counts from here
    start, end = (Fraction(seconds) + origin for seconds in (start_seconds, end_seconds))
    place, key = _key_frame(source, pictures, start)
    if key is None or key >= end:
        raise ValueError(f"it has no picture from {start_seconds:.1f} to {end_seconds:.1f} s")
    twins = {stream.index: twin_stream(stream, copy) for stream in streams}
    copy.metadata.update({name: value for name, value in source.metadata.items() if name in ("title", "artist")})
    source.seek(place, stream=pictures, backward=True)
    for packet in _between(source, pictures, list(twins), key, end):
        shift = round(key / packet.time_base)
        packet.stream = twins[packet.stream.index]
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        copy.mux(packet)
    return float(key - origin)


def _key_frame(source: Any, pictures: Any, start: Fraction) -> tuple[int, Fraction | None]:
    """The place to seek, in ticks of the stream, and the time of the last key frame at or before `start`.

    If there is no such frame, it is the first one of all. Few containers seek exactly, so packets are looked at.
    """
    first = pictures.start_time or 0
    back, base = 0, pictures.time_base
    while True:
        place = max(first, int((start - back) / base))
        source.seek(place, stream=pictures, backward=True)
        key = None
        for packet in source.demux(pictures):
            time = _time(packet)
            if time is None:
                continue
            if packet.is_keyframe and (time <= start or (key is None and place == first)):
                key = time
            if time > start and (key is not None or place > first):
                break
        if key is not None or place == first:
            return place, key
        back = 2 * back or _STEP_BACK


def _between(source: Any, pictures: Any, indices: list[int], key: Fraction, end: Fraction) -> Iterator[Any]:
    """Packets from a key frame on, in the order of the file, up to those that are decoded at the end."""
    begun, open_streams = False, {i for i in indices if source.streams[i].type != "subtitle"}
    for packet in source.demux([source.streams[i] for i in indices]):
        time, index = _time(packet), packet.stream.index
        if time is None or not packet.size:
            continue
        if (time if packet.dts is None else packet.dts * packet.time_base) >= end:
            open_streams.discard(index)
            if not open_streams or (pictures.index not in open_streams and time > end + _INTERLEAVED_SECONDS):
                return
        elif index == pictures.index:
            begun = begun or (packet.is_keyframe and time == key)
            if begun and time >= key:  # pictures before it, which follow in the file, need an earlier key frame
                yield packet
        elif time >= key:
            yield packet


def _time(packet: Any) -> Fraction | None:
    """When a packet is shown, in seconds; where the container does not tell, when it is decoded."""
    stamp = packet.dts if packet.pts is None else packet.pts
    return None if stamp is None else stamp * packet.time_base
