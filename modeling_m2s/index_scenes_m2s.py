"""The story scenes of an index: vectors of its single shots, the scenes that they fall into, pictures of these.

    index/
      shot_features/     the encoder's vector of each shot by itself
      scenes/            one row a scene: film, number, shots, seconds
      story_sheets/      one picture a film: its keyframes in order, story scenes marked

The axes along which scenes differ are found in all films of the index, so films that are added later may change the
scenes of others a little. The vectors are kept: a second call reads new films only, and a killed one goes on.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .pipeline_m2s import SceneEmbeddingPipeline, describe_scene
from .scene_store_m2s import divide, draw_sheet, sheet_path
from .shot_store_m2s import read_shots
from .shot_vectors_m2s import ShotReader, ShotVectors, thumbnails
from .storage_m2s import FilmDataset, StorageError, StoredFilm, exclusive
from .story_scenes_m2s import LONGEST_SCENE


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
        self.scenes = FilmDataset(self.folder / "scenes", "scenes")
        self.record = FilmDataset(self.folder / "scene_embeddings", "scene_embeddings").record
        if not (self.record.get("complete") and self.shots.record.get("complete")):
            state = "the index here is not finished; run" if self.record else "no index here; make one with"
            raise StorageError(f"{folder}: {state} m2s embed")
        self.films = self.shots.films(parts=False)
        if not self.films:
            raise StorageError(f"{folder}: the index is empty; every film failed")
        self.vectors = ShotVectors(self.folder, self.record["model"], self.record["settings"])
        self.is_story = self.record["settings"].get("scenes") == "story"

    def missing(self) -> list[StoredFilm]:
        """The films whose shots have no vectors yet, or those of an earlier file."""
        return [film for film in self.films.values() if self.vectors.lack(film)]

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
            self.vectors.begin()
            if missing := self.missing():
                with ShotReader(self.shots, load()) as reader:
                    for film in missing:
                        self.vectors.write(film, reader, partial(report, film.movie_id) if report else None)
            self.vectors.finish(self.films, self.shots.record["settings"])
            return self._write_scenes()

    def _write_scenes(self) -> dict[str, list[dict[str, Any]]]:
        self.scenes.begin({"scenes": "story", "longest": LONGEST_SCENE})
        before = self._stored_scenes()
        found = {}
        for movie_id, runs in divide(self.vectors, self.films).items():
            film = self.films[movie_id]
            shots = read_shots(self.shots, film, with_keyframes=False)
            found[movie_id] = [
                {"movie_id": movie_id, "scene": number, **describe_scene(shots, run)} for number, run in enumerate(runs)
            ]
            sheet = self.sheet_path(movie_id)
            if not sheet.exists() or (found[movie_id] != before.get(movie_id) and not self.is_story):
                draw_sheet(sheet, film, shots, runs, thumbnails(self.shots, film), is_story=True)
        if found != before:
            self.scenes.write_all([row for rows in found.values() for row in rows])
        return found

    def sheet_path(self, movie_id: str) -> Path:
        """The picture of a film's story scenes: its contact sheet, if these are the scenes that the index has."""
        return sheet_path(self.folder, movie_id, "contact_sheets" if self.is_story else "story_sheets")

    def _stored_scenes(self) -> dict[str, list[dict[str, Any]]]:
        """Scenes of an earlier call, by film."""
        found: dict[str, list[dict[str, Any]]] = {}
        if self.scenes.record.get("complete"):
            for row in self.scenes.read().to_pylist():
                found.setdefault(row["movie_id"], []).append(row)
        return found
