"""A film's scenes or windows of seconds, each with the labels that a classifier gives it.

    classifier = Classifier.load("runs/own/own")
    for film, shots in read_index(Path("index"), window=5):
        tagged = classifier.tag(film, shots, threshold=0.5)
        Path("tags.csv").write_text(to_csv(tagged))

The paper moderates clips of five seconds (§4.4), by keyframes of their shots. An interval reads keyframes of every shot
that is on screen in it: those that lie within the interval; if none does, the one of the shot that is nearest. So all
windows within a long shot with one keyframe have the same labels. If there are more than nine shots, nine evenly spaced
ones are read, because classifiers are trained on nine.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .intervals_m2s import FilmIntervals, Interval, film_intervals, read_films
from .modeling_m2s import M2SSceneForClassification
from .pipeline_m2s import SceneEmbeddingPipeline, evenly_spaced, scene_windows
from .pretrained_m2s import ModelError, load_classifier
from .shot_store_m2s import read_shots
from .shots_m2s import Film, Shot, ShotSettings, detect_shots
from .storage_m2s import FilmDataset, StorageError, StoredFilm
from .video_m2s import fingerprint, printable

# Labels of several classes that a scene may have at once need this probability, if no other is asked for.
THRESHOLD = 0.5
_ROUNDING_FRAMES = 1e-4  # of a frame's place by its time
MOST_WINDOWS = 10**6


@dataclass(frozen=True)
class TaggedInterval(Interval):
    """An interval with the labels that it has, the most probable first, and the probabilities of all labels."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


@dataclass
class Classifier:
    """A classifier of scenes and its encoder.

    Attributes:
        labels: names of all labels.
        is_multi_label: whether a scene may have several labels, or none; otherwise it has one.
    """

    model: M2SSceneForClassification
    pipeline: SceneEmbeddingPipeline

    @classmethod
    def load(cls, name: str, device: str | None = None) -> "Classifier":
        """Load a classifier that `eval.probe --export` or `Trainer` saved: a folder or Hub id.

        Raises:
            ModelError: it cannot be loaded, or is no classifier.
        """
        model, image_processor = load_classifier(name)
        problem, num_labels = model.config.problem_type, model.config.num_labels
        if problem == "regression" or (problem is None and num_labels == 1):
            raise ModelError(f"model {name} gives values, no labels (problem_type regression); tags need a classifier")
        pipeline = SceneEmbeddingPipeline(model.scene_model, image_processor=image_processor, device=device)
        model.classifier.to(pipeline.device)
        return cls(model, pipeline)

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[number] for number in range(self.model.config.num_labels)]

    @property
    def is_multi_label(self) -> bool:
        return self.model.config.problem_type == "multi_label_classification"

    @torch.inference_mode()
    def probabilities(self, scenes: Sequence[Sequence[bytes]]) -> np.ndarray:
        """Probabilities (scenes, labels), float32, of scenes that are given by their keyframes as JPEG; NaN if none.

        They add up to 1, unless a scene may have several labels.

        Raises:
            ValueError: no scene has a keyframe.
        """
        found = np.full((len(scenes), len(self.labels)), np.nan, np.float32)
        film = _film_of([Shot(number, 0, 0, 0.0, 0.0, keyframes=list(each)) for number, each in enumerate(scenes)])
        for scene in self.pipeline.iterate(film, shots_per_scene=1):
            vector = torch.from_numpy(scene["embedding"]).to(self.pipeline.device, self.model.dtype)
            logits = self.model.classifier(vector[None])[0].float()
            found[scene["first_shot"]] = (logits.sigmoid() if self.is_multi_label else logits.softmax(0)).cpu().numpy()
        return found

    def tag(self, film: FilmIntervals, shots: Sequence[Shot], threshold: float | None = None) -> FilmIntervals:
        """The film with tagged intervals; those whose shots have no keyframe are left out.

        Args:
            threshold: least probability of a label, from 0 to 1. Without one it is `THRESHOLD` if a scene may have
                several labels; otherwise the most probable label always counts.

        Raises:
            ValueError: the threshold is out of range.
            StorageError: no shot of the film has a keyframe.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold:g} is a probability: from 0 to 1")
        least = threshold if threshold is not None else THRESHOLD if self.is_multi_label else 0.0
        read = [tuple(keyframes_of(interval, shots)) for interval in film.intervals]
        distinct = list(dict.fromkeys(keyframes for keyframes in read if keyframes))
        if not distinct:
            raise StorageError(f"{film.movie_id}: none of the film's {len(shots)} shots has a keyframe to look at")
        scenes = [[shots[shot].keyframes[number] for shot, number in keyframes] for keyframes in distinct]
        found = dict(zip(distinct, self.probabilities(scenes), strict=True))
        tagged = [
            self._tagged(interval, found[keyframes], least)
            for interval, keyframes in zip(film.intervals, read, strict=True)
            if keyframes
        ]
        return replace(film, intervals=tuple(tagged))

    def _tagged(self, interval: Interval, values: np.ndarray, least: float) -> TaggedInterval:
        order = np.argsort(-values, kind="stable")[: None if self.is_multi_label else 1]
        labels = tuple(self.labels[number] for number in order if values[number] >= least)
        probabilities = {label: round(float(value), 4) for label, value in zip(self.labels, values, strict=True)}
        return TaggedInterval(**vars(interval), labels=labels, probabilities=probabilities)


def keyframes_of(interval: Interval, shots: Sequence[Shot]) -> Iterator[tuple[int, int]]:
    """The keyframes that an interval reads, as the shot's number and the keyframe's number in it.

    They are those of all shots, or of nine evenly spaced ones among the shots that have keyframes.
    """
    middle = (interval.start_frame + interval.end_frame - 1) / 2
    on_screen = range(interval.first_shot, interval.first_shot + interval.num_shots)
    having = [number for number in on_screen if shots[number].keyframes]
    for number in [having[place] for place in evenly_spaced(0, len(having))]:
        frames = shots[number].keyframe_frames[: len(shots[number].keyframes)]
        inside = [k for k, frame in enumerate(frames) if interval.start_frame <= frame < interval.end_frame]
        if not inside:
            inside = [min(range(len(frames)), key=lambda k: abs(frames[k] - middle))]
        yield from ((number, k) for k in inside)


def windows(film: FilmIntervals, shots: Sequence[Shot], seconds: float) -> FilmIntervals:
    """The film in windows of so many seconds, from its first frame on; the last one may be shorter.

    A window begins with the first frame that is shown at its time or later. Within a shot, frames are taken to be shown
    equally long, as in a film of constant rate; windows without a frame are left out.

    Raises:
        ValueError: the windows are not longer than 0 seconds, or there would be more than a million.
    """
    if not seconds > 0 or film.duration_seconds / seconds > MOST_WINDOWS:
        raise ValueError(f"window {seconds:g} must be a number of seconds greater than 0, and not a tiny one")
    frames = [*(shot.start_frame for shot in shots), shots[-1].end_frame]
    times = [*(shot.start_seconds for shot in shots), shots[-1].end_seconds]
    starts = np.append(np.arange(times[0], times[-1], seconds), times[-1])
    cuts = np.ceil(np.interp(starts, times, frames) - _ROUNDING_FRAMES).astype(int).tolist()
    cuts = sorted({*cuts, frames[-1]})
    first_shots = np.searchsorted(frames, cuts, "right") - 1
    last_shots = np.searchsorted(frames, cuts, "left") - 1
    found = [
        Interval(
            name=f"Window {number + 1}",
            first_shot=int(first_shots[number]),
            num_shots=int(last_shots[number + 1] - first_shots[number]) + 1,
            start_frame=start,
            end_frame=end,
            start_seconds=float(np.interp(start, frames, times)),
            end_seconds=float(np.interp(end, frames, times)),
        )
        for number, (start, end) in enumerate(itertools.pairwise(cuts))
    ]
    return replace(film, of="windows", intervals=tuple(found))


def labeled_runs(film: FilmIntervals) -> FilmIntervals:
    """The intervals that have labels, as lists for editors and players take them: named by their labels, with the
    highest probabilities, and joined where neighbors have the same labels.
    """
    runs: list[TaggedInterval] = []
    for each in film.intervals:
        assert isinstance(each, TaggedInterval)
        last = runs[-1] if runs else None
        if last and set(last.labels) == set(each.labels) and last.end_frame >= each.start_frame:
            probabilities = {
                label: max(value, each.probabilities[label]) for label, value in last.probabilities.items()
            }
            end_shot = max(last.first_shot + last.num_shots, each.first_shot + each.num_shots)
            runs[-1] = replace(
                last,
                probabilities=probabilities,
                num_shots=end_shot - last.first_shot,
                end_frame=max(last.end_frame, each.end_frame),
                end_seconds=max(last.end_seconds, each.end_seconds),
            )
        else:
            runs.append(each)
    named = [replace(each, name=describe(each)) for each in runs if each.labels]
    return replace(film, intervals=tuple(named))


def describe(tagged: TaggedInterval) -> str:
    """The labels with their probabilities, as in `violence 92 %, night 61 %`."""
    return ", ".join(f"{label} {100 * tagged.probabilities[label]:.0f} %" for label in tagged.labels)


def read_index(
    folder: Path, window: float | None = None, name: str | None = None
) -> Iterator[tuple[FilmIntervals, list[Shot]]]:
    """The films of an index with their scenes, or windows of so many seconds, and their shots with keyframes.

    Args:
        name: one film, as `find_film` understands it; all films when None.

    Raises:
        StorageError: the index is not finished or empty, has no scenes, or no such film.
        ValueError: the windows make no sense.
    """
    dataset = FilmDataset(folder / "shots", "shots")
    stored = dataset.films(parts=False)
    for film in read_films(folder, "scenes" if window is None else "shots", name):
        shots = read_shots(dataset, stored[film.movie_id])
        yield film if window is None else windows(film, shots, window), shots


def read_video(
    movie_id: str,
    path: Path,
    window: float | None = None,
    settings: ShotSettings | None = None,
    report: Callable[[float], None] | None = None,
) -> tuple[FilmIntervals, list[Shot]]:
    """A video file with its scenes of nine shots, or windows of so many seconds, and its shots with keyframes.

    Args:
        settings, report: as in `detect_shots`.

    Raises:
        VideoError: the file cannot be read.
        ValueError: the windows make no sense.
    """
    found = detect_shots(path, settings, report)
    facts: dict[str, Any] = {**vars(found), "video": printable(path), "fingerprint": fingerprint(path)}
    stored = StoredFilm(movie_id, path, 0, len(found.shots), facts)
    film = film_intervals(stored, "scenes", [vars(shot) for shot in found.shots], scene_windows(len(found.shots)))
    return film if window is None else windows(film, found.shots, window), found.shots


def _film_of(shots: list[Shot]) -> Film:
    """Shots as a film for the pipeline, which looks at nothing else."""
    return Film(shots=shots, num_frames=0, frame_rate=0.0, duration_seconds=0.0, width=0, height=0)
