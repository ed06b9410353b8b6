"""The page of `eval.training_report`: what it shows, and how it is drawn."""

import base64
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from data_scripts.mining.atlas import draw, page_environment, read_atlas, scene_pair
from data_scripts.mining.scenes import WINDOW
from data_scripts.stages.inputs import finished
from eval.film_worlds.retrieval import Embed, boundary_scores, encoder_of, fit_whitening, read_films
from eval.film_worlds.truth import LABELS, TrueScene, Truth, read_truth, shares, true_scenes
from eval.reports.pictures import NEIGHBORS, RETRIEVAL_SHOTS, SceneKeyframes, timeline
from eval.training_report import TrainingReportArguments
from modeling_m2s.figures_m2s import BACKGROUND, FAINT, timecode
from modeling_m2s.storage_m2s import FilmDataset, StoredFilm, atomic_write, read_json
from modeling_m2s.whitening_m2s import Whitening

TEMPLATES = Path(__file__).parent / "templates"
BEFORE, AFTER = "before training", "after training"
MOST_AXES = 64
PAIRS_SHOWN, QUERIES, BOUNDARY_FILMS, FILMS_COLORED = 6, 6, 2, 10
MINED_BY = {
    "model": "learned similarity",
    "features": "frozen features",
    "whitened": "frozen features, whitened",
    "both": "learned similarity and whitened features, side by side",
    "random": "chance",
}
FIGURES = {
    "raw/precision_at_1": "P@1 raw",
    "centered/precision_at_1": "P@1 centered",
    "whitened/precision_at_1": "P@1 whitened",
    "whitened/precision_at_5": "P@5 whitened",
    "whitened/average_precision": "mAP whitened",
    "probe": "place by a linear probe",
    "boundaries": "boundaries, AP",
}


class Shown(NamedTuple):
    """The scenes on the page, with unit embeddings (scenes, D) before and after training."""

    scenes: list[TrueScene]
    embeddings: dict[str, np.ndarray]


def write_training_report(arguments: TrainingReportArguments) -> None:
    """Write the page.

    Raises:
        ValueError: fewer than 20 scenes to show, or no such encoder.
        StorageError: a dataset or record cannot be used.
    """
    results = read_json(arguments.run / "results.json")
    truth = read_truth(arguments.world / "truth/shots.csv") if arguments.world else None
    scenes = draw_scenes(arguments, truth)
    encoders = {BEFORE: arguments.before or results["recipe"]["model"], AFTER: str(arguments.run / "model")}
    mode = results["recipe"]["position_interpolation"]
    embeds = {name: encoder_of(model, mode, arguments.shots, True) for name, model in encoders.items()}
    vectors = {name: embed(scenes) for name, embed in embeds.items()}
    # Fewer axes than scenes, so that several scenes estimate the variance of each axis.
    axes = min(MOST_AXES, len(scenes) // 4)
    whitenings = {name: fit_whitening(each, axes) for name, each in vectors.items()}
    shown = Shown(scenes, {name: unit(whitenings[name].apply(each)) for name, each in vectors.items()})
    keyframes = SceneKeyframes([arguments.shots])
    page = (
        page_environment(TEMPLATES)
        .get_template("training_report.html")
        .render(
            title=arguments.run.resolve().name,
            world=bool(truth),
            facts=facts(arguments, results),
            pairs=mined_pairs(arguments, truth),
            curves=curves(arguments),
            maps=maps(shown, bool(truth), arguments.seed),
            queries=queries(shown, bool(truth), keyframes, arguments.seed),
            retrieval_shots=RETRIEVAL_SHOTS,
            films=boundary_films(embeds, whitenings, scenes, truth, keyframes, arguments.seed) if truth else [],
            table=measured_table(arguments.measured),
            columns=list(FIGURES.values()),
            minutes=read_minutes(arguments.seconds),
            recipe=results["recipe"],
            made_with=results["made_with"],
        )
    )
    with atomic_write(arguments.output) as file:
        file.write(page.encode())
    print(f"{len(scenes)} scenes before and after in {arguments.output}, {len(page.encode()) / 1e6:.1f} MB")
    print(f"next: open {arguments.output} in a browser")


def draw_scenes(arguments: TrainingReportArguments, truth: Truth | None) -> list[TrueScene]:
    """Random scenes, in the order of films: true scenes in a film world, else windows of nine shots.

    Raises:
        ValueError: there are fewer than 20 scenes, none of a second film, or a film is not in the shots dataset.
    """
    stored = finished(arguments.shots, "shots").films()
    chosen = sorted(read_films(arguments.films) if arguments.films else stored)
    if missing := [movie_id for movie_id in chosen if movie_id not in stored]:
        raise ValueError(f"{arguments.films} names film {missing[0]}, which {arguments.shots} does not have")
    scenes = true_scenes(truth, chosen) if truth else windows(stored, chosen)
    if len(scenes) < 20:
        raise ValueError(f"{len(chosen)} films have {len(scenes)} scenes; a map needs at least 20: name more films")
    random = np.random.default_rng(arguments.seed)
    drawn = random.choice(len(scenes), size=min(arguments.num_scenes, len(scenes)), replace=False)
    found = [scenes[place] for place in sorted(drawn.tolist())]
    if len({scene.movie_id for scene in found}) < 2:
        raise ValueError(f"all scenes are of film {found[0].movie_id}; neighbors are sought in other films: name more")
    return found


def windows(stored: Mapping[str, StoredFilm], movie_ids: Sequence[str]) -> list[TrueScene]:
    """Consecutive windows of nine shots each, as scenes without labels."""
    return [
        TrueScene(movie_id, first, WINDOW, "")
        for movie_id in movie_ids
        for first in range(0, stored[movie_id].num_rows - WINDOW + 1, WINDOW)
    ]


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)


def facts(arguments: TrainingReportArguments, results: Mapping[str, Any]) -> dict[str, str]:
    """The inputs of the training, one line each."""
    counts, films = results["counts"], finished(arguments.shots, "shots").films()
    pairs = finished(arguments.pairs, "scene_pairs")
    mined = pairs.record["settings"]
    sources = Counter(pairs.read(["source"])["source"].to_pylist())
    found = {
        "films with shots": f"{len(films):,}",
        "shots": f"{sum(film.num_rows for film in films.values()):,}",
        "films with pairs": f"{counts['films']:,}",
        "scene pairs": ", ".join(
            f"{count:,} of films similar by {source.replace('+', ' and ')}" for source, count in sorted(sources.items())
        ),
        "pairs mined by": MINED_BY.get(mined.get("space"), str(mined.get("space"))),
        "encoder before": str(results["recipe"]["model"]),
        "steps": f"{results['steps']:,} of {results['recipe']['batch_size']} pairs",
        "objective": results["recipe"]["objective"].replace("_", "-"),
    }
    if arguments.mil:
        similarity = read_json(arguments.mil / "results.json")
        if similarity.get("held_out"):
            trivial = similarity["baselines"]["mean_features_cosine"]["auc"]
            found["film similarity"] = (
                f"AUC {similarity['held_out']['auc']:.3f} on held-out films, where the cosine of mean features has "
                f"{trivial:.3f}"
            )
    guard = results.get("leak_guard") or {}
    found["films of benchmarks"] = (
        f"{guard['num_listed']:,} listed, {sum(guard['excluded'].values()):,} left out"
        if guard.get("lists")
        else "no list was given to leave out"
    )
    return found


def mined_pairs(arguments: TrainingReportArguments, truth: Truth | None) -> dict[str, Any]:
    """A few pairs, spread evenly over the scores, as strips of keyframes; in a film world also the agreement."""
    atlas = read_atlas(arguments.pairs, arguments.shots)
    shots = FilmDataset(arguments.shots, "shots")
    drawn = draw(atlas.scores, PAIRS_SHOWN, arguments.seed)
    pairs = [scene_pair(atlas, shots, index, rank + 1) for rank, index in enumerate(drawn)]
    agree: dict[str, float] = {}
    if truth:
        rows = FilmDataset(arguments.pairs, "scene_pairs").read().to_pylist()
        found = shares(rows, truth)
        agree = {label: found[label] for label in LABELS}
        for pair, index in zip(pairs, drawn, strict=True):
            same = shares([rows[index]], truth)
            pair["same"] = [label for label in LABELS if same[label]]
    return {"shown": pairs, "count": len(atlas.scores), "agree": agree}


def curves(arguments: TrainingReportArguments) -> list[tuple[str, str]]:
    """Titles of the curves, and their pictures as data URIs."""
    found = {"Movie similarity": arguments.mil, "Contrast": arguments.run}
    return [
        (title, data_uri((run / "curves.png").read_bytes()))
        for title, run in found.items()
        if run and (run / "curves.png").is_file()
    ]


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def maps(shown: Shown, by_place: bool, seed: int) -> list[dict[str, str]]:
    """t-SNE maps of the scenes before and after training, colored by place (in a film world) and by film."""
    films = np.array([scene.movie_id for scene in shown.scenes])
    places = np.array([scene.place for scene in shown.scenes])
    most, counts = np.unique(films, return_counts=True)
    colored = most[np.argsort(-counts, kind="stable")[:FILMS_COLORED]]
    colorings = {"place": (places, np.unique(places))} if by_place else {}
    colorings["film"] = (films, colored)
    found = []
    for name, vectors_ND in shown.embeddings.items():
        perplexity = min(20.0, (len(films) - 1) / 3)
        points_N2 = TSNE(metric="cosine", perplexity=perplexity, random_state=seed).fit_transform(vectors_ND)
        nearest_N = np.concatenate(nearest(vectors_ND, films, 1))
        for what, (labels, some) in colorings.items():
            if what == "place":
                share = float((places == places[nearest_N]).mean())
                caption = (
                    f"the nearest scene of another film is of the same place for {100 * share:.0f} % of the scenes"
                )
            else:
                caption = f"{len(some)} films have a color each, the others are gray"
            found.append(
                {
                    "title": f"{name.capitalize()}, by {what}",
                    "image": data_uri(draw_map(points_N2, labels, some)),
                    "alt": f"Map of {len(films)} scenes {name}, colored by {what}; {caption}.",
                    "caption": caption[0].upper() + caption[1:] + ".",
                }
            )
    return found


def draw_map(points_N2: np.ndarray, labels: np.ndarray, colored: np.ndarray) -> bytes:
    """A PNG, 800 pixels wide, with one dot per scene; labels that are not in `colored` are gray."""
    figure = Figure((4, 3.2), 200, facecolor=BACKGROUND, layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    others = ~np.isin(labels, colored)
    axes.scatter(*points_N2[others].T, s=7, color=FAINT, alpha=0.35, linewidths=0)
    palette = colormaps["tab20"] if len(colored) > 10 else colormaps["tab10"]
    for number, label in enumerate(colored):
        axes.scatter(*points_N2[labels == label].T, s=14, color=palette(number % palette.N), linewidths=0)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def nearest(vectors_ND: np.ndarray, films: np.ndarray, count: int) -> list[list[int]]:
    """For each scene, the numbers of the nearest `count` scenes in other films, or all if there are fewer."""
    similarity_NN = vectors_ND @ vectors_ND.T
    others_NN = films[:, None] != films
    similarity_NN[~others_NN] = -np.inf
    order_NN = np.argsort(-similarity_NN, axis=1, kind="stable")
    return [order[: min(count, others.sum())].tolist() for order, others in zip(order_NN, others_NN, strict=True)]


def queries(shown: Shown, by_place: bool, keyframes: SceneKeyframes, seed: int) -> list[dict[str, Any]]:
    """A few scenes, of different places if places are known, with their nearest scenes before and after training."""
    films = np.array([scene.movie_id for scene in shown.scenes])
    ids = [f"{scene.movie_id}, shot {scene.first_shot}" for scene in shown.scenes]
    for scene_id, scene in zip(ids, shown.scenes, strict=True):
        keyframes.places[scene_id] = (scene.movie_id, scene.first_shot, scene.num_shots)
    found_by = {name: nearest(vectors, films, NEIGHBORS) for name, vectors in shown.embeddings.items()}
    chosen: dict[str, int] = {}
    for number in np.random.default_rng(seed).permutation(len(ids)).tolist():
        scene = shown.scenes[number]
        chosen.setdefault(scene.place if by_place else scene.movie_id, number)
        if len(chosen) == QUERIES:
            break

    def neighbor(query: int, number: int) -> dict[str, Any]:
        place = shown.scenes[number].place
        return {
            "class": f"place {place}" if by_place else ids[number],
            "is_right": place == shown.scenes[query].place if by_place else None,
            "keyframes": keyframes.scene(ids[number], RETRIEVAL_SHOTS),
        }

    return [
        {
            "scene_id": ids[query],
            "truth": [f"place {shown.scenes[query].place}" if by_place else shown.scenes[query].movie_id],
            "keyframes": keyframes.scene(ids[query], RETRIEVAL_SHOTS),
            "encoders": [
                {"name": name, "neighbors": [neighbor(query, number) for number in found[query]]}
                for name, found in found_by.items()
            ],
        }
        for query in chosen.values()
    ]


def boundary_films(
    embeds: Mapping[str, Embed],
    whitenings: Mapping[str, Whitening],
    shown: Sequence[TrueScene],
    truth: Truth,
    keyframes: SceneKeyframes,
    seed: int,
) -> list[dict[str, Any]]:
    """Films with their true boundaries and each encoder's scores: half of (1 minus the cosine) at each cut."""
    movie_ids = sorted({scene.movie_id for scene in shown})
    films = []
    for movie_id in np.random.default_rng(seed).permutation(movie_ids)[:BOUNDARY_FILMS].tolist():
        ends, scenes = keyframes.shot_ends(movie_id), [shot["scene"] for shot in truth[movie_id]]
        assert ends is not None
        places = (ends / ends[-1]).tolist()
        encoders = []
        for name, embed in embeds.items():
            is_boundary, scores = boundary_scores(embed, whitenings[name], movie_id, scenes)
            first = (len(scenes) - len(scores) + 1) // 2 - 1
            cuts = places[first : first + len(scores)]
            encoders.append({"name": name, **timeline(cuts, is_boundary, [score / 2 for score in scores])})
        step = max(1, len(scenes) // 9)
        films.append(
            {
                "movie_id": movie_id,
                "duration": timecode(float(ends[-1])),
                "keyframes": [each for each in keyframes.shots(movie_id, range(0, len(scenes), step)) if each][:9],
                "truth": [places[k] for k in range(len(scenes) - 1) if scenes[k] != scenes[k + 1]],
                "encoders": encoders,
            }
        )
    return films


def measured_table(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """A table with one row per results file; the best value of each column is marked.

    Raises:
        ValueError: the files measured different scenes.
        StorageError: a file cannot be read.
    """
    measured = {path.stem.replace("_", " "): read_json(path) for path in paths}
    scenes = {json.dumps([each["queries"]["movie_id"], each["queries"]["first_shot"]]) for each in measured.values()}
    if len(scenes) > 1:
        raise ValueError(f"{', '.join(map(str, paths))}: measured on different scenes; measure them in the same way")
    best = {
        figure: max(each["figures"][figure]["mean"] for each in measured.values() if figure in each["figures"])
        for figure in FIGURES
        if any(figure in each["figures"] for each in measured.values())
    }
    rows = []
    for name, each in measured.items():
        cells = []
        for figure in FIGURES:
            found = each["figures"].get(figure)
            cells.append(
                None
                if found is None
                else {
                    "mean": f"{100 * found['mean']:.1f}",
                    "error": f"{100 * found['standard_error']:.1f}",
                    "is_best": found["mean"] == best[figure],
                }
            )
        rows.append({"name": name, "cells": cells, "counts": each["counts"], "chance": each["chance"]})
    return rows


def read_minutes(path: Path | None) -> list[tuple[str, float]]:
    """Commands with their durations in minutes.

    Raises:
        ValueError: a line does not begin with a number.
    """
    if path is None:
        return []
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [(row[1], float(row[0]) / 60) for row in csv.reader(file) if row]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}: expected lines of seconds,command ({error})") from error
