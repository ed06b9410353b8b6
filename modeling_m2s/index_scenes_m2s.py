"""The story scenes of an index: vectors of its single shots, the scenes that they fall into, pictures of these.

    index/
      shot_features/     the encoder's vector of each shot by itself
      scenes/            one row a scene: film, number, shots, seconds
      story_sheets/      one picture a film: its keyframes in order, story scenes marked

The axes along which scenes differ are found in all films of the index, so films that are added later may change the
scenes of others a little. The vectors are kept: a second call reads new films only, and a killed one goes on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .figures_m2s import THUMBNAIL_WIDTH, contact_sheet, encode, timecode
from .pipeline_m2s import SceneEmbeddingPipeline, open_image
from .shot_store_m2s import read_shots
from .shots_m2s import Film, Shot
from .storage_m2s import FilmDataset, StorageError, StoredFilm, atomic_write, exclusive, file_name
from .story_scenes_m2s import LONGEST_SCENE, SceneAxes, story_scenes

SHOTS_AT_A_TIME = 256  # whose keyframes are in memory together
SHEET_COLUMNS = 12
DTYPE = np.dtype("<f2")


class SceneFinder:
    """Finds the story scenes of a finished index.

    Args:
        folder: folder that `m2s embed` wrote.

    Attributes:
        record: the record of the index's `scene_embeddings`: `model`, and `settings` with its revision.

    Raises:
        StorageError: the folder has no finished index, or no film is in it.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.shots = FilmDataset(self.folder / "shots", "shots")
        self.features = FilmDataset(self.folder / "shot_features", "shot_features")
        self.scenes = FilmDataset(self.folder / "scenes", "scenes")
        self.record = FilmDataset(self.folder / "scene_embeddings", "scene_embeddings").record
        if not (self.record.get("complete") and self.shots.record.get("complete")):
            state = "the index here is not finished; run" if self.record else "no index here; make one with"
            raise StorageError(f"{folder}: {state} m2s embed")
        self.films = self.shots.films(parts=False)
        if not self.films:
            raise StorageError(f"{folder}: the index is empty; every film failed")

    def missing(self) -> list[StoredFilm]:
        """The films whose shots have no vectors yet, or those of an earlier file."""
        done = self.features.films()
        return [
            film
            for movie_id, film in self.films.items()
            if movie_id not in done or done[movie_id].facts != _identity(film)
        ]

    def find(
        self,
        load: Callable[[], SceneEmbeddingPipeline],
        report: Callable[[str, float], None] | None = None,
    ) -> dict[str, list[dict[str, Any]]]:
        """The scenes of every film by its id, as rows of the dataset `scenes`, which is written with the pictures.

        Args:
            load: gives the pipeline with the index's encoder; called only if films lack vectors.
            report: called with (film id, share of its shots read).

        Raises:
            StorageError: another run holds the folder, or it cannot be written.
            ValueError: the encoder gave an infinite number.
        """
        with exclusive(self.folder):
            settings = self.record["settings"]
            vectors = {"encoder": self.record["model"], "keyframe": "all", "vector": "pooler_output"}
            self.features.begin(vectors | {name: settings[name] for name in ("revision", "dtype")})
            if missing := self.missing():
                pipeline = load()
                for film in missing:
                    self._write_features(film, pipeline, report)
            if missing or not self.features.record.get("complete"):
                self.features.finish(self.films, {}, inputs={"shots": self.shots.record["settings"]})
            return self._write_scenes()

    def _write_features(
        self, film: StoredFilm, pipeline: SceneEmbeddingPipeline, report: Callable[[str, float], None] | None
    ) -> None:
        """Store a film's vectors; zeros for a shot without a keyframe."""
        dim = pipeline.model.config.hidden_size
        features_TD = np.zeros((film.num_rows, dim), DTYPE)
        for first, shots in self._pieces(film):
            if any(shot.keyframes for shot in shots):
                for scene in pipeline.iterate(_film_of(shots), shots_per_scene=1):
                    features_TD[first + scene["first_shot"]] = scene["embedding"]
            if report:
                report(film.movie_id, (first + len(shots)) / film.num_rows)
        if not np.isfinite(features_TD).all():
            raise ValueError(f"film {film.movie_id}: the encoder's vector of a shot is infinite or not a number")
        size = {"num_shots": film.num_rows, "dim": dim, "dtype": "float16"}
        row = {"movie_id": film.movie_id, **size, "features": features_TD.tobytes()}
        self.features.write_film(film.movie_id, [row], _identity(film))

    def _write_scenes(self) -> dict[str, list[dict[str, Any]]]:
        stored = self.features.films(parts=False)
        axes = SceneAxes.fit(self._vectors(stored[movie_id]) for movie_id in self.films)
        self.scenes.begin({"scenes": "story", "longest": LONGEST_SCENE})
        before = self._stored_scenes()
        found = {}
        for movie_id, film in self.films.items():
            shots = self._without_keyframes(film)
            runs = story_scenes(self._vectors(stored[movie_id]), axes)
            found[movie_id] = [
                {
                    "movie_id": movie_id,
                    "scene": number,
                    "first_shot": first,
                    "num_shots": num_shots,
                    "start_seconds": shots[first].start_seconds,
                    "end_seconds": shots[first + num_shots - 1].end_seconds,
                }
                for number, (first, num_shots) in enumerate(runs)
            ]
            sheet = self.sheet_path(movie_id)
            if found[movie_id] != before.get(movie_id) or not sheet.exists():
                self._draw(sheet, film, shots, runs)
        if found != before:
            self.scenes.write_all([row for rows in found.values() for row in rows])
        return found

    def sheet_path(self, movie_id: str) -> Path:
        """The picture of a film's story scenes."""
        return self.folder / "story_sheets" / f"{file_name(movie_id)}.jpg"

    def _vectors(self, film: StoredFilm) -> np.ndarray:
        """The vectors (T, D) of a film's shots, float16."""
        (row,) = (row for table in self.features.read_film(film) for row in table.to_pylist())
        return np.frombuffer(row["features"], DTYPE).reshape(row["num_shots"], row["dim"])

    def _stored_scenes(self) -> dict[str, list[dict[str, Any]]]:
        """Scenes of an earlier call, by film."""
        found: dict[str, list[dict[str, Any]]] = {}
        if self.scenes.record.get("complete"):
            for row in self.scenes.read().to_pylist():
                found.setdefault(row["movie_id"], []).append(row)
        return found

    def _pieces(self, film: StoredFilm) -> Iterator[tuple[int, list[Shot]]]:
        """A film's shots, some at a time, each time with the number of the first one."""
        for first in range(0, film.num_rows, SHOTS_AT_A_TIME):
            yield first, read_shots(self.shots, film, first, min(SHOTS_AT_A_TIME, film.num_rows - first))

    def _without_keyframes(self, film: StoredFilm) -> list[Shot]:
        rows = (row for table in self.shots.read_film(film) for row in table.drop_columns(["keyframes"]).to_pylist())
        return [Shot(**{name: row[name] for name in row if name != "movie_id"}) for row in rows]

    def _draw(self, path: Path, film: StoredFilm, shots: list[Shot], runs: list[tuple[int, int]]) -> None:
        sheet = contact_sheet(
            f"{film.movie_id}   {timecode(shots[-1].end_seconds)}   {len(shots)} shots, {len(runs)} story scenes",
            (_thumbnail(shot) for _, piece in self._pieces(film) for shot in piece),
            [shot.start_seconds for shot in shots],
            runs,
            columns=SHEET_COLUMNS,
        )
        with atomic_write(path) as file:
            file.write(encode(sheet, "JPEG"))


def _identity(film: StoredFilm) -> dict[str, Any]:
    """What tells a replaced film from the one that vectors were made of."""
    return {"fingerprint": film.facts["fingerprint"]}


def _film_of(shots: list[Shot]) -> Film:
    """Some shots as a film for the pipeline, which looks at nothing else."""
    return Film(shots=shots, num_frames=0, frame_rate=0.0, duration_seconds=0.0, width=0, height=0)


def _thumbnail(shot: Shot) -> Image.Image | None:
    if not shot.keyframes:
        return None
    image = open_image(shot.keyframes[0])
    image.thumbnail((THUMBNAIL_WIDTH, image.height))
    return image
