"""Intervals of films, shots or scenes, and their places on an editor's timeline.

Every export writes a list of intervals (`interval_formats_m2s.py`). Players go by time, so they get the times at which
frames are shown. Editors count frames at one of a few constant rates, so they get the frames of such a timeline, the
film's first frame being its first.
"""

import itertools
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from .storage_m2s import FilmDataset, StorageError, StoredFilm
from .video_m2s import VideoError, audio_channels, fingerprint

try:
    import pyarrow.compute as pc
    from scenedetect.common import framerate_to_fraction
except ImportError as error:
    raise ImportError(f"lists of shots need more packages: pip install 'movies2scenes[video]' ({error})") from error

# Frame rates that have SMPTE timecodes and of which editors make timelines.
TIMELINE_RATES = tuple(
    Fraction(rate) for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)
NOUNS = {"shots": "Shot", "scenes": "Scene", "story-scenes": "Scene", "windows": "Window"}
# Datasets of an index with the first shot and the number of shots of each interval.
_SPANS = {"scenes": "scene_embeddings", "story-scenes": "scenes"}
# Containers such as Matroska round the times of frames to milliseconds.
_ROUNDING_SECONDS = Fraction(1, 2000)


@dataclass(frozen=True)
class Interval:
    """Consecutive frames of a film: `start_frame` to `end_frame` (exclusive), which are whole shots.

    Seconds count from the film's first frame.
    """

    name: str
    first_shot: int
    num_shots: int
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Timeline:
    """A timeline of constant frame rate, one of `TIMELINE_RATES`."""

    rate: Fraction

    @property
    def is_drop_frame(self) -> bool:
        """Whether timecodes leave out numbers to keep up with the clock, as is usual at 29.97 and 59.94 frames/s."""
        return self.rate.denominator != 1 and round(self.rate) % 30 == 0

    def timecode(self, frame: int) -> str:
        """SMPTE timecode `HH:MM:SS:FF` of a frame, `HH:MM:SS;FF` with drop frame; after 24 hours it starts again.

        Drop frame leaves out the first two numbers (four at 59.94) of each minute, except of each tenth minute.
        """
        per_second = round(self.rate)
        if self.is_drop_frame:
            dropped = per_second // 15
            per_minute, per_ten_minutes = 60 * per_second - dropped, 600 * per_second - 9 * dropped
            tens, rest = divmod(frame, per_ten_minutes)
            minutes = max(0, (rest - dropped) // per_minute)
            frame += dropped * (9 * tens + minutes)
        seconds, number = divmod(frame, per_second)
        separator = ";" if self.is_drop_frame else ":"
        return f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{separator}{number:02d}"

    def frame(self, timecode: str) -> int:
        """The frame that has a timecode; between seconds and frames either separator will do.

        Raises:
            ValueError: it is no timecode of this rate.
        """
        if match := re.fullmatch(r"(\d\d):(\d\d):(\d\d)[:;](\d\d)", timecode, re.ASCII):
            hours, minutes, seconds, number = map(int, match.groups())
            per_second, all_minutes = round(self.rate), 60 * hours + minutes
            dropped = per_second // 15 * (all_minutes - all_minutes // 10) if self.is_drop_frame else 0
            frame = (60 * all_minutes + seconds) * per_second + number - dropped
            if frame >= 0 and self.timecode(frame).replace(";", ":") == timecode.replace(";", ":"):
                return frame
        raise ValueError(f"{timecode!r} is no timecode HH:MM:SS:FF at {float(self.rate):.5g} frames per second")


@dataclass(frozen=True)
class Clip:
    """An interval on its film's timeline: frames `start` to `end` (exclusive), the film's first being its `origin`."""

    interval: Interval
    start: int
    end: int


@dataclass(frozen=True)
class FilmIntervals:
    """A film and intervals of it, the content of an export.

    Args:
        movie_id: the film's id.
        video: path of its file, which need not exist any more.
        fingerprint: that of the file when the film was read.
        of: what the intervals are, a key of `NOUNS`.
        frame_rate: frames per second; the mean if the rate varies.
        num_frames, duration_seconds, width, height: the film's measures, in pixels as displayed.
        intervals: in the order of their first shots; they may overlap.
        has_constant_rate: whether all shots start and end when their frame numbers and the frame rate say.
        origin: the timeline's frame that is the film's first, by the timecode that its file has; 0 without one.
    """

    movie_id: str
    video: str
    fingerprint: str
    of: str
    frame_rate: Fraction
    num_frames: int
    duration_seconds: float
    width: int
    height: int
    intervals: tuple[Interval, ...]
    has_constant_rate: bool
    origin: int = 0

    @cached_property
    def timeline(self) -> Timeline:
        """The timeline whose rate is the film's, or a multiple or part of it; else the one of the nearest rate."""

        def distance(rate: Fraction) -> tuple[bool, float]:
            ratio = rate / self.frame_rate
            return 1 not in (ratio.numerator, ratio.denominator), abs(math.log(ratio))

        return Timeline(min(TIMELINE_RATES, key=distance))

    @cached_property
    def num_channels(self) -> int:
        """Channels of the sound in the film's file; 0 without sound, or if the file is gone or was replaced."""
        try:
            return audio_channels(self.video) if fingerprint(self.video) == self.fingerprint else 0
        except (OSError, ValueError, VideoError):  # ValueError: a name that no file can have
            return 0

    def place(self, frame: int, seconds: float) -> int:
        """The first frame of the timeline that shows a frame of the film, or a later one.

        Args:
            frame: the film's frame, from 0; it alone counts if the film's rate is constant.
            seconds: the time from which it is shown; it alone counts if the film's rate varies.
        """
        if self.has_constant_rate:
            return self.origin + math.ceil(frame / self.frame_rate * self.timeline.rate)
        return self.origin + max(0, math.ceil((Fraction(seconds) - _ROUNDING_SECONDS) * self.timeline.rate))

    @property
    def length(self) -> int:
        """Length of the whole film in frames of the timeline."""
        return self.place(self.num_frames, self.duration_seconds) - self.origin

    def clips(self) -> list[Clip]:
        """The intervals on the timeline; those that are shorter than one of its frames are left out.

        Raises:
            StorageError: no interval is left.
        """
        placed = [
            Clip(each, self.place(each.start_frame, each.start_seconds), self.place(each.end_frame, each.end_seconds))
            for each in self.intervals
        ]
        clips = [clip for clip in placed if clip.start < clip.end]
        if not clips:
            raise StorageError(f"{self.movie_id}: none of its {self.of} is as long as a frame of a timeline")
        return clips


def read_films(folder: Path, of: str = "scenes", name: str | None = None) -> Iterator[FilmIntervals]:
    """The shots or scenes of an index, film by film in the order of ids. A film without any has an empty list.

    Args:
        folder: an index that `m2s embed` wrote.
        of: `"shots"`, `"scenes"` for those that are embedded, or `"story-scenes"` for those that `m2s scenes` found.
        name: one film, as `find_film` understands it; all films when None.

    Raises:
        StorageError: the index is not finished or empty, has no scenes, or no such film.
    """
    shots = _finished(folder, "shots")
    stored = shots.films(parts=False)
    if not stored:
        raise StorageError(f"{folder}: the index is empty; every film failed")
    if name is not None:
        movie_id = find_film(folder, stored, name)
        stored = {movie_id: stored[movie_id]}
    shot_rows = _rows_by_film(shots, stored, ["start_frame", "end_frame", "start_seconds", "end_seconds"])
    span_rows = {}
    if of in _SPANS:
        span_rows = _rows_by_film(_finished(folder, _SPANS[of]), stored, ["first_shot", "num_shots"])
    for movie_id, film in stored.items():
        if of in _SPANS:
            spans = [(row["first_shot"], row["num_shots"]) for row in span_rows.get(movie_id, [])]
        else:
            spans = [(shot, 1) for shot in range(film.num_rows)]
        yield film_intervals(film, of, shot_rows[movie_id], spans)


def find_film(folder: Path, films: Mapping[str, StoredFilm], name: str) -> str:
    """The id of the film of an index that `name` refers to, by its id, a part of its id, or the end of its file's path.

    Raises:
        StorageError: no film matches, or several do; the message lists films to choose from.
    """
    if name in films:
        return name
    hits = [
        movie_id
        for movie_id, film in films.items()
        if name.lower() in movie_id.lower() or film.facts["video"].endswith(name)
    ]
    if len(hits) == 1:
        return hits[0]
    listed = ", ".join(sorted(hits or films)[:10])
    raise StorageError(f"{folder}: {len(hits) or 'no'} films match {name!r}; there are: {listed}")


def film_intervals(
    film: StoredFilm, of: str, shots: list[dict[str, Any]], spans: list[tuple[int, int]]
) -> FilmIntervals:
    """Intervals of a film.

    Args:
        film: the film in a `shots` dataset.
        of: what the intervals are, a key of `NOUNS`.
        shots: the frames and seconds of its shots, as rows of that dataset.
        spans: each interval's first shot and number of shots.

    Raises:
        StorageError: an interval has shots that the film does not have.
    """
    intervals = []
    for number, (first, num_shots) in enumerate(spans, 1):
        if first + num_shots > len(shots):
            raise StorageError(
                f"{film.movie_id}: a scene ends at shot {first + num_shots - 1}, but the film has {len(shots)} shots; "
                "m2s embed makes its scenes anew"
            )
        start, end = shots[first], shots[first + num_shots - 1]
        intervals.append(
            Interval(
                name=f"{NOUNS[of]} {number}",
                first_shot=first,
                num_shots=num_shots,
                start_frame=start["start_frame"],
                end_frame=end["end_frame"],
                start_seconds=start["start_seconds"],
                end_seconds=end["end_seconds"],
            )
        )
    facts = film.facts
    frame_rate = framerate_to_fraction(facts["frame_rate"])
    half_frame = 0.5 / float(frame_rate)
    has_constant_rate = all(
        abs(float(row[f"{side}_frame"] / frame_rate) - row[f"{side}_seconds"]) < half_frame
        for row in shots
        for side in ("start", "end")
    )
    return FilmIntervals(
        movie_id=film.movie_id,
        of=of,
        frame_rate=frame_rate,
        intervals=tuple(intervals),
        has_constant_rate=has_constant_rate,
        **{name: facts[name] for name in ("video", "fingerprint", "num_frames", "duration_seconds", "width", "height")},
    )


def _finished(folder: Path, kind: str) -> FilmDataset:
    dataset = FilmDataset(folder / kind, kind)
    if not dataset.record.get("complete") and kind == "scenes":
        raise StorageError(f"{folder}: no story scenes here; run m2s scenes {shlex.quote(str(folder))}")
    if not dataset.record:
        raise StorageError(f"{folder}: no {kind.replace('_embeddings', 's')} here; m2s embed makes an index of them")
    if not dataset.record.get("complete"):
        raise StorageError(f"{folder}: the index here is not finished; run m2s embed")
    return dataset


def _rows_by_film(
    dataset: FilmDataset, films: dict[str, StoredFilm], columns: list[str]
) -> dict[str, list[dict[str, Any]]]:
    table = dataset.read(["movie_id", *columns])
    if len(films) == 1:
        table = table.filter(pc.equal(table["movie_id"], next(iter(films))))
    rows = itertools.groupby(table.to_pylist(), key=lambda row: row["movie_id"])
    return {movie_id: list(group) for movie_id, group in rows}
