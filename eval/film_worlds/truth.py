"""The truth about a film world: its scenes, and the labels that the scenes of a pair share."""

import csv
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from data_scripts.film_world.plan import LIGHT_TYPES

LABELS = ("theme", "place", "event", "light")
Truth = dict[str, list[dict[str, str]]]


class TrueScene(NamedTuple):
    """A scene of a film's plan: some neighboring shots with one place and one event."""

    movie_id: str
    first_shot: int
    num_shots: int
    place: str
    event: str = ""


def read_truth(path: Path) -> Truth:
    """For each film, the true labels of its shots: scene, place, event, light, and the film's theme.

    Args:
        path: `truth/shots.csv` of a world; themes are in `films.csv` beside it.
    """
    with open(path.with_name("films.csv"), newline="", encoding="utf-8") as file:
        themes = {row["movie_id"]: row["theme"] for row in csv.DictReader(file)}
    films = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            light = next((kind for kind in LIGHT_TYPES if kind in row["types"].split("|")), "day")
            labels = {name: row[name] for name in ("scene", "place", "event")}
            films[row["movie_id"]].append({**labels, "light": light, "theme": themes[row["movie_id"]]})
    return dict(films)


def true_scenes(truth: Truth, movie_ids: Iterable[str]) -> list[TrueScene]:
    """All scenes of the films, in order; a scene is a run of shots with the same scene label."""
    scenes = []
    for movie_id in movie_ids:
        shots, first = truth[movie_id], 0
        for shot in range(1, len(shots) + 1):
            if shot == len(shots) or shots[shot]["scene"] != shots[first]["scene"]:
                labels = shots[first]["place"], shots[first]["event"]
                scenes.append(TrueScene(movie_id, first, shot - first, *labels))
                first = shot
    return scenes


def shares(pairs: list[dict[str, Any]], truth: Truth) -> dict[str, float]:
    """The number of scene pairs, and the share of them with the same label, for each kind of label."""
    agree = {label: statistics.fmean(_agree(pair, truth, label) for pair in pairs) for label in LABELS}
    return {"scene_pairs": len(pairs), **{label: round(share, 4) for label, share in agree.items()}}


def _agree(pair: dict[str, Any], truth: Truth, label: str) -> bool:
    a, b = (
        most_frequent(shot[label] for shot in truth[pair[f"movie_id_{side}"]][first : first + pair["num_shots"]])
        for side, first in (("a", pair["first_shot_a"]), ("b", pair["first_shot_b"]))
    )
    return a == b


def most_frequent(labels: Iterable[str]) -> str:
    """The most frequent label, or the first of equally frequent ones."""
    return Counter(labels).most_common(1)[0][0]
