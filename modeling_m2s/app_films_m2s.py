"""The films on the page of `m2s app`: everybody sees the opened indexes; visitors see only their own dropped films.

Each visit has a folder, deleted after the visitor leaves. Each dropped film is a separate index in it.
"""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .errors_m2s import UserError
from .index_m2s import embed_films
from .modeling_m2s import M2SSceneForClassification
from .pipeline_m2s import SceneEmbeddingPipeline
from .pretrained_m2s import quiet_transformers
from .scene_space_m2s import SceneSpace
from .scene_store_m2s import SceneSettings
from .search_m2s import DEFAULT_SPACE, Scene, SceneIndex, mean_squared_distance
from .shot_store_m2s import read_shots
from .shots_m2s import UNRECORDED, ShotSettings
from .storage_m2s import StorageError, require_settings
from .video_m2s import VIDEO_SUFFIXES, printable

# Seconds for which a visit is kept after its page was closed: phones close connections when their screen goes dark.
GRACE_SECONDS = 600.0


class AppError(UserError):
    """A request of a visitor, or a setting of the page, that cannot be carried out; the message is one sentence."""


@dataclass(frozen=True)
class PlacedShot:
    """A shot's place in time, and whether it has a picture."""

    start_seconds: float
    end_seconds: float
    has_keyframe: bool


@dataclass
class PageFilm:
    """A film on the page: its index and id, the title that visitors see, and its file if that can be played."""

    index: SceneIndex
    movie_id: str
    title: str
    path: Path | None

    @cached_property
    def scenes(self) -> list[Scene]:
        """The film's scenes, in the order of their first shots."""
        return [scene for scene in self.index.scenes if scene.movie_id == self.movie_id]

    @cached_property
    def shots(self) -> list[PlacedShot]:
        shots = read_shots(self.index.shots, self.index.films[self.movie_id])
        return [PlacedShot(shot.start_seconds, shot.end_seconds, bool(shot.keyframes)) for shot in shots]

    @property
    def duration_seconds(self) -> float:
        return self.index.films[self.movie_id].facts["duration_seconds"]

    def keyframe(self, shot: int) -> bytes | None:
        """The JPEG file of a shot's first keyframe; None if the film has no such shot or the shot has no keyframe."""
        stored = self.index.films[self.movie_id]
        if not 0 <= shot < stored.num_rows:
            return None
        keyframes = read_shots(self.index.shots, stored, shot, 1)[0].keyframes
        return keyframes[0] if keyframes else None

    def picture_of(self, scene: Scene) -> int | None:
        """The shot that stands for a scene: the one nearest its middle that has a keyframe; None if no shot has one."""
        shots = [k for k in range(scene.first_shot, scene.first_shot + scene.num_shots) if self.shots[k].has_keyframe]
        middle = scene.first_shot + (scene.num_shots - 1) / 2
        return min(shots, key=lambda shot: abs(shot - middle), default=None)


@dataclass
class Match:
    """A scene that a search found: its film's number on the page, its number within the film, and its similarity.

    `similarity` is 1 - d²/m: d is the distance from the query, m the mean of d² over all pairs of scenes on the page.
    Equal vectors have similarity 1; scenes at the root-mean-square distance have 0.
    """

    film: int
    number: int
    scene: Scene
    similarity: float


@dataclass
class Probe:
    """A classifier that `eval.probe --export` saved; it reads embeddings."""

    model: M2SSceneForClassification

    @classmethod
    def load(cls, folder: Path, pipeline: SceneEmbeddingPipeline) -> "Probe":
        """
        Raises:
            AppError: the folder holds no such classifier, or one that reads another encoder's embeddings.
        """
        try:
            with quiet_transformers():
                model = M2SSceneForClassification.from_pretrained(
                    str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
                ).eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise AppError(f"--probe {folder}: no probe that eval.probe --export saved ({reason})") from error
        own, theirs = pipeline.model.state_dict(), model.scene_model.state_dict()
        same = own.keys() == theirs.keys() and all(
            torch.equal(own[name].float().cpu(), weights.float()) for name, weights in theirs.items()
        )
        if not same:
            raise AppError(f"--probe {folder}: it was trained on another encoder; name that one by --model")
        return cls(model)

    @torch.no_grad()
    def tags(self, vector: np.ndarray, top: int = 3) -> list[tuple[str, float]]:
        """The likeliest labels with their probabilities, the likeliest first; for regression, the values."""
        logits = self.model.classifier(torch.from_numpy(vector)[None].to(self.model.dtype))[0].float()
        problem = self.model.config.problem_type
        if problem == "regression":
            values = logits
        else:
            values = logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(0)
        order = values.argsort(descending=True, stable=True)[:top].tolist()
        return [(self.model.config.id2label[number], float(values[number])) for number in order]


@dataclass
class Visit:
    """A visitor's view: the films that everybody sees, and the films that this visitor dropped, stored in `folder`.

    `seen` is the time of the visitor's last request, on the monotonic clock. `is_leaving` is true once the page was
    closed. `points` are the scenes of each index in the space of all. They are the page's own until the visitor drops a
    film and compares its scenes.
    """

    folder: Path
    films: list[PageFilm]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    seen: float = field(default_factory=time.monotonic)
    is_leaving: bool = False
    points: list[np.ndarray] = field(default_factory=list, repr=False)

    def film(self, number: int) -> PageFilm:
        """
        Raises:
            AppError: no film of this number.
        """
        if not 0 <= number < len(self.films):
            raise AppError("This film is no longer here; drop it again.")
        return self.films[number]

    def scene(self, film: int, number: int) -> Scene:
        """
        Raises:
            AppError: no film or no scene of this number.
        """
        scenes = self.film(film).scenes
        if not 0 <= number < len(scenes):
            raise AppError("This scene is no longer here; drop its film again.")
        return scenes[number]

    def similar(self, film: int, number: int, top: int = 8, films: str = "all") -> list[Match]:
        """Scenes similar to a scene, from all films of the visit, the most similar first.

        Args:
            film, number: the film's and the scene's numbers.
            films: `"all"`, or `"across"` for all films except the scene's own.
        """
        query, own = self.scene(film, number), self.film(film)
        indexes = list({id(each.index): each.index for each in self.films}.values())
        if len(self.points) != len(indexes):
            self.points = _in_one_space(indexes)
        points = self.points
        point = points[indexes.index(own.index)][query.row]
        found = [
            (index, scene)
            for index, points_ND in zip(indexes, points, strict=True)
            for scene in index.nearest(
                np.linalg.norm(points_ND - point, axis=1), top, query if index is own.index else None, films
            )
        ]
        found.sort(key=lambda each: each[1].distance)
        scale = mean_squared_distance(np.concatenate(points))
        numbers = {(id(each.index), each.movie_id): at for at, each in enumerate(self.films)}
        matches = []
        for index, scene in found[:top]:
            at = numbers[id(index), scene.movie_id]
            place = next(k for k, other in enumerate(self.films[at].scenes) if other.row == scene.row)
            matches.append(Match(at, place, scene, 1 - scene.distance**2 / scale))
        return matches


class FilmPage:
    """Everything behind the page: encoder, opened indexes, visits.

    Args:
        folder: parent of the visits' folders.
        pipeline: the encoder for dropped films.
        revision: revision of the encoder's weights.
        indexes: folders that `m2s embed` wrote; everybody sees them.
        probe: a folder that `eval.probe --export` saved; its labels become tags.
        shots_per_scene: shots in a scene of dropped films; by default as in the first index, or nine without one.

    Raises:
        StorageError: an index is not finished or belongs to another encoder, or its vectors are of another kind than
            those of the first index or those that the probe reads.
        AppError: the probe cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        pipeline: SceneEmbeddingPipeline,
        revision: str,
        indexes: Sequence[Path] = (),
        probe: Path | None = None,
        shots_per_scene: int | None = None,
    ):
        self.folder, self.pipeline = Path(folder), pipeline
        opened = [SceneIndex(index) for index in indexes]
        for index in opened:
            settings = {"revision": index.record["settings"]["revision"], "scene_vector": _scene_vector(index)}
            needed = {"revision": revision, "scene_vector": "joint" if probe else _scene_vector(opened[0])}
            require_settings(index.folder, settings, needed)
        self.films = [film for index in opened for film in _films_of(index, len(opened) > 1)]
        self.points = _in_one_space(opened)
        self.shot_settings = ShotSettings(short_side=max(224, pipeline.model.config.image_size))
        self.scene_settings = SceneSettings(
            revision,
            dtype=str(pipeline.model.dtype).removeprefix("torch."),
            scene_vector="joint" if probe else pipeline.default_scene_vector,  # probes read joint vectors
        )
        if opened:
            self.shot_settings = ShotSettings(**{**UNRECORDED, **opened[0].shots.record["settings"]})
            self.scene_settings = SceneSettings(**opened[0].record["settings"])
        if shots_per_scene is not None:
            self.scene_settings = replace(self.scene_settings, shots_per_scene=shots_per_scene, stride=shots_per_scene)
        self.probe = Probe.load(probe, pipeline) if probe else None
        self.visits: dict[str, Visit] = {}
        self.by_token: dict[str, Visit] = {}
        self.changing = threading.Lock()  # guards visits and their lists of films
        self.embedding = threading.Lock()

    def visit(self, name: str) -> Visit:
        """The visit of this name; a new one if there is none."""
        with self.changing:
            if name not in self.visits:
                visit = Visit(self.folder / secrets.token_hex(8), list(self.films), points=self.points)
                self.visits[name] = self.by_token[visit.token] = visit
            self.visits[name].seen = time.monotonic()
            return self.visits[name]

    def leave(self, name: str, grace: float = GRACE_SECONDS) -> None:
        """Note that the visitor closed the page; the visit ends after `grace` seconds without a request.

        Gradio reports this once for each page, even if its visitor comes back, so one chain of timers is enough.
        """
        with self.changing:
            visit = self.visits.get(name)
            if visit is None or visit.is_leaving:
                return
            visit.is_leaving, visit.seen = True, time.monotonic()
        self._end(name, visit, grace)

    def _end(self, name: str, visit: Visit, grace: float) -> None:
        with self.changing:
            rest = visit.seen + grace - time.monotonic()
            if rest <= 0:
                del self.visits[name], self.by_token[visit.token]
        if rest <= 0:
            shutil.rmtree(visit.folder, ignore_errors=True)
            return
        timer = threading.Timer(rest, self._end, (name, visit, grace))
        timer.daemon = True
        timer.start()

    def add_film(
        self,
        visit: Visit,
        path: Path,
        shots_per_scene: int | None = None,
        report: Callable[[str, float], None] | None = None,
    ) -> int:
        """Embed a film for one visitor and return its number on the page.

        Args:
            path: a video file; it may be deleted afterwards.
            shots_per_scene: shots in a scene, in place of the page's setting.
            report: called with (`"waiting"` for another film, `"opening"`, `"shots"` or `"scenes"`, share done). An
                exception that it raises ends the embedding.

        Raises:
            AppError: the film cannot be read or stored; the message names it without its folder and gives the reason.
        """
        folder = visit.folder / secrets.token_hex(4)
        title = printable(path.stem)
        own = folder / f"film{path.suffix}"
        settings = self.scene_settings
        if shots_per_scene not in (None, settings.shots_per_scene):
            settings = replace(settings, shots_per_scene=shots_per_scene, stride=shots_per_scene)

        def on_share(_: str, stage: str, share: float) -> None:
            if report:
                report(stage, share)
            visit.seen = time.monotonic()

        try:
            folder.mkdir(parents=True)
            _link(path, own)
            while not self.embedding.acquire(timeout=1):
                on_share(title, "waiting", 0.0)
            try:
                on_share(title, "opening", 0.0)
                summary = embed_films(
                    {title: own}, folder / "index", self.pipeline, self.shot_settings, settings, report=on_share
                )
            finally:
                self.embedding.release()
            if reason := summary.failed.get(title):
                raise AppError(f"{title}{path.suffix}: {reason.removeprefix(f'{printable(own)}: ')}")
            index = SceneIndex(folder / "index")
        except (OSError, StorageError) as reason:
            shutil.rmtree(folder, ignore_errors=True)
            raise AppError(f"{title}{path.suffix}: this server cannot store it; its disk may be full") from reason
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self.changing:
            visit.films.append(PageFilm(index, title, _new_title(title, visit.films), own))
            return len(visit.films) - 1


def _scene_vector(index: SceneIndex) -> str:
    return index.record["settings"].get("scene_vector", "joint")


def _in_one_space(indexes: Sequence[SceneIndex]) -> list[np.ndarray]:
    """The scenes of each index in one space, that of all scenes together."""
    if len(indexes) < 2:
        return [index.points for index in indexes]
    vectors = [index.vectors for index in indexes]
    space = SceneSpace.fit(np.concatenate(vectors), DEFAULT_SPACE)
    return [space.apply(each) for each in vectors]


def _films_of(index: SceneIndex, name_index: bool) -> list[PageFilm]:
    films = []
    for movie_id, stored in index.films.items():
        path = Path(stored.facts["video"])
        title = f"{movie_id} ({index.folder.resolve().name})" if name_index else movie_id
        # An index from somebody else may name any file of this server, so the page serves only videos.
        is_playable = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        films.append(PageFilm(index, movie_id, title, path if is_playable else None))
    return films


def _new_title(title: str, films: Sequence[PageFilm]) -> str:
    """The title, followed by a number if another film has it already."""
    taken = {film.title for film in films}
    names = (title if number == 1 else f"{title} ({number})" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _link(path: Path, place: Path) -> None:
    """Give the file a second name; copy it only if the file system allows no link."""
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)
