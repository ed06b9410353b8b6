"""Search by example in an index of scenes: exact, by L2 distance, as in the paper's retrieval (§4.3.1).

The paper compares vectors as they are. Here they are compared in a space of the index's own statistics by default
(`scene_space_m2s`), which finds the same place far more often with an encoder that was never trained on scenes.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .figures_m2s import strips, timecode
from .intervals_m2s import find_film
from .pipeline_m2s import evenly_spaced, open_image
from .scene_space_m2s import SceneSpace, Space
from .shot_store_m2s import read_shots
from .storage_m2s import FilmDataset, StorageError
from .video_m2s import printable

# Two hits are near-duplicates if the distance of their vectors, as they are stored, is at most this share of the root
# mean square distance of all pairs. In the whitened space, no share suits all indexes: that of copies varies.
NEAR_DUPLICATE = 0.3

DEFAULT_SPACE: Space = "whitened"
MOST_KEYFRAMES = 12  # of a scene in a picture


@dataclass
class Scene:
    """A scene of an index: its place and, in search results, its distance from the query.

    `num_folded` counts the near-duplicates that search results leave out in favor of this one.
    """

    row: int
    movie_id: str
    first_shot: int
    num_shots: int
    start_seconds: float
    end_seconds: float
    distance: float = 0.0
    num_folded: int = 0

    def overlaps(self, other: "Scene") -> bool:
        """Whether the two share a shot."""
        if self.movie_id != other.movie_id:
            return False
        return (
            self.first_shot < other.first_shot + other.num_shots and other.first_shot < self.first_shot + self.num_shots
        )

    def describe(self) -> str:
        """Film, timecodes and shots in one line."""
        last = self.first_shot + self.num_shots - 1
        span = f"{timecode(self.start_seconds, tenths=True)}-{timecode(self.end_seconds, tenths=True)}"
        return f"{self.movie_id}  {span}  shots {self.first_shot}-{last}"


class SceneIndex:
    """A finished index in memory.

    Args:
        folder: folder that `embed_films` wrote.
        space: the space in which scenes are compared.

    Attributes:
        vectors: the scenes' embeddings (N, D), float32, as they are stored.
        space, points: the space, and the scenes in it.

    Raises:
        StorageError: the folder has no finished index.
    """

    def __init__(self, folder: Path, space: Space = DEFAULT_SPACE):
        self.folder = Path(folder)
        dataset = FilmDataset(self.folder / "scene_embeddings", "scene_embeddings")
        self.record = dataset.record
        if not self.record.get("complete"):
            state = "the index here is not finished; run" if self.record else "no index here; make one with"
            raise StorageError(f"{folder}: {state} m2s embed")
        table = dataset.read()
        if not len(table):
            raise StorageError(f"{folder}: the index is empty; every film failed")
        self.vectors = np.array(table["embedding"].combine_chunks().flatten(), dtype=np.float32).reshape(len(table), -1)
        places = table.drop_columns(["scene_id", "embedding", "model", "revision", "kind"]).to_pylist()
        self.space = SceneSpace.fit(self.vectors, space)
        self.points = self.space.apply(self.vectors)
        self.scenes = [Scene(row, **place) for row, place in enumerate(places)]
        self.shots = FilmDataset(self.folder / "shots", "shots")
        self.films = self.shots.films(parts=False)

    def find_film(self, name: str) -> str:
        """The id of the film that `name` refers to, by its id, a part of its id, or the end of its file's path.

        Raises:
            StorageError: no film matches, or several do; the message lists films to choose from.
        """
        return find_film(self.folder, self.films, name)

    def choose_films(self, under: Path | None = None, movie_ids: Collection[str] | None = None) -> set[str]:
        """Ids of films to search: those whose file lies under a folder, those that are named, or all.

        Raises:
            StorageError: no film is left, or an id is unknown.
        """
        for movie_id in movie_ids or ():
            if movie_id not in self.films:
                listed = ", ".join(sorted(self.films)[:10])
                raise StorageError(f"{self.folder}: no film has the id {movie_id!r}; there are: {listed}")
        chosen = set(movie_ids or self.films)
        if under is not None:
            parent = Path(printable(os.path.abspath(under)))
            chosen = {
                movie_id for movie_id in chosen if Path(self.films[movie_id].facts["video"]).is_relative_to(parent)
            }
            if not chosen:
                raise StorageError(f"{self.folder}: no film to search lies under {parent}")
        return chosen

    def scene_at(self, movie_id: str, seconds: float) -> Scene:
        """The scene of a film that spans a time; if several do, the one whose middle is nearest.

        The first scene also spans the time before it: a film's sound may begin before its pictures.

        Raises:
            StorageError: the time is beyond the film's end.
        """
        scenes = [scene for scene in self.scenes if scene.movie_id == movie_id]
        seconds = max(seconds, min((scene.start_seconds for scene in scenes), default=0.0))
        spanning = [scene for scene in scenes if scene.start_seconds <= seconds < scene.end_seconds]
        if not spanning:
            end = max((scene.end_seconds for scene in scenes), default=0.0)
            raise StorageError(
                f"{movie_id} has no scene at {timecode(seconds, True)}; it ends at {timecode(end, True)}"
            )
        return min(spanning, key=lambda s: abs((s.start_seconds + s.end_seconds) / 2 - seconds))

    def distances(self, vector: np.ndarray) -> np.ndarray:
        """The distance (N,) of each scene from a query, in the index's space.

        Args:
            vector: an embedding (D,) as the encoder gives it, of the same width as the index's, or several (Q, D); a
                scene is then as near as the nearest of them.

        Raises:
            StorageError: the width is another.
        """
        if vector.shape[-1:] != self.vectors.shape[1:]:
            raise StorageError(f"{self.folder} holds embeddings of width {self.vectors.shape[1]}, not {vector.shape}")
        points_QK = self.space.apply(np.atleast_2d(vector))
        return np.min([np.linalg.norm(self.points - point_K, axis=1) for point_K in points_QK], axis=0)

    def nearest(
        self,
        distances_N: np.ndarray,
        top: int = 5,
        query: Scene | None = None,
        films: str = "all",
        movie_ids: Collection[str] | None = None,
        fold: bool = False,
    ) -> list[Scene]:
        """The nearest scenes, none overlapping the query or one another, nearest first.

        Args:
            distances_N: the distance of each scene of the index from the query, as `distances` gives them.
            top: maximum number of scenes.
            query: the query's scene, if it is in the index.
            films: `"all"`, `"within"` for the query's film only, or `"across"` for other films only.
            movie_ids: only these films; all by default.
            fold: leave out near-duplicates of nearer scenes, as the function `nearest` does.
        """

        def allowed(scene: Scene) -> bool:
            if movie_ids is not None and scene.movie_id not in movie_ids:
                return False
            if query is None:
                return True
            same_film = scene.movie_id == query.movie_id
            return not scene.overlaps(query) and films in ("all", "within" if same_film else "across")

        is_raw = self.space.name == "raw"
        return nearest(list(filter(allowed, self.scenes)), self.vectors, distances_N, top, fold, is_raw)

    def keyframes(self, scene: Scene) -> list[Image.Image | None]:
        """First keyframes of the scene's shots, up to `MOST_KEYFRAMES` evenly spaced ones; None for a shot without."""
        shots = read_shots(self.shots, self.films[scene.movie_id], scene.first_shot, scene.num_shots)
        shots = [shots[place] for place in evenly_spaced(0, len(shots), MOST_KEYFRAMES)]
        return [open_image(shot.keyframes[0]) if shot.keyframes else None for shot in shots]

    def draw(
        self,
        query: tuple[str, Sequence[Image.Image | None]],
        results: Sequence[Scene],
        scores: Sequence[str] | None = None,
    ) -> Image.Image:
        """A picture: the query's row, then one row per result; `scores` say how near each is."""
        rows: list[tuple[str, Sequence[Image.Image | None]]] = [query]
        for rank, scene in enumerate(results, 1):
            score = scores[rank - 1] if scores else f"distance {scene.distance:.2f}"
            rows.append((f"{rank}   {score}   {scene.describe()}", self.keyframes(scene)))
        return strips(rows)


def nearest(
    scenes: Sequence[Scene],
    vectors: np.ndarray,
    distances: np.ndarray,
    top: int,
    fold: bool = False,
    one_space: bool = True,
) -> list[Scene]:
    """The nearest of some scenes, none overlapping another, nearest first.

    Args:
        scenes: those to choose from; `row` is their place in the next two.
        vectors: embeddings (N, D) of all scenes.
        distances: distances (N,) of all scenes from the query.
        top: maximum number of scenes.
        fold: leave out near-duplicates of nearer ones, such as the same scene in a copy of the film, and count them.
        one_space: whether the distances are those of the vectors as they are. If not, counting looks at all scenes.
    """
    radius = NEAR_DUPLICATE * mean_squared_distance(vectors) ** 0.5 if fold else -1.0
    reach = radius if one_space or not fold else np.inf  # of near-duplicates beyond a hit: the triangle inequality
    chosen: list[Scene] = []
    for scene in sorted(scenes, key=lambda scene: distances[scene.row]):
        distance = float(distances[scene.row])
        if len(chosen) == top and distance > chosen[-1].distance + reach:
            break
        if any(scene.overlaps(other) for other in chosen):
            continue
        gaps = np.linalg.norm(vectors[[other.row for other in chosen]] - vectors[scene.row], axis=1) if chosen else []
        near = [other for other, gap in zip(chosen, gaps, strict=True) if gap <= radius]
        if near:
            near[0].num_folded += 1
        elif len(chosen) < top:
            chosen.append(replace(scene, distance=distance))
    return chosen


def mean_squared_distance(vectors: np.ndarray) -> float:
    """The mean of the squared L2 distance over all pairs of vectors (N, D); 1 if all are equal."""
    return 2 * float(vectors.var(0).sum()) or 1.0
