"""The labels of a task, in one form for all benchmarks and for a user's own files.

    >>> task = read_lvu(Path("lvu_1.0"), "scene")
    >>> task.problem, task.classes, len(task), task.labels[:3]
    ('single_label_classification', ('office', 'airport', …), 763, array([0, 0, 0]))

Shapes: N scenes, C classes.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from modeling_m2s.errors_m2s import UserError

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Kind of number and number of axes of `LabeledScenes.labels`.
LABEL_FORMS = {
    "single_label_classification": (np.integer, 1),
    "multi_label_classification": (np.bool_, 2),
    "regression": (np.floating, 1),
}


class LabelError(UserError, ValueError):
    """Labels that cannot be used; the message names the file, the line or scene, and the way out."""


class LabeledScene(NamedTuple):
    """The place of a labeled scene: part of a video, in seconds or in shots, or all of it.

    Attributes:
        scene_id: its name within the task, and the key of its embedding.
        movie_id: the film it is from; scenes of one film are not independent.
        video: name of its video: the file name without folder and suffix, which also names the film in a `shots`
            dataset. For a scene of pictures, it is the path of the first picture.
        split: train, validation or test.
        seconds: where it starts and ends in the video.
        shots: its first shot and its number of shots.
        pictures: paths of the pictures that stand for its shots, below the task's folder; empty where there is a video.
    """

    scene_id: str
    movie_id: str
    video: str
    split: Split
    seconds: tuple[float, float] | None = None
    shots: tuple[int, int] | None = None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabeledScenes:
    """The scenes of a task with their labels.

    Attributes:
        task: name of the task, such as `lvu/scene`.
        labels: class indices int64 (N,), booleans (N, C), or values float64 (N,), by `problem`.
        classes: names of the classes, `""` for an index that the labels never use; empty for regression.

    Raises:
        LabelError: a scene is named twice, a part of a video or a picture is in two splits, or labels do not fit the
            problem.
    """

    task: str
    problem: Problem
    scenes: tuple[LabeledScene, ...]
    labels: np.ndarray
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_scenes(self.scenes, [f"{self.task}, scene {scene.scene_id}" for scene in self.scenes])
        kind, axes = LABEL_FORMS[self.problem]
        expected = (len(self.scenes), len(self.classes))[:axes]
        if self.labels.shape != expected or not np.issubdtype(self.labels.dtype, kind):
            raise LabelError(
                f"{self.task}: labels are {self.labels.dtype} of shape {self.labels.shape}, but {self.problem} with "
                f"{len(self.scenes)} scenes and {len(self.classes)} classes needs {kind.__name__} of shape {expected}"
            )
        if self.problem == "regression":
            wrong_N = ~np.isfinite(self.labels)
        elif self.problem == "single_label_classification":
            wrong_N = (self.labels < 0) | (self.labels >= len(self.classes))
        else:
            return
        if wrong_N.any():
            wrong = int(wrong_N.argmax())
            raise LabelError(
                f"{self.task}: label {self.labels[wrong]} of scene {self.scenes[wrong].scene_id} is no finite value or "
                f"none of the {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.scenes)

    def of_split(self, split: Split) -> np.ndarray:
        """Numbers of the scenes of a split, in order."""
        return np.flatnonzero(self._splits == split)

    @cached_property
    def _splits(self) -> np.ndarray:
        return np.array([scene.split for scene in self.scenes])

    def only(self, scene_ids: Iterable[str]) -> "LabeledScenes":
        """The task with only the scenes in `scene_ids`, such as those that have an embedding."""
        wanted = set(scene_ids)
        kept = [number for number, scene in enumerate(self.scenes) if scene.scene_id in wanted]
        return replace(self, scenes=tuple(self.scenes[number] for number in kept), labels=self.labels[kept])


def films_by_name(movie_ids: Iterable[str]) -> dict[str, list[str]]:
    """The films that each `video` can mean: the film with this id, else all films whose id ends in `/` and this name.

    Labels name a video by its file alone, but a film in a subfolder has an id such as `2012/abc`.
    """
    movie_ids = list(movie_ids)
    found: dict[str, list[str]] = defaultdict(list)
    for movie_id in movie_ids:
        found[movie_id.rsplit("/", 1)[-1]].append(movie_id)
    return {**found, **{movie_id: [movie_id] for movie_id in movie_ids}}


def check_scenes(scenes: Sequence[LabeledScene], places: Sequence[str]) -> None:
    """Check that the names of scenes are unique and that splits do not overlap.

    Args:
        places: the source of each scene for messages, such as a file and a line.

    Raises:
        LabelError: an unknown split; two scenes of one name; a picture, or a moment of a video, in two splits.
    """
    named: dict[str, str] = {}
    parts: dict[str, list[tuple[float, float, str, str]]] = defaultdict(list)
    for scene, place in zip(scenes, places, strict=True):
        if scene.split not in SPLITS:
            raise LabelError(f"{place}: split {scene.split!r} is none of {', '.join(SPLITS)}")
        if scene.scene_id in named:
            raise LabelError(
                f"{place}: scene {scene.scene_id} is there twice, first in {named[scene.scene_id]}; keep one of them"
            )
        named[scene.scene_id] = place
        for name in scene.pictures or (scene.video,):
            parts[name].append((*_extent(scene), scene.split, place))
    for name, parts_of_one in parts.items():
        if len(parts_of_one) > 1:
            _check_splits(name, parts_of_one)


def _extent(scene: LabeledScene) -> tuple[float, float]:
    """Start and end of a scene in its video, in seconds or shots."""
    if scene.shots:
        return scene.shots[0], sum(scene.shots)
    return scene.seconds or (0.0, math.inf)


def _check_splits(name: str, parts: list[tuple[float, float, str, str]]) -> None:
    """Refuse parts (start, end, split, place) of one video that overlap and are in different splits."""
    reached: dict[str, tuple[float, str]] = {}
    for start, end, split, place in sorted(parts, key=lambda part: part[0]):
        for other, (other_end, other_place) in reached.items():
            if other != split and start < other_end:
                raise LabelError(
                    f"{place}: {name} is in split {split} here, but in {other} in {other_place}; take one of them out"
                )
        reached[split] = max(reached.get(split, (0.0, "")), (end, place))
