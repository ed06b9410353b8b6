"""Search by example in an index of scenes: exact, by L2 distance, as in the paper's retrieval (§4.3.1).

The paper compares vectors as they are. Here they are compared in a space of the index's own statistics by default
(`scene_space_m2s`), which finds the same place far more often with an encoder that was never trained on scenes.
"""

from collections.abc import Sequence
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

DEFAULT_SPACE: Space = "whitened"
MOST_KEYFRAMES = 12  # of a scene in a picture


@dataclass
class Scene:
    """A scene of an index: its place and, in search results, its distance from the query."""

    row: int
    movie_id: str
    first_shot: int
    num_shots: int
    start_seconds: float
    end_seconds: float
    distance: float = 0.0

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
            raise StorageError(f"{movie_id} has no scene at {timecode(seconds)}; it ends at {timecode(end)}")
        return min(spanning, key=lambda s: abs((s.start_seconds + s.end_seconds) / 2 - seconds))

    def search(self, vector: np.ndarray, top: int = 5, query: Scene | None = None, films: str = "all") -> list[Scene]:
        """The nearest scenes, none overlapping the query or one another, nearest first.

        Args:
            vector: an embedding as the encoder gives it, of the same width as the index's.
            top: maximum number of scenes.
            query: the vector's scene, if it is in the index.
            films: `"all"`, `"within"` for the query's film only, or `"across"` for other films only.
        """
        if vector.shape != self.vectors.shape[1:]:
            raise StorageError(f"{self.folder} holds embeddings of width {self.vectors.shape[1]}, not {vector.shape}")
        return self.nearest(np.linalg.norm(self.points - self.space.apply(vector), axis=1), top, query, films)

    def nearest(
        self, distances_N: np.ndarray, top: int = 5, query: Scene | None = None, films: str = "all"
    ) -> list[Scene]:
        """The scenes that `search` finds, given the distance of each scene of the index from the query."""
        chosen: list[Scene] = []
        for row in np.argsort(distances_N, kind="stable"):
            scene = self.scenes[row]
            if query is not None:
                same_film = scene.movie_id == query.movie_id
                if scene.overlaps(query) or (films == "within" and not same_film) or (films == "across" and same_film):
                    continue
            if any(scene.overlaps(other) for other in chosen):
                continue
            chosen.append(replace(scene, distance=float(distances_N[row])))
            if len(chosen) == top:
                break
        return chosen

    def keyframes(self, scene: Scene) -> list[Image.Image | None]:
        """First keyframes of the scene's shots, up to `MOST_KEYFRAMES` evenly spaced ones; None for a shot without."""
        shots = read_shots(self.shots, self.films[scene.movie_id], scene.first_shot, scene.num_shots)
        shots = [shots[place] for place in evenly_spaced(0, len(shots), MOST_KEYFRAMES)]
        return [open_image(shot.keyframes[0]) if shot.keyframes else None for shot in shots]

    def draw(self, query: tuple[str, list[Image.Image | None]], results: Sequence[Scene]) -> Image.Image:
        """A picture: the query's row, then one row per result."""
        rows = [query]
        for rank, scene in enumerate(results, 1):
            rows.append((f"{rank}   distance {scene.distance:.2f}   {scene.describe()}", self.keyframes(scene)))
        return strips(rows)


def mean_squared_distance(vectors: np.ndarray) -> float:
    """The mean of the squared L2 distance over all pairs of vectors (N, D); 1 if all are equal."""
    return 2 * float(vectors.var(0).sum()) or 1.0
