"""Stored films in, their `scene_embeddings` and contact sheets out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from PIL import Image

from .figures_m2s import contact_sheet, encode, timecode
from .pipeline_m2s import (
    SceneEmbeddingPipeline,
    SceneVector,
    describe_scene,
    evenly_spaced,
    scene_batches,
    scene_windows,
)
from .pretrained_m2s import model_name
from .shot_store_m2s import read_shots
from .shot_vectors_m2s import ShotReader, ShotVectors, thumbnails
from .shots_m2s import Shot
from .storage_m2s import FilmDataset, StoredFilm, atomic_write, default_values, file_name
from .story_scenes_m2s import SceneAxes, story_scenes

STORY_COLUMNS = 12  # shots in a row of a contact sheet of story scenes
SHOTS_PER_PAGE = 2000  # of a contact sheet, about; drawing so many takes 150 MB
Runs = Sequence[tuple[int, int]]  # scenes as (first shot, number of shots)


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are cut and embedded; goes into the record of a `scene_embeddings` dataset.

    Args:
        revision: identifies the encoder's weights: the Hub's commit, or a hash of a folder's files.
        shots_per_scene: shots that one window spans; of a longer story scene that is read jointly, so many evenly
            spaced shots are read.
        stride: shots from one window's start to the next one's.
        dtype: number format that the model computed with.
        scenes: `"windows"`, or `"story"` for whole scenes of any length, as `story_scenes` finds them.
        scene_vector: `"joint"` if the encoder reads the shots of a scene together, as in the paper; `"mean"` if it
            reads each shot by itself, and a scene's vector is the mean of its shots' vectors (ours).
    """

    revision: str
    shots_per_scene: int = 9
    stride: int = 9
    dtype: str = "float32"
    scenes: Literal["windows", "story"] = "windows"
    scene_vector: SceneVector = "joint"


class SceneStore:
    """The scenes of stored films: the `scene_embeddings` of an index and its contact sheets.

    Each film goes through `add`. Windows are embedded there. Story scenes depend on all films, so `add` stores the
    vectors of single shots only, and `embed_story` divides and embeds the films when all of them are stored.

    A thread writes a film's files while the next film is embedded. Leaving the context waits for it. An error in
    writing is raised by the next film, or at the end.

    Args:
        folder: folder of the index.
        shots: the dataset of the films' shots.
        settings: must be those of an existing index.
        pipeline: holds the model.

    Attributes:
        dataset: the `scene_embeddings`.
        embedded: ids of the films whose scenes this object embedded.

    Raises:
        StorageError: the settings differ, or the record is lost.
    """

    def __init__(self, folder: Path, shots: FilmDataset, settings: SceneSettings, pipeline: SceneEmbeddingPipeline):
        self.folder, self.shots, self.settings, self.pipeline = folder, shots, settings, pipeline
        self.dataset = FilmDataset(folder / "scene_embeddings", "scene_embeddings")
        self.dataset.begin(asdict(settings), default_values(settings))
        self.stored = self.dataset.films()
        self.model_name = model_name(pipeline.model.config.name_or_path)
        self.is_story, self.is_mean = settings.scenes == "story", settings.scene_vector == "mean"
        self.vectors: ShotVectors | None = None
        if self.is_story or self.is_mean:
            self.vectors = ShotVectors(folder, self.model_name, asdict(settings))
            self.vectors.begin()
        self.reader = ShotReader(shots, pipeline)
        self.writer = ThreadPoolExecutor(1)
        self.written: Future[None] | None = None
        self.embedded: set[str] = set()

    def __enter__(self) -> "SceneStore":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.reader.__exit__()
        self.writer.shutdown()
        if self.written and kind is None:
            self.written.result()

    def add(self, film: StoredFilm, report: Callable[[float], None]) -> None:
        """Do the work on a film that needs no other film, unless it is done; `report` is called with the share done.

        Raises:
            ValueError: no shot of it has a keyframe, or the encoder gave an infinite number.
            StorageError: the film before could not be written.
        """
        facts = {"fingerprint": film.facts["fingerprint"]}
        if self.vectors:
            if self.vectors.lack(film):
                shots = read_shots(self.shots, film, with_keyframes=False)
                if not any(shot.keyframe_frames for shot in shots):
                    raise ValueError(f"none of the film's {len(shots)} shots has a keyframe")
                self.vectors.write(film, self.reader, _half(report, 0))
            report = _half(report, 1)
        if not self.is_story and self._lack(film, facts):
            windows = scene_windows(film.num_rows, self.settings.shots_per_scene, self.settings.stride)
            self._embed(film, windows, facts, report)

    def reopen_unless_of(self, films: Mapping[str, StoredFilm]) -> None:
        """Mark the scenes as unfinished until `finish`, unless those in shards are of exactly these films.

        Call it before the shots of these films are packed: nobody then takes the old scenes for those of the new shots.
        """
        if _fingerprints(self.dataset.films(parts=False)) != _fingerprints(films):
            self.dataset.reopen()

    def embed_story(self, report: Callable[[str, float], None]) -> None:
        """Divide all films into story scenes, and embed those films whose division is new. Nothing without story.

        The division of a film depends a little on the other films, since these tell which differences matter.

        Args:
            report: called with (film id, share done).

        Raises:
            StorageError: a film could not be written.
        """
        if not (self.is_story and self.vectors):
            return
        films = self.shots.films()
        for movie_id, runs in divide(self.vectors, films).items():
            facts = {"fingerprint": films[movie_id].facts["fingerprint"], "scenes": [list(run) for run in runs]}
            if self._lack(films[movie_id], facts):
                self._embed(films[movie_id], runs, facts, _half(partial(report, movie_id), 1))

    def finish(self, failed: Mapping[str, str]) -> None:
        """Pack the embeddings of all films of the shots, which are finished, and remove pictures of failed films."""
        films, shot_settings = self.shots.films(), self.shots.record["settings"]
        if self.vectors:
            self.vectors.finish(films, shot_settings)
        self.dataset.finish(
            films,
            failed,
            model=self.model_name,
            inputs={"shots": shot_settings},
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        for movie_id in failed:
            remove_pages(sheet_path(self.folder, movie_id), 0)

    def _lack(self, film: StoredFilm, facts: dict[str, Any]) -> bool:
        """Whether the scenes of a film are missing, or those of an earlier file or of another division of it."""
        embedded = self.stored.get(film.movie_id)
        return embedded is None or embedded.facts != facts

    def _embed(self, film: StoredFilm, runs: Runs, facts: dict[str, Any], report: Callable[[float], None]) -> None:
        """Embed these scenes of a film."""
        shots = read_shots(self.shots, film, with_keyframes=False)
        pictures: list[Image.Image | None] = []
        scenes = []
        for scene in (self._means if self.is_mean else self._joint)(film, shots, runs, pictures):
            scenes.append(scene)
            report((scene["first_shot"] + scene["num_shots"]) / len(shots))
        if self.written:
            self.written.result()
        self.written = self.writer.submit(self._write, film, shots, scenes, pictures, facts)
        self.embedded.add(film.movie_id)

    def _means(
        self, film: StoredFilm, shots: list[Shot], runs: Runs, pictures: list[Image.Image | None]
    ) -> Iterator[dict[str, Any]]:
        """Scenes as the pipeline gives them, but for their vectors; adds a thumbnail of each shot."""
        assert self.vectors
        vectors_TD = self.vectors.of(film.movie_id).astype(np.float32)
        pictures += thumbnails(self.shots, film)
        for first, num_shots in runs:
            vectors_nD = vectors_TD[first : first + num_shots]
            vectors_nD = vectors_nD[vectors_nD.any(axis=1)]
            if len(vectors_nD):
                yield {**describe_scene(shots, (first, num_shots)), "embedding": vectors_nD.mean(0)}

    def _joint(
        self, film: StoredFilm, shots: list[Shot], runs: Runs, pictures: list[Image.Image | None]
    ) -> Iterator[dict[str, Any]]:
        """Scenes as the pipeline gives them; adds a thumbnail of each shot. Every keyframe is opened once."""
        chosen = [self._shots_read(shots, run) for run in runs]
        num_frames = [sum(len(shots[shot].keyframe_frames) for shot in each) for each in chosen]
        batches = list(scene_batches(num_frames, self.pipeline.scenes_per_batch))
        if not batches:
            raise ValueError(f"none of the film's {len(shots)} shots has a keyframe")
        needed = {shot for each in chosen for shot in each}
        read, pixels = self.reader.frames(film), dict[int, torch.Tensor]()
        for batch in batches:
            first, last = chosen[batch[0]][0], chosen[batch[-1]][-1]
            pixels = {shot: found for shot, found in pixels.items() if shot >= first}
            for shot in range(len(pictures), last + 1):
                found, picture = next(read)
                pictures.append(picture)
                if found is not None and shot in needed:
                    pixels[shot] = found
            scenes = [torch.cat([pixels[shot] for shot in chosen[number]]) for number in batch]
            for number, embedding in zip(batch, self.reader.encode(torch.stack(scenes)), strict=True):
                yield {**describe_scene(shots, runs[number]), "embedding": embedding}
        pictures += [picture for _, picture in read]

    def _shots_read(self, shots: list[Shot], run: tuple[int, int]) -> list[int]:
        """The shots of a scene that the encoder reads: those with a keyframe, or evenly spaced ones of too many."""
        having = [shot for shot in range(run[0], sum(run)) if shots[shot].keyframe_frames]
        return [having[place] for place in evenly_spaced(0, len(having), self.settings.shots_per_scene)]

    def _write(
        self,
        film: StoredFilm,
        shots: list[Shot],
        scenes: list[dict[str, Any]],
        pictures: list[Image.Image | None],
        facts: dict[str, Any],
    ) -> None:
        runs = [(scene["first_shot"], scene["num_shots"]) for scene in scenes]
        columns = STORY_COLUMNS if self.is_story else self.settings.shots_per_scene
        draw_sheet(sheet_path(self.folder, film.movie_id), film, shots, runs, pictures, self.is_story, columns)
        rows = [
            {
                **scene,
                "scene_id": f"{film.movie_id}:{scene['first_shot']}-{scene['first_shot'] + scene['num_shots'] - 1}",
                "movie_id": film.movie_id,
                "model": self.model_name,
                "revision": self.settings.revision,
                "kind": "story" if self.is_story else "window",
            }
            for scene in scenes
        ]
        self.dataset.write_film(film.movie_id, rows, facts)


def _fingerprints(films: Mapping[str, StoredFilm]) -> dict[str, str | None]:
    return {movie_id: film.facts.get("fingerprint") for movie_id, film in films.items()}


def _half(report: Callable[[float], None], place: int) -> Callable[[float], None]:
    """`report` for the first half of the work on a film, place 0, or for the second."""
    return lambda share: report((place + share) / 2)


def divide(vectors: ShotVectors, movie_ids: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """The story scenes of films, as (first shot, number of shots), by film; the axes are those of all of them."""
    movie_ids = list(movie_ids)
    axes = SceneAxes.fit(vectors.of(movie_id) for movie_id in movie_ids) if movie_ids else None
    return {movie_id: story_scenes(vectors.of(movie_id), axes) for movie_id in movie_ids if axes}


def sheet_path(folder: Path, movie_id: str, kind: str = "contact_sheets") -> Path:
    """The picture of a film of an index, or the first page of it."""
    return folder / kind / f"{file_name(movie_id)}.jpg"


def draw_sheet(
    path: Path,
    film: StoredFilm,
    shots: list[Shot],
    runs: Runs,
    pictures: Iterable[Image.Image | None],
    is_story: bool,
    columns: int = STORY_COLUMNS,
) -> None:
    """Write a film's contact sheet with these scenes marked. A long film has more pages, such as `NAME.page-2.jpg`."""
    length = timecode(film.facts["duration_seconds"])
    scenes = f"{len(runs)} story scenes" if is_story else f"{len(runs)} scenes"
    title = f"{film.movie_id}   {length}   {len(shots)} shots, {scenes}"
    rest, per_page = iter(pictures), max(1, SHOTS_PER_PAGE // columns) * columns
    num_pages = -(-len(shots) // per_page)
    for page, first in enumerate(range(0, len(shots), per_page), 1):
        starts = [shot.start_seconds for shot in shots[first : first + per_page]]
        text = f"{title}, page {page} of {num_pages}" if num_pages > 1 else title
        sheet = contact_sheet(text, islice(rest, len(starts)), starts, runs, columns, first)
        with atomic_write(_page(path, page)) as file:
            file.write(encode(sheet, "JPEG"))
    remove_pages(path, num_pages)


def remove_pages(path: Path, keep: int) -> None:
    """Remove the pages of a contact sheet after the first `keep` ones."""
    page = keep + 1
    while _page(path, page).exists():
        _page(path, page).unlink()
        page += 1


def _page(path: Path, page: int) -> Path:
    return path.with_name(f"{path.stem}.page-{page}.jpg") if page > 1 else path
