"""Figures of a film world that need no learning: the work of `data_scripts.check_film_world`."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_scripts.film_world.making import painter
from data_scripts.film_world.photographs import TRAINING, PhotographSettings, plan_films
from data_scripts.film_world.plan import (
    LIGHT_TYPES,
    SCENE_TYPES,
    SHOT_TYPES,
    PlannedFilm,
    WorldSettings,
    plan_ratings,
    with_frames,
)
from modeling_m2s import M2SSceneModel, M2SSceneProcessor, tiny_model
from modeling_m2s.shots_m2s import detect_shots

SHOTS_PER_SCENE = 9
BATCH_SIZE = 32


def check_film_world(folder: Path, model: str | None = None, photographs: Path | None = None) -> dict[str, Any]:
    """All figures of a world: those on pictures, on viewers, and on cuts if it has videos.

    Raises:
        FileNotFoundError: the folder holds no world.
        ValueError: it holds one film only; it was made of other photographs.
    """
    settings, films, has_videos = read_world(folder, photographs)
    if len(films) < 2:
        raise ValueError(f"{folder}: a world of one film has no other films to compare with")
    pictures = check_pictures(settings, films, model or tiny_model(), photographs)
    figures = {**pictures, "co_watch": check_co_watch(settings, films)}
    return {**figures, "cuts": check_cuts(films, folder / "videos")} if has_videos else figures


def read_world(folder: Path, photographs: Path | None) -> tuple[WorldSettings, list[PlannedFilm], bool]:
    """A world's settings, its films, and whether it has videos.

    Raises:
        FileNotFoundError: the folder holds no world.
        ValueError: it was made of other photographs, or of drawings.
    """
    record = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    has_videos, digest = not record.pop("keyframes_only"), record.pop("photographs", None)
    if bool(digest) != bool(photographs):
        hint = "name their folder by --photographs" if digest else "leave out --photographs"
        raise ValueError(f"{folder} is a world of {'photographs' if digest else 'drawings'}; {hint}")
    source = PhotographSettings(photographs, record.pop("test_share")) if digest else PhotographSettings()
    settings = WorldSettings(**record)
    films, facts = plan_films(settings, source)
    if facts.get("photographs") != digest:
        raise ValueError(f"{folder} was made of other photographs than {photographs} holds")
    return settings, films, has_videos


def contact_sheet(
    settings: WorldSettings, films: Sequence[PlannedFilm], photographs: Path | None = None, columns: int = 8
) -> Image.Image:
    """Every third shot of the first film of each theme, one row per film."""
    size = (settings.width // 2, settings.height // 2)
    films = films[: settings.num_themes]
    sheet = Image.new("RGB", (columns * size[0], len(films) * size[1]))
    for row, film in enumerate(films):
        for column, frame in enumerate(
            itertools.islice(draw_keyframes(settings, film, photographs), 0, 3 * columns, 3)
        ):
            sheet.paste(Image.fromarray(frame).resize(size), (column * size[0], row * size[1]))
    return sheet


def check_cuts(films: Sequence[PlannedFilm], folder: Path) -> dict[str, Any]:
    """Compare the cuts that `m2s embed` detects with the true ones: counts over all films, and F1."""
    counts = np.zeros(3, dtype=int)
    for film in films:
        true = {start for _, start, _ in with_frames(film)} - {0}
        found = {shot.start_frame for shot in detect_shots(folder / f"{film.movie_id}.mp4").shots} - {0}
        counts += len(true & found), len(found - true), len(true - found)
    right, wrong, missed = map(int, counts)
    return {"right": right, "wrong": wrong, "missed": missed, "f1": round(2 * right / (2 * right + wrong + missed), 4)}


def check_co_watch(settings: WorldSettings, films: Sequence[PlannedFilm]) -> dict[str, float]:
    """Mean number of viewers that two films share, for films of one theme and for films of two themes."""
    seen = np.zeros((round(settings.viewers_per_film * len(films)) + 1, len(films)))
    for rating in plan_ratings(settings, list(films)):
        seen[rating.viewer, rating.film] = 1
    shared = seen.T @ seen
    themes = np.array([film.theme for film in films])
    same, other = themes[:, None] == themes, ~np.eye(len(films), dtype=bool)
    return {
        "of_one_theme": round(float(shared[same & other].mean()), 2),
        "of_two_themes": round(float(shared[~same].mean()), 2),
    }


def check_pictures(
    settings: WorldSettings, films: Sequence[PlannedFilm], model: str, photographs: Path | None = None
) -> dict[str, Any]:
    """Measure color histograms, a linear probe on clean pictures, and the nearest neighbors of a frozen encoder.

    Returns:
        `look`: share of the shots without night and monochrome whose nearest neighbor by color histogram, outside their
        scene, is from the same film.
        `clean`: accuracy of a linear probe for place and event on pictures without looks and appearance types, measured
        on films that it was not fitted on.
        `shots` and `scenes`: nearest neighbors of the frozen encoder. Among other films: the share with the same place,
        and with the same event. Among other scenes (`shots` only): the share from the same film. For each appearance
        type: how often the neighbor of a shot with this type has it too. `scenes` are windows of at most nine shots,
        with types of the whole scene.
        Each figure stands beside `chance`, that of a random neighbor.
    """
    rows = [(n, shot) for n, film in enumerate(films) for shot in film.shots]
    film, scene, place, event = (
        np.array([column(n, shot) for n, shot in rows])
        for column in (
            lambda n, shot: n,
            lambda n, shot: 10_000 * n + shot.scene,
            lambda n, shot: shot.place,
            lambda n, shot: shot.event,
        )
    )
    types = {
        kind: np.array([kind in shot.types for _, shot in rows]) for kind in (*LIGHT_TYPES, *SCENE_TYPES, *SHOT_TYPES)
    }
    encoder = M2SSceneModel.from_pretrained(model).eval()
    processor = M2SSceneProcessor.from_pretrained(model)
    frames, clean = (
        [keyframe for planned in films for keyframe in draw_keyframes(settings, planned, photographs, without)]
        for without in (False, True)
    )

    plain = ~np.any([types[kind] for kind in LIGHT_TYPES], axis=0)
    other_scenes = scene[plain][:, None] != scene[plain]
    by_color = nearest(np.stack([color_histogram(frame) for frame in frames])[plain], other_scenes)
    cleans, shots = (embed(encoder, processor, [[[frame]] for frame in each]) for each in (clean, frames))
    labels = {"place": place} if photographs else {"place": place, "event": event}
    side = film < len(films) // 2
    if photographs:
        side = np.array([films[n].part == TRAINING for n in film])
    windows, first = scene_windows(scene, frames)
    scenes = embed(encoder, processor, windows)
    parts = side if photographs else film
    other_films, other_windows = parts[:, None] != parts, parts[first][:, None] != parts[first]
    return {
        "films": len(films),
        "shots_of_the_world": len(rows),
        "scenes_of_the_world": len(first),
        "look": {
            "neighbor": share(film[plain][by_color] == film[plain]),
            "chance": chance(film[plain], other_scenes),
        },
        "clean": {
            name: {"probe": probe(cleans, label, side), "chance": round(1 / (label.max() + 1), 4)}
            for name, label in labels.items()
        },
        "shots": neighbors(shots, other_films, labels, types)
        | neighbors(shots, scene[:, None] != scene, {"film": film}, {}),
        "scenes": neighbors(
            scenes,
            other_windows,
            {name: label[first] for name, label in labels.items()},
            {kind: types[kind][first] for kind in (*LIGHT_TYPES, *SCENE_TYPES)},
        ),
    }


def draw_keyframes(
    settings: WorldSettings, film: PlannedFilm, photographs: Path | None = None, clean: bool = False
) -> Iterator[np.ndarray]:
    """The middle frame of every shot (height, width, 3), as `shots` holds it; with `clean`, without look and types."""
    pictures = painter(settings, None if clean else film.look, photographs)
    for number, (shot, start, end) in enumerate(with_frames(film)):
        plain = dataclasses.replace(shot, types=()) if clean else shot
        yield pictures.frame(plain, number, (end - start - 1) // 2)


def color_histogram(frame: np.ndarray) -> np.ndarray:
    """Square roots of a normalized 4×4×4 RGB histogram (64,), so that distances are Hellinger distances."""
    counts, _ = np.histogramdd(frame.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
    return np.sqrt(counts.ravel() / counts.sum())


def scene_windows(scene: np.ndarray, frames: list[np.ndarray]) -> tuple[list[list[list[np.ndarray]]], np.ndarray]:
    """The first shots of each scene, at most nine, and the row at which each scene starts."""
    first = np.flatnonzero(np.r_[True, scene[1:] != scene[:-1]])
    ends = np.r_[first[1:], len(scene)]
    return [
        [[frame] for frame in frames[start : min(end, start + SHOTS_PER_SCENE)]]
        for start, end in zip(first, ends, strict=True)
    ], first


@torch.inference_mode()
def embed(model: M2SSceneModel, processor: M2SSceneProcessor, scenes: Sequence[Any]) -> np.ndarray:
    """Projected embeddings (scenes, dim) of scenes of shots of frames."""
    batches = []
    for start in range(0, len(scenes), BATCH_SIZE):
        pictures = [
            [[Image.fromarray(frame) for frame in shot] for shot in each] for each in scenes[start : start + BATCH_SIZE]
        ]
        batches.append(model(**processor(pictures)).scene_embeds.float().numpy())
    return np.concatenate(batches)


def neighbors(
    embeds_ND: np.ndarray, allowed_NN: np.ndarray, labels: dict[str, np.ndarray], types: dict[str, np.ndarray]
) -> dict[str, Any]:
    unit_ND = embeds_ND - embeds_ND.mean(0)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    found = nearest(unit_ND, allowed_NN)
    figures = {
        name: {"neighbor": share(label[found] == label), "chance": chance(label, allowed_NN)}
        for name, label in labels.items()
    }
    for kind, has in types.items():
        if has.any():
            figures[kind] = {"neighbor": share(has[found][has]), "chance": share(has)}
    return figures


def nearest(points_ND: np.ndarray, allowed_NN: np.ndarray) -> np.ndarray:
    """For each row, the nearest of the rows that are allowed for it."""
    squares = (points_ND**2).sum(1)
    distances = squares[:, None] + squares - 2 * points_ND @ points_ND.T
    return np.where(allowed_NN, distances, np.inf).argmin(1)


def probe(embeds_ND: np.ndarray, labels: np.ndarray, fit: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return round(float(model.fit(embeds_ND[fit], labels[fit]).score(embeds_ND[~fit], labels[~fit])), 4)


def chance(labels: np.ndarray, allowed_NN: np.ndarray) -> float:
    same = labels[:, None] == labels
    return round(float(((same & allowed_NN).sum(1) / allowed_NN.sum(1)).mean()), 4)


def share(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 4)
