"""Shared by the experiments on film worlds: running commands, the truth about shots, agreement of pairs, averages."""

import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_scripts.world_plan import LIGHT_TYPES
from modeling_m2s.storage_m2s import StorageError, write_json

LABELS = ("theme", "place", "event", "light")
Truth = dict[str, list[dict[str, str]]]


class TrueScene(NamedTuple):
    """A scene of a film's plan: some neighboring shots with one place and one event."""

    movie_id: str
    first_shot: int
    num_shots: int
    place: str
    event: str = ""


def prepare(folder: Path, seed: int, num_films: int, film_seconds: float) -> None:
    """Make a world in `folder/world`, its catalog, and the features of its shots."""
    for module, words, name in preparation(folder, seed, num_films, film_seconds):
        run(module, *words, output=folder / name)


def preparation(folder: Path, seed: int, num_films: int, film_seconds: float) -> list[tuple[str, list[Any], str]]:
    """The commands of `prepare`: module, arguments, and the name of the output in `folder`."""
    world = ["--num-films", num_films, "--film-seconds", film_seconds]
    return [
        ("data_scripts.make_film_world", ["--keyframes-only", "true", "--seed", seed, *world], "world"),
        ("data_scripts.make_catalog", ["--metadata", folder / "world/metadata"], "movies"),
        ("data_scripts.extract_features", ["--shots", folder / "world/shots"], "shot_features"),
    ]


def run(module: str, *words: Any, output: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command of the project; its printed output goes into a file beside `output`.

    Args:
        environment: variables to set besides those of this process.

    Raises:
        ValueError: the command failed; the message has its last line.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_name(f"{output.name}.log")
    print(f"{module} → {output}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", module, *map(str, words), "--output", str(output)]
    with open(log, "w", encoding="utf-8") as file:
        variables = {**os.environ, **(environment or {})}
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=variables).returncode
    if status:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise ValueError(f"{' '.join(command)} ended with {status}: {lines[-1] if lines else 'it printed nothing'}")


def run_once(module: str, *words: Any, output: Path, environment: Mapping[str, str] | None = None) -> None:
    """`run`, unless its output exists already, so that a second run of an experiment skips finished commands.

    The command is saved beside the output as `NAME.done.json`. A finished output without that file is used as it is.
    An input folder that was made again in the meantime is not noticed: remove everything that was made from it as well.

    Raises:
        StorageError: the output was made by another command, or from a recipe or list with other content.
        ValueError: the command failed; the message has its last line.
    """
    record = output.with_name(f"{output.name}.done.json")
    done = {"command": [module, *(_described(word, output.parent) for word in words)]}
    if record.exists() and is_finished(output):
        if (found := json.loads(record.read_text(encoding="utf-8"))) != done:
            raise StorageError(
                f"{output} was made by {' '.join(found['command'])}, not by {' '.join(done['command'])}; remove it "
                "with what was made from it, or use another folder"
            )
        return
    if is_finished(output):
        print(f"{output} is taken as it is", file=sys.stderr, flush=True)
        return
    run(module, *words, output=output, environment=environment)
    write_json(record, done)


def _described(word: Any, folder: Path) -> str:
    """A command's argument for its record: files with a hash of their content, folders relative to the output."""
    if not isinstance(word, Path):
        return str(word)
    if word.is_file():
        return f"{word.name}:{hashlib.sha256(word.read_bytes()).hexdigest()[:12]}"
    return os.path.relpath(word, folder)


def is_finished(output: Path) -> bool:
    """Whether a dataset, a world, a training run or a file of results is complete."""
    if output.is_file():
        return True
    if (output / "m2s.json").exists():
        return bool(json.loads((output / "m2s.json").read_text(encoding="utf-8")).get("complete"))
    # train_mil and train_moco write results.json last, make_film_world truth/shots.csv.
    return (output / "results.json").exists() or (output / "truth/shots.csv").exists()


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


def shares(
    pairs: list[dict[str, Any]], truth: Truth, held_out_films: Iterable[str] = ()
) -> dict[str, dict[str, float]]:
    """Share of scene pairs with the same label, among all pairs and among pairs of two held-out films."""
    held_out = set(held_out_films)
    chosen = {
        "all": pairs,
        "held_out": [pair for pair in pairs if {pair["movie_id_a"], pair["movie_id_b"]} <= held_out],
    }
    return {
        name: {
            "scene_pairs": len(each),
            **{label: round(statistics.fmean(_agree(pair, truth, label) for pair in each), 4) for label in LABELS},
        }
        for name, each in chosen.items()
        if each
    }


def _agree(pair: dict[str, Any], truth: Truth, label: str) -> bool:
    a, b = (
        most_frequent(shot[label] for shot in truth[pair[f"movie_id_{side}"]][first : first + pair["num_shots"]])
        for side, first in (("a", pair["first_shot_a"]), ("b", pair["first_shot_b"]))
    )
    return a == b


def most_frequent(labels: Iterable[str]) -> str:
    """The most frequent label, or the first of equally frequent ones."""
    return Counter(labels).most_common(1)[0][0]


def summarize(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every number that all seeds have."""

    def merge(values: list[Any]) -> Any:
        if all(isinstance(value, dict) for value in values):
            return {name: merge([value[name] for value in values]) for name in values[0] if _in_all(name, values)}
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"mean": round(statistics.fmean(values), 4), "deviation": round(spread, 4)}

    return merge(seeds)


def _in_all(name: str, values: list[dict[str, Any]]) -> bool:
    return all(name in value for value in values)
