"""Pictures of the report: retrieved scenes, predictions of scenes, scene boundaries of films.

They resemble figure 4 of the paper and figures 4 to 8 of its supplement, but are drawn at random with a seed instead of
chosen. Scenes without keyframes are left out and counted.
"""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from data_scripts.features.scene_embedding import SHOTS_PER_SCENE, evenly_spaced
from data_scripts.formats.labeled_scenes import films_by_name
from data_scripts.stages.inputs import finished
from modeling_m2s.figures_m2s import encode, timecode
from modeling_m2s.storage_m2s import FilmDataset, StorageError, StoredFilm

THUMBNAIL = (160, 120)
ENCODERS_BESIDE, MOST_SCENES, MOST_FILMS, MOST_CLASSES, NEIGHBORS, RETRIEVAL_SHOTS = 2, 6, 2, 3, 4, 3
THRESHOLD = 0.5  # a boundary is predicted above it, as in the benchmark
Rows = dict[str, dict[str, dict[str, Any]]]


class Keyframe(NamedTuple):
    """A small JPEG as a data URI, and its description."""

    image: str
    alt: str


class Predictions(NamedTuple):
    """Predictions of one encoder's probes, by task and scene."""

    encoder: str
    rows: Rows


def read_predictions(result: Path) -> Rows:
    """Rows of `NAME.predictions.parquet` beside `NAME.json`, by task and scene; none if there is no such file.

    Raises:
        StorageError: the file cannot be read, or lacks columns.
    """
    path = result.with_name(f"{result.stem}.predictions.parquet")
    if not path.exists():
        return {}
    rows: Rows = {}
    try:
        for row in pq.read_table(path).to_pylist():
            rows.setdefault(row["task"], {})[row["scene_id"]] = row
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path}: no predictions of eval.probe ({error!r}); write them anew or remove it") from None
    return rows


class SceneKeyframes:
    """Keyframes of labeled scenes, from shots datasets or a folder of photographs.

    Args:
        shots: folders of `shots` datasets; a film is read from the first that has it.
        embeddings: folders of `scene_embeddings`, which tell the film and shots of each scene.
        pictures: folder of photographs; a scene's id is its picture's path in it.

    Attributes:
        left_out: numbers of scenes and shots without keyframes, by reason; reset it before each task.

    Raises:
        StorageError: no finished dataset.
    """

    def __init__(self, shots: Sequence[Path] = (), embeddings: Sequence[Path] = (), pictures: Path | None = None):
        self.pictures = pictures
        self.left_out: Counter[str] = Counter()
        self.films: dict[str, tuple[FilmDataset, StoredFilm]] = {}
        for folder in shots:
            dataset = finished(folder, "shots")
            films = dataset.films()
            for name, movie_ids in films_by_name(films).items():
                if len(movie_ids) == 1:
                    self.films.setdefault(name, (dataset, films[movie_ids[0]]))
        self.places: dict[str, tuple[str, int, int]] = {}
        for folder in embeddings:
            dataset = FilmDataset(folder, "scene_embeddings")
            if not dataset.record.get("complete"):
                raise StorageError(f"{folder}: no finished scene_embeddings dataset; run python -m eval.embed_scenes")
            columns = dataset.read(["scene_id", "movie_id", "first_shot", "num_shots"]).to_pydict()
            for scene_id, *place in zip(*columns.values(), strict=True):
                self.places.setdefault(scene_id, tuple(place))

    def __bool__(self) -> bool:
        """Whether there is any source of pictures."""
        return bool(self.films or self.pictures)

    def scene(self, scene_id: str, most: int = SHOTS_PER_SCENE) -> list[Keyframe]:
        """Up to `most` keyframes, evenly spaced over the scene; none if the scene is left out and counted."""
        if self.pictures and (path := self._photograph(scene_id)):
            found = [_keyframe(path.read_bytes(), f"scene {scene_id}")]
        elif scene_id not in self.places:
            self.left_out["scenes that neither embeddings nor photographs name"] += 1
            return []
        else:
            movie_id, first_shot, num_shots = self.places[scene_id]
            found = list(self.shots(movie_id, evenly_spaced(first_shot, num_shots, most) if num_shots else []))
        self.count_missing(found)
        return [keyframe for keyframe in found if keyframe]

    def count_missing(self, found: Sequence[Keyframe | None]) -> None:
        """Count the missing keyframes of a scene or film; if all are missing, count it as a whole."""
        if not any(found):
            self.left_out["scenes or films without a readable keyframe"] += 1
        elif missing := list(found).count(None):
            self.left_out["single keyframes that are missing or not readable"] += missing

    def _photograph(self, scene_id: str) -> Path | None:
        assert self.pictures
        path = (self.pictures / scene_id).resolve()
        return path if path.is_relative_to(self.pictures.resolve()) and path.is_file() else None

    def shots(self, movie_id: str, shots: Sequence[int]) -> Iterator[Keyframe | None]:
        """The middle keyframe of each shot in `shots`; None if it has none."""
        dataset, film = self.films.get(movie_id, (None, None))
        for shot in shots:
            if dataset is None or film is None or not 0 <= shot < film.num_rows:
                yield None
                continue
            (row,) = next(iter(dataset.read_film(film, shot, 1))).to_pylist()
            stored = row["keyframes"]
            alt = f"film {movie_id}, shot {shot}, {timecode(row['start_seconds'])}"
            yield _keyframe(stored[(len(stored) - 1) // 2]["bytes"], alt) if stored else None

    def shot_ends(self, movie_id: str) -> np.ndarray | None:
        """End of each shot of a film in seconds, (shots,); None for a film without shots."""
        if movie_id not in self.films:
            return None
        _, film = self.films[movie_id]
        ends = pq.read_table(film.path, columns=["end_seconds"])["end_seconds"]
        return ends.slice(film.first_row, film.num_rows).to_numpy()


def _keyframe(content: bytes, alt: str) -> Keyframe | None:
    """A small copy of a picture; None if it cannot be decoded."""
    try:
        picture = Image.open(BytesIO(content)).convert("RGB")
    except Exception:  # Pillow's decoders raise errors of many kinds on broken bytes
        return None
    picture.thumbnail(THUMBNAIL)
    return Keyframe("data:image/jpeg;base64," + base64.b64encode(encode(picture, "JPEG")).decode(), alt)


def task_pictures(
    name: str,
    task: Mapping[str, Any],
    has_boundaries: bool,
    predictions: Sequence[Predictions],
    keyframes: SceneKeyframes,
    seed: int,
) -> dict[str, Any]:
    """Pictures of a task for the page: `queries`, `scenes` or `films`, and numbers of left-out scenes by reason.

    Boundaries of films are drawn even without media. Only the first two encoders are shown.

    Returns:
        Empty without media, unless the task has boundaries.
    """
    if not keyframes and not has_boundaries:
        return {}
    keyframes.left_out = Counter()
    there = [Predictions(each.encoder, each.rows[name]) for each in predictions if each.rows.get(name)]
    there = there[:ENCODERS_BESIDE]
    pictures: dict[str, Any] = {"queries": [], "scenes": [], "films": []}
    if not there:
        keyframes.left_out["tasks without a file of predictions"] += 1
    elif has_boundaries:
        pictures["films"] = list(boundary_films(there, keyframes, seed))
    elif any(row["neighbors"] for row in there[0].rows.values()):
        pictures["queries"] = list(retrieved(there, task["classes"], keyframes, seed))
    else:
        pictures["scenes"] = list(predicted(there, task, keyframes, seed))
    return {**pictures, "left_out": dict(keyframes.left_out)}


def class_name(classes: Sequence[str], index: int) -> str:
    return (classes[index] if index < len(classes) else "") or f"class {index}"


def retrieved(
    predictions: Sequence[Predictions], classes: Sequence[str], keyframes: SceneKeyframes, seed: int
) -> Iterator[dict[str, Any]]:
    """At most six queries, one per class, each with the nearest scenes that each encoder finds."""
    random, shown = np.random.default_rng(seed), set()
    for scene_id in random.permutation(_common(predictions)).tolist():
        query = predictions[0].rows[scene_id]
        if len(shown) == min(MOST_SCENES, len(classes)) or shown & set(query["label"]):
            continue
        if not (found := keyframes.scene(scene_id, RETRIEVAL_SHOTS)):
            continue
        shown.update(query["label"])
        yield {
            "scene_id": scene_id,
            "truth": [class_name(classes, index) for index in query["label"]],
            "keyframes": found,
            "encoders": [
                {"name": encoder, "neighbors": _neighbors(rows[scene_id], query["label"], classes, keyframes)}
                for encoder, rows in predictions
            ],
        }


def _neighbors(
    row: Mapping[str, Any], truth: Sequence[int], classes: Sequence[str], keyframes: SceneKeyframes
) -> list[dict[str, Any]]:
    """The nearest scenes; their classes are known only if the predictions have the column `neighbor_labels`."""
    labels = row.get("neighbor_labels") or [None] * len(row["neighbors"])
    return [
        {
            "class": "class not recorded" if index is None else class_name(classes, index),
            "is_right": None if index is None else index in truth,
            "keyframes": keyframes.scene(scene_id, RETRIEVAL_SHOTS),
        }
        for scene_id, index in list(zip(row["neighbors"], labels, strict=True))[:NEIGHBORS]
    ]


def predicted(
    predictions: Sequence[Predictions], task: Mapping[str, Any], keyframes: SceneKeyframes, seed: int
) -> Iterator[dict[str, Any]]:
    """Six test scenes: if possible, three that the first encoder's probe predicts correctly and three wrong ones."""
    first, scenes = predictions[0].rows, np.random.default_rng(seed).permutation(_common(predictions)).tolist()
    scenes = [scene_id for scene_id in scenes if all(rows[scene_id]["scores"] for _, rows in predictions)]
    right = [scene_id for scene_id in scenes if _is_right(first[scene_id])]
    wrong = [scene_id for scene_id in scenes if not _is_right(first[scene_id])]
    half = MOST_SCENES // 2
    span = _span([row for _, rows in predictions for row in rows.values()]) if task["problem"] == "regression" else None
    found: dict[str, list[Keyframe]] = {}
    for some, most in ((wrong, half), (right, MOST_SCENES), (wrong, MOST_SCENES)):
        for scene_id in some:
            if len(found) == most:
                break
            if scene_id not in found and (strip := keyframes.scene(scene_id)):
                found[scene_id] = strip
    for scene_id, strip in found.items():
        yield {
            "scene_id": scene_id,
            "keyframes": strip,
            "truth": [class_name(task["classes"], index) for index in first[scene_id]["label"]],
            "value": _on_span(first[scene_id]["value"], span) if span else None,
            "encoders": [
                {
                    "name": encoder,
                    "is_right": None if span else _is_right(rows[scene_id]),
                    "value": _on_span(rows[scene_id]["scores"][0], span) if span else None,
                    "bars": [] if span else _bars(rows[scene_id], task["classes"]),
                }
                for encoder, rows in predictions
            ],
        }


def _common(predictions: Sequence[Predictions]) -> list[str]:
    """Scenes with predictions by every encoder, sorted."""
    return sorted(set.intersection(*(set(each.rows) for each in predictions)))


def _is_right(row: Mapping[str, Any]) -> bool:
    """Whether the most probable class is one of the scene's."""
    return int(np.argmax(row["scores"])) in row["label"]


def _bars(row: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most probable classes."""
    order = np.argsort(-np.array(row["scores"]), kind="stable")[:MOST_CLASSES].tolist()
    return [
        {"class": class_name(classes, index), "share": row["scores"][index], "is_true": index in row["label"]}
        for index in order
    ]


def _span(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Lowest and highest of all true and predicted values."""
    values = np.array([value for row in rows for value in (row["value"], *row["scores"][:1])])
    return float(values.min()), float(values.max())


def _on_span(value: float, span: tuple[float, float]) -> tuple[float, float]:
    """A value, and its position between the lowest (0) and the highest (1)."""
    low, high = span
    return value, (value - low) / ((high - low) or 1)


def boundary_films(
    predictions: Sequence[Predictions], keyframes: SceneKeyframes, seed: int
) -> Iterator[dict[str, Any]]:
    """Two test films, with each encoder's probability of a boundary after each shot, hits, misses and false alarms.

    Positions are shares of the film, by time if its shots are known, else by number of shots.
    """
    films: dict[str, list[str]] = {}
    for scene_id in sorted(_common(predictions), key=_shot):
        films.setdefault(predictions[0].rows[scene_id]["movie_id"], []).append(scene_id)
    for movie_id in np.random.default_rng(seed).permutation(sorted(films)).tolist()[:MOST_FILMS]:
        scene_ids, ends = films[movie_id], keyframes.shot_ends(movie_id)
        last = _shot(scene_ids[-1])
        if ends is not None and last >= len(ends):
            keyframes.left_out["films with fewer shots than labels"] += 1
            ends = None
        if ends is None:
            strip: list[Keyframe | None] = []
            places, duration = np.arange(1, last + 2) / (last + 2), f"{last + 1} labeled shots"
            if keyframes:
                keyframes.left_out["films without shots"] += 1
        else:
            strip = list(keyframes.shots(movie_id, evenly_spaced(0, len(ends))))
            keyframes.count_missing(strip)
            places, duration = ends / ends[-1], timecode(ends[-1])
        x = [float(places[_shot(scene_id)]) for scene_id in scene_ids]
        true = [bool(predictions[0].rows[scene_id]["label"][0]) for scene_id in scene_ids]
        yield {
            "movie_id": movie_id,
            "duration": duration,
            "keyframes": [keyframe for keyframe in strip if keyframe],
            "truth": [place for place, is_true in zip(x, true, strict=True) if is_true],
            "encoders": [
                {"name": encoder, **timeline(x, true, [rows[scene_id]["scores"][-1] for scene_id in scene_ids])}
                for encoder, rows in predictions
            ],
        }


def _shot(scene_id: str) -> int:
    """The shot's number, e.g. 12 for `tt0217505/0012`."""
    return int(scene_id.rpartition("/")[2])


def timeline(places: Sequence[float], true: Sequence[bool], scores: Sequence[float]) -> dict[str, Any]:
    """Probabilities by position; hits, misses and false alarms as positions and probabilities."""
    marks: dict[str, list[tuple[float, float]]] = {"hits": [], "misses": [], "false_alarms": []}
    for place, is_true, score in zip(places, true, scores, strict=True):
        if is_true or score > THRESHOLD:
            kind = ("hits" if score > THRESHOLD else "misses") if is_true else "false_alarms"
            marks[kind].append((place, score))
    return {"probabilities": list(zip(places, scores, strict=True)), **marks}
