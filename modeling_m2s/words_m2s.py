"""Search an index by words: a CLIP model's vectors of single shots are compared with its vector of a text.

    index/
      words/             the CLIP model's image_embeds of each shot, the mean of its keyframes' unit vectors

The words have a model of their own, whatever the index's encoder is: only a CLIP model that nobody trained further has
pictures and words in one space. Vectors are kept: a second call reads new films only, and a killed one goes on.
"""

import os
import shlex
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .frames_m2s import Preparation, ahead, normalize
from .pipeline_m2s import SceneEmbeddingPipeline, open_image
from .pretrained_m2s import ModelError, load_text_tower, model_name, pinned
from .search_m2s import Scene, nearest
from .shot_vectors_m2s import DTYPE, identity, pieces
from .storage_m2s import (
    RECORD_NAME,
    FilmDataset,
    StorageError,
    StoredFilm,
    exclusive,
    require_settings,
    write_json,
)

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError(f"search by words needs more packages: pip install 'movies2scenes[video]' ({error})") from error

# Everyday things. What their texts have in common is taken off a text, so that it does not count for a picture that it
# is a picture of something. Measured by `eval.word_search`, which asks for none of these.
EVERYDAY = (
    *("building", "sky", "tree", "road", "bed", "grass", "person", "plant", "water", "house", "sea", "rock", "sofa"),
    *("stairs", "flower", "hill", "boat", "airplane", "waterfall", "food", "animal", "bicycle", "lake", "blanket"),
    *("flag", "motorcycle", "bird", "horse", "sheep", "cow", "fork", "knife", "cake", "scissors", "snow", "window"),
    *("helicopter", "wheelchair", "goat", "donkey", "people", "baby", "face", "street", "garage", "hedge", "branch"),
    *("cage", "carpet", "clothes", "clouds", "cupboard", "fog", "fruit", "leaves", "metal", "mud", "paper", "plastic"),
    *("stone", "vegetable", "wood", "painting", "shelf"),
)


class WordStore:
    """The `words` of a finished index.

    Args:
        folder: folder that `m2s embed` wrote.

    Attributes:
        dataset: the vectors, of kind `shot_features`.

    Raises:
        StorageError: the folder has no finished index.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.shots = FilmDataset(self.folder / "shots", "shots")
        self.dataset = FilmDataset(self.folder / "words", "shot_features")
        if not self.shots.record.get("complete"):
            state = "the index here is not finished; run" if self.shots.record else "no index here; make one with"
            raise StorageError(f"{folder}: {state} m2s embed")
        self.films = self.shots.films(parts=False)

    @property
    def model(self) -> str | None:
        """The model that made the vectors, as `load_encoder` takes it: pinned to its commit, if it is the Hub's.

        None if the index has no words yet.
        """
        if not self.dataset.record:
            return None
        settings = self.dataset.record["settings"]
        return pinned(settings["encoder"], settings["revision"])

    def missing(self, parts: bool = True) -> list[StoredFilm]:
        """The films whose shots have no vectors yet, or those of an earlier file.

        Args:
            parts: whether vectors count that a run has written and not packed yet, so that nobody reads them.
        """
        done = self.dataset.films(parts)
        return [
            film
            for movie_id, film in self.films.items()
            if movie_id not in done or done[movie_id].facts != identity(film)
        ]

    def write(
        self,
        pipeline: SceneEmbeddingPipeline,
        revision: str,
        report: Callable[[str, float], None] | None = None,
    ) -> int:
        """Bring the vectors up to date with the index's films; returns how many films were read.

        Args:
            pipeline: holds the image tower.
            revision: that of its weights.
            report: called with (film id, share of its shots read).

        Raises:
            StorageError: another run holds the folder, the vectors there are another model's, or they cannot be
                written.
            ValueError: the model gave an infinite number.
        """
        config = pipeline.model.config
        name = model_name(config.name_or_path)
        settings = {
            "encoder": name if os.path.isdir(name) else name.partition("@")[0],
            "revision": revision,
            "keyframe": "mean",
            "image_size": config.image_size,
            "dtype": str(pipeline.model.dtype).removeprefix("torch."),
            "dim": config.projection_dim,
        }
        with exclusive(self.folder):
            self.require(settings)
            self.dataset.begin(settings)
            missing = self.missing()
            for film in missing:
                self._write_film(film, pipeline, report)
            packed = self.dataset.films(parts=False)
            if (
                not self.dataset.record.get("complete")
                or self.missing(parts=False)
                or packed.keys() != self.films.keys()
            ):
                self.dataset.finish(self.films, {}, inputs={"shots": self.shots.record["settings"]})
        return len(missing)

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse a model other than the one that made the stored vectors.

        A folder that has moved is the same model: only its revision counts. The record then gets the new place.

        Raises:
            StorageError: names both.
        """
        if record := self.dataset.record:
            found = record["settings"]
            try:
                require_settings(
                    self.dataset.folder, {"revision": found["revision"]}, {"revision": settings["revision"]}
                )
            except StorageError:
                raise StorageError(
                    f"{self.folder}: its words are those of {found['encoder']}, revision {found['revision']}, not of "
                    f"{settings['encoder']}, {settings['revision']}; remove {self.dataset.folder} to change the model"
                ) from None
            if not os.path.isdir(settings["encoder"]):
                settings["encoder"] = found["encoder"]
            elif settings["encoder"] != found["encoder"]:
                moved = {**found, "encoder": settings["encoder"]}
                write_json(self.dataset.folder / RECORD_NAME, {**record, "settings": moved})

    def _write_film(
        self, film: StoredFilm, pipeline: SceneEmbeddingPipeline, report: Callable[[str, float], None] | None
    ) -> None:
        """Store a film's vectors; zeros for a shot without a keyframe."""
        vectors_TD = np.zeros((film.num_rows, pipeline.model.config.projection_dim), DTYPE)
        for first, embeds in self._embeds(film, pipeline):
            for shot, embeds_KD in enumerate(embeds, first):
                vectors_TD[shot] = unit(embeds_KD).mean(0) if len(embeds_KD) else 0
            if report:
                report(film.movie_id, (first + len(embeds)) / film.num_rows)
        if not np.isfinite(vectors_TD).all():
            raise ValueError(f"film {film.movie_id}: the model's vector of a shot is infinite or not a number")
        size = {"num_shots": film.num_rows, "dim": vectors_TD.shape[1], "dtype": "float16"}
        row = {"movie_id": film.movie_id, **size, "features": vectors_TD.tobytes()}
        self.dataset.write_film(film.movie_id, [row], identity(film))

    @torch.inference_mode()
    def _embeds(self, film: StoredFilm, pipeline: SceneEmbeddingPipeline) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The number of a shot, and the image_embeds (K, D) of its keyframes and of those of the next shots."""
        model, prepare = pipeline.model, Preparation(pipeline.image_processor)

        def read(shots: list[list[dict[str, Any]]]) -> list[list[np.ndarray]]:
            return [[prepare(open_image(keyframe["bytes"])) for keyframe in keyframes] for keyframes in shots]

        first = 0
        with ThreadPoolExecutor(1) as reader:
            for shots in ahead(read, pieces(self.shots, film), reader):
                frames = [frame for keyframes in shots for frame in keyframes]
                embeds_ND = np.zeros((0, model.config.projection_dim), np.float32)
                if frames:
                    pixels_NCYX = torch.from_numpy(np.stack(frames)).to(model.device)
                    pixel_values = normalize(pixels_NCYX, pipeline.image_processor)[:, None].to(model.dtype)
                    embeds_ND = model(pixel_values=pixel_values).scene_embeds.float().cpu().numpy()
                yield first, np.split(embeds_ND, np.cumsum([len(keyframes) for keyframes in shots])[:-1])
                first += len(shots)


class WordSearch:
    """The shots of an index in memory, to be searched by words.

    Args:
        folder: an index with `words`.

    Attributes:
        settings: those of the words, with the model as `encoder` and its `revision`.
        model: the model, as `WordStore` has it.
        vectors: unit vectors (shots, D), float32.
        places: film, number, start and end of each shot, in the order of `vectors`.
        lacking: ids of films without words, which are not searched.

    Raises:
        StorageError: the index has no finished words.
    """

    def __init__(self, folder: Path):
        store = WordStore(folder)
        record = store.dataset.record
        if not record.get("complete"):
            state = "the words of the index are not finished" if record else "the index has no words yet"
            raise StorageError(f"{folder}: {state}; run: m2s words {shlex.quote(str(folder))} --model CLIP_MODEL")
        self.settings: dict[str, Any] = record["settings"]
        self.model = store.model or self.settings["encoder"]
        self.lacking = [film.movie_id for film in store.missing(parts=False)]
        vectors = {
            row["movie_id"]: np.frombuffer(row["features"], DTYPE).reshape(row["num_shots"], row["dim"])
            for row in store.dataset.read().to_pylist()
        }
        known = sorted(vectors.keys() & store.films.keys() - set(self.lacking))
        if not any(vectors[movie_id].any() for movie_id in known):
            raise StorageError(f"{folder}: no film has words yet; run: m2s words {shlex.quote(str(folder))}")
        vectors_ND = np.concatenate([vectors[movie_id] for movie_id in known])
        found_N = vectors_ND.any(1)
        places = store.shots.read(["movie_id", "shot_index", "start_seconds", "end_seconds"])  # sorted by film and shot
        self.places = places.filter(is_one_of(places, known)).filter(pa.array(found_N)).combine_chunks()
        self.vectors = unit(vectors_ND[found_N].astype(np.float32))

    def search(
        self, vector: np.ndarray, top: int = 5, movie_ids: Collection[str] | None = None, fold: bool = False
    ) -> list[Scene]:
        """The shots whose pictures are nearest to a text, nearest first.

        Args:
            vector: the text's vector (D,), as `embed_text` gives it.
            top: maximum number of shots.
            movie_ids: only these films; all by default.
            fold: leave out near-duplicates of nearer shots, as `nearest` does.

        Returns:
            Shots with their `distance`, that of unit vectors: `similarity` gives its cosine.
        """
        distances = np.linalg.norm(self.vectors - unit(vector), axis=1)
        rows = np.arange(len(distances))
        if movie_ids is not None:
            rows = rows[is_one_of(self.places, movie_ids).to_numpy()]
        rows = rows[distances[rows].argsort(kind="stable")]
        # Near-duplicates of a hit are counted among all shots.
        return nearest(self.shots(rows if fold else rows[:top]), self.vectors, distances, top, fold)

    def shots(self, rows: np.ndarray) -> list[Scene]:
        """Some rows of `places`, each as a scene of one shot."""
        movie_ids, *columns = self.places.take(rows).columns
        numbers = [column.to_numpy().tolist() for column in columns]
        return [
            Scene(row, movie_id, number, 1, start, end)
            for row, movie_id, number, start, end in zip(rows.tolist(), movie_ids.to_pylist(), *numbers, strict=True)
        ]


def is_one_of(places: pa.Table, movie_ids: Collection[str]) -> pa.ChunkedArray:
    """Whether each row of a table is of one of some films."""
    return pc.is_in(places["movie_id"], value_set=pa.array(list(movie_ids), pa.string()))


@torch.inference_mode()
def embed_text(text: str, name: str, revision: str, centered: bool = True) -> np.ndarray:
    """The unit vector (D,) of a text in the space of a CLIP model's pictures.

    Args:
        name: the model, as `load_text_tower` takes it.
        revision: the one that the pictures were embedded with.
        centered: take the mean of `EVERYDAY` off; it finds the right pictures more often.

    Raises:
        ModelError: the model cannot be loaded.
        StorageError: the model is another one now.
        ValueError: the text is empty, or longer than the model reads.
    """
    if not text.strip():
        raise ValueError("the text is empty; name something that can be seen, such as a bridge at night")
    try:  # the pictures' own revision, from the cache: without a network, each question to the Hub takes long to fail
        model, tokenizer, found = load_text_tower(f"{name.partition('@')[0]}@{revision}", local_files_only=True)
    except ModelError:
        model, tokenizer, found = load_text_tower(name)
    if found != revision:
        raise StorageError(f"{name}: its revision is {found}, but the index's words were made by revision {revision}")
    tokens = tokenizer(text, return_tensors="pt")
    count, longest = tokens["input_ids"].shape[1], model.config.max_position_embeddings
    if count > longest:
        raise ValueError(f"the text has {count} tokens, and {name} reads {longest}; shorten it")
    vector = unit(model(**tokens).text_embeds[0].float().numpy())
    if not centered:
        return vector
    prompts = tokenizer(
        [f"a photo of a {word}" for word in EVERYDAY], padding=True, truncation=True, return_tensors="pt"
    )
    return unit(vector - unit(model(**prompts).text_embeds.float().numpy()).mean(0))


def similarity(distance: float) -> float:
    """The cosine of two unit vectors at a distance."""
    return 1 - distance * distance / 2


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) of length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
