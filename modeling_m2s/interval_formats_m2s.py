"""Intervals of a film as text that spreadsheets, scripts, editors and players read.

PySceneDetect's own writers do not serve: they count the frames of an EDL in floating point, know no drop frame and no
names, and write overlapping intervals over each other.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

from .intervals_m2s import FilmIntervals, Interval

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]+")
_TITLE_LENGTH = 70  # of an EDL


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, which EDL, XML and SRT cannot hold."""
    return " ".join(_CONTROL_CHARACTERS.sub(" ", text).split())


def milliseconds(seconds: float) -> int:
    """A time in whole milliseconds, rounded up: a player that goes there shows the frame that begins then, not the one
    before.
    """
    return math.ceil(seconds * 1000 - 1e-3)


def to_csv(film: FilmIntervals) -> str:
    """One row per interval; frames are the film's own, timecodes those of its timeline."""
    text = io.StringIO()
    rows = [{"movie_id": film.movie_id, **_flat(row)} for row in _rows(film)]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(film: FilmIntervals) -> str:
    """The film's measures and its intervals; frames are the film's own, timecodes those of its timeline."""
    content = {
        "movie_id": film.movie_id,
        "video": film.video,
        "frame_rate": str(film.frame_rate),
        "has_constant_rate": film.has_constant_rate,
        "num_frames": film.num_frames,
        "duration_seconds": film.duration_seconds,
        "width": film.width,
        "height": film.height,
        "timeline_rate": str(film.timeline.rate),
        film.of: _rows(film),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_edl(film: FilmIntervals) -> str:
    """A CMX 3600 edit decision list: the intervals one after another, each with a marker that has its name.

    The sound goes with the pictures: its only channel (`B`) or its first two (`AA/V`). CMX 3600 has no more.
    """
    timecode = film.timeline.timecode
    channels = {0: "V", 1: "B"}.get(film.num_channels, "AA/V")
    lines = [
        f"TITLE: {one_line(film.movie_id)[:_TITLE_LENGTH]}",
        f"FCM: {'DROP FRAME' if film.timeline.is_drop_frame else 'NON-DROP FRAME'}",
        "",
    ]
    record = 0
    for number, clip in enumerate(film.clips(), 1):
        after = record + clip.end - clip.start
        times = " ".join(timecode(frame) for frame in (clip.start, clip.end, record, after))
        lines += [
            f"{number:03d}  AX       {channels:<6}C        {times}",
            f"* FROM CLIP NAME: {_file_name(film)}",
            f"* LOC: {timecode(record)} GREEN   {one_line(clip.interval.name)}",
        ]
        record = after
    return "\n".join(lines) + "\n"


def to_otio(film: FilmIntervals) -> str:
    """An OpenTimelineIO timeline: the intervals one after another, with their sound on a second track."""
    rate = float(film.timeline.rate)

    def time(frame: int) -> dict[str, Any]:
        return {"OTIO_SCHEMA": "RationalTime.1", "rate": rate, "value": float(frame)}

    def span(start: int, end: int) -> dict[str, Any]:
        return {"OTIO_SCHEMA": "TimeRange.1", "start_time": time(start), "duration": time(end - start)}

    media = {
        "OTIO_SCHEMA": "ExternalReference.1",
        "name": _file_name(film),
        "available_range": span(film.origin, film.origin + film.length),
        "target_url": _address(film),
    }
    clips = [
        {
            "OTIO_SCHEMA": "Clip.2",
            "name": one_line(clip.interval.name),
            "source_range": span(clip.start, clip.end),
            "media_references": {"DEFAULT_MEDIA": media},
            "active_media_reference_key": "DEFAULT_MEDIA",
            "metadata": {"m2s": asdict(clip.interval)},
        }
        for clip in film.clips()
    ]
    tracks = [
        {"OTIO_SCHEMA": "Track.1", "name": film.of, "kind": kind, "children": clips}
        for kind in (["Video", "Audio"] if film.num_channels else ["Video"])
    ]
    timeline = {
        "OTIO_SCHEMA": "Timeline.1",
        "name": one_line(film.movie_id),
        "global_start_time": time(0),
        "tracks": {"OTIO_SCHEMA": "Stack.1", "name": "tracks", "children": tracks},
    }
    return json.dumps(timeline, indent=2, ensure_ascii=False) + "\n"


def to_fcpxml(film: FilmIntervals) -> str:
    """Final Cut Pro's XML, version 1.9: the intervals one after another; times are fractions of seconds."""
    rate, title, clips = film.timeline.rate, one_line(film.movie_id), film.clips()

    def time(frame: int) -> str:
        return f"{frame * rate.denominator}/{rate.numerator}s" if frame else "0s"

    def add(parent: ElementTree.Element, tag: str, **attributes: Any) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})

    root = ElementTree.Element("fcpxml", version="1.9")
    resources = add(root, "resources")
    add(resources, "format", id="r1", frameDuration=time(1), width=film.width, height=film.height)
    sound = {"hasAudio": 1, "audioSources": 1, "audioChannels": film.num_channels} if film.num_channels else {}
    asset = add(
        resources,
        "asset",
        id="r2",
        name=_file_name(film),
        start=time(film.origin),
        duration=time(film.length),
        hasVideo=1,
        format="r1",
        **sound,
    )
    add(asset, "media-rep", kind="original-media", src=_address(film))
    event = add(add(root, "library"), "event", name=title)
    length = sum(clip.end - clip.start for clip in clips)
    count = "DF" if film.timeline.is_drop_frame else "NDF"
    project = add(event, "project", name=title)
    sequence = add(project, "sequence", format="r1", duration=time(length), tcStart="0s", tcFormat=count)
    spine = add(sequence, "spine")
    offset = 0
    for clip in clips:
        add(
            spine,
            "asset-clip",
            ref="r2",
            name=one_line(clip.interval.name),
            offset=time(offset),
            start=time(clip.start),
            duration=time(clip.end - clip.start),
            tcFormat=count,
        )
        offset += clip.end - clip.start
    ElementTree.indent(root)
    header = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'
    return header + ElementTree.tostring(root, encoding="unicode") + "\n"


def to_srt(film: FilmIntervals) -> str:
    """SubRip subtitles: each interval's name is shown while it lasts."""

    def time(seconds: float) -> str:
        whole, rest = divmod(milliseconds(seconds), 1000)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{rest:03d}"

    cues = [
        f"{number}\n{time(each.start_seconds)} --> {time(each.end_seconds)}\n{one_line(each.name)}\n"
        for number, each in enumerate(film.intervals, 1)
    ]
    return "\n".join(cues)


def chapters(film: FilmIntervals) -> list[tuple[str, int, int]]:
    """Name, start and end of each interval in milliseconds. A chapter ends where the next one starts, if not before."""
    starts = [milliseconds(each.start_seconds) for each in film.intervals]
    ends = [milliseconds(each.end_seconds) for each in film.intervals]
    nexts = [*starts[1:], ends[-1]]
    return [
        (one_line(each.name), start, min(end, following))
        for each, start, end, following in zip(film.intervals, starts, ends, nexts, strict=True)
        if start < following
    ]


def to_ffmetadata(film: FilmIntervals) -> str:
    """Chapters as FFmpeg reads them: `ffmpeg -i FILM -i FILE -map_chapters 1 -codec copy COPY`."""
    lines = [";FFMETADATA1"]
    for name, start, end in chapters(film):
        title = re.sub(r"([=;#\\])", r"\\\1", name)
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}", f"title={title}"]
    return "\n".join(lines) + "\n"


# File name's suffix and writer of each format.
FORMATS: dict[str, tuple[str, Callable[[FilmIntervals], str]]] = {
    "csv": (".csv", to_csv),
    "json": (".json", to_json),
    "edl": (".edl", to_edl),
    "otio": (".otio", to_otio),
    "fcpxml": (".fcpxml", to_fcpxml),
    "chapters": (".ffmetadata", to_ffmetadata),
    "srt": (".srt", to_srt),
}


def _rows(film: FilmIntervals) -> list[dict[str, Any]]:
    def row(each: Interval) -> dict[str, Any]:
        start = film.place(each.start_frame, each.start_seconds)
        end = film.place(each.end_frame, each.end_seconds)
        timecodes = {"start_timecode": film.timeline.timecode(start), "end_timecode": film.timeline.timecode(end)}
        return {**asdict(each), **timecodes}

    return [row(each) for each in film.intervals]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose tables are columns of their own, such as `probability: night`, and whose lists are joined by |."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name.replace('ies', 'y')}: {key}": each for key, each in value.items()}
        else:
            flat[name] = "|".join(value) if isinstance(value, tuple) else value
    return flat


def _file_name(film: FilmIntervals) -> str:
    return one_line(PurePath(film.video).name)


def _address(film: FilmIntervals) -> str:
    return Path(film.video).absolute().as_uri()
