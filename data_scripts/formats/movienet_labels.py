"""MovieNet's labels: scene boundaries of 318 films, and places of scenes.

label318/tt0217505.txt        one line per shot: `0003 1`; 1 if a scene ends after it, −1 if that is uncertain
shot_movie318/tt0217505.txt   one line per shot: first and last frame, the frames of its three keyframes
meta/split318.json            {"train": ["tt…", …], "val": […], "test": […], "all": […]}
annotation/tt0217505.json     {"scene": [{"id": "tt0217505_0000", "shot": [0, 1], "place_tag": …, …}, …], …}
movie1K.split.v1.json         as split318.json, for all 1,100 films
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_scripts.catalog.film_names import is_imdb_id
from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.formats.label_files import SPLIT_NAMES, LabelRow, gather, label_errors, read_json_file
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError, Split
from data_scripts.shots.movienet_keyframes import read_shot_list
from data_scripts.stages.text_files import MetadataError, text_lines

PARTS = ("train", "val", "test")
# Uncertain boundaries count as boundaries, as with LGSS, BaSSL and the paper's other comparisons.
IS_BOUNDARY = {"0": False, "1": True, "-1": True}


def film_ids_by_part(path: Path, parts: Sequence[str] = PARTS) -> dict[str, list[str]]:
    """IMDb ids of the parts of MovieNet's split files.

    Raises:
        MetadataError: another kind of file.
    """
    content = read_json_file(path)
    found = {part: content.get(part) if isinstance(content, dict) else None for part in parts}
    if not all(isinstance(ids, list) and all(map(is_imdb_id, ids)) for ids in found.values()):
        raise MetadataError(
            f"{path}: expected lists of IMDb ids under {', '.join(parts[:-1])} and {parts[-1]}, "
            "as in movie1K.split.v1.json"
        )
    return found


def film_splits(path: Path) -> dict[str, Split]:
    """Split of each film.

    Raises:
        LabelError: a film is in two splits.
        MetadataError: as `film_ids_by_part`.
    """
    splits: dict[str, Split] = {}
    for part, movie_ids in film_ids_by_part(path).items():
        for movie_id in movie_ids:
            if splits.setdefault(movie_id, SPLIT_NAMES[part]) != SPLIT_NAMES[part]:
                raise LabelError(f"{path}: {movie_id} is in {splits[movie_id]} and in {part}; take one of them out")
    return splits


@label_errors()
def read_scene_boundaries(folder: Path) -> list[FilmBoundaries]:
    """The boundaries of the films of the extracted `scene318`, in the order of their ids.

    Raises:
        LabelError: a film has labels but no split, or a split but no labels; a file that is not as described above.
    """
    splits = film_splits(folder / "meta/split318.json")
    _check_films({path.stem for path in (folder / "label318").glob("*.txt")}, splits, folder / "label318")
    films = []
    for movie_id, split in sorted(splits.items()):
        shot_list = folder / "shot_movie318" / f"{movie_id}.txt"
        try:
            frames_S2 = np.array(read_shot_list(shot_list))[:, :2]
        except ValueError as error:
            raise LabelError(f"{shot_list}, {error}") from None
        labels_M = _boundary_labels(folder / "label318" / f"{movie_id}.txt")
        films.append(FilmBoundaries(movie_id, split, labels_M, frames_S2))
    return films


def _check_films(labeled: set[str], splits: dict[str, Split], folder: Path) -> None:
    if unknown := sorted(labeled - splits.keys()):
        raise LabelError(f"{folder}: {unknown[0]} is labeled, but in no split; is the split file of another release?")
    if missing := sorted(splits.keys() - labeled):
        raise LabelError(
            f"{folder}: {missing[0]} and {len(missing) - 1} more films of the split have no file; extract all of them"
        )


def _boundary_labels(path: Path) -> np.ndarray:
    labels = []
    for number, line in enumerate(text_lines(path)):
        words = line.split()
        if len(words) != 2 or words[0] != f"{number:04d}" or words[1] not in IS_BOUNDARY:
            raise LabelError(
                f"{path}, line {number + 1}: {line[:80]!r} is not the shot's number {number:04d} and -1, 0 or 1"
            )
        labels.append(IS_BOUNDARY[words[1]])
    return np.array(labels, bool)


class TaggedScene(NamedTuple):
    """A scene of an annotation, with its shots as the file gives them."""

    scene_id: str
    shots: tuple[int, int]
    tags: frozenset[str]


@label_errors()
def read_place_tags(annotation: Path, split: Path, min_count: int = 25) -> LabeledScenes:
    """Places of scenes, several per scene.

    The classes are all places of at least `min_count` scenes in all splits, in alphabetical order; the paper's release
    has 90. A scene without one of them is left out: its tags are too rare, or it was not tagged. MovieNet does not say
    whether the second number of a scene's shots is its last shot or the first after it. The reading that fits most
    neighboring scenes is used for all.

    Args:
        annotation: folder with one JSON file per film.
        split: `movie1K.split.v1.json` or `split318.json`.

    Raises:
        LabelError: a tagged film without split, a film of the split without annotation, an entry of another form.
    """
    splits = film_splits(split)
    paths = {path.stem: path for path in sorted(annotation.glob("tt*.json"))}
    films = {movie_id: list(_tagged_scenes(path)) for movie_id, path in paths.items()}
    tagged = {movie_id for movie_id, scenes in films.items() if any(scene.tags for scene in scenes)}
    _check_films(tagged | (films.keys() & splits.keys()), splits, annotation)
    counts = Counter(tag for scenes in films.values() for scene in scenes for tag in scene.tags)
    classes = sorted(tag for tag, count in counts.items() if count >= min_count)
    last_is_inside = _last_is_inside(films.values())
    rows = []
    for movie_id in sorted(tagged):
        for scene in films[movie_id]:
            place = f"{paths[movie_id]}, scene {scene.scene_id}"
            first, num_shots = scene.shots[0], scene.shots[1] - scene.shots[0] + last_is_inside
            if first < 0 or num_shots < 1:
                raise LabelError(
                    f"{place}: there is no shot from {scene.shots[0]} to {scene.shots[1]}; correct or drop it"
                )
            if label := [index for index, name in enumerate(classes) if name in scene.tags]:
                where = LabeledScene(scene.scene_id, movie_id, movie_id, splits[movie_id], shots=(first, num_shots))
                rows.append(LabelRow(place, where, label))
    return gather("movienet/place", "multi_label_classification", rows, classes)


def _tagged_scenes(path: Path) -> Iterator[TaggedScene]:
    """All scenes of a film's annotation; none if it has null."""
    content = read_json_file(path)
    for number, scene in enumerate((content.get("scene") if isinstance(content, dict) else None) or ()):
        try:
            first, last = map(int, scene["shot"])
            tags = scene["place_tag"] or []
            names = [tag.strip() for tag in ([tags] if isinstance(tags, str) else tags)]
            yield TaggedScene(str(scene["id"]), (first, last), frozenset(filter(None, names)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelError(
                f"{path}, scene {number}: expected id, shot: [first, last], and place_tag: null, a name or names "
                f"({error!r})"
            ) from None


def _last_is_inside(films: Iterable[list[TaggedScene]]) -> bool:
    """Whether most scenes begin one shot after the second number of the scene before, not at that number."""
    gaps = Counter(after.shots[0] - before.shots[1] for scenes in films for before, after in pairwise(scenes))
    return gaps[1] > gaps[0]
