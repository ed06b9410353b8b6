"""A film's scenes as one HTML file: timeline, keyframes, and for each scene the scenes like it, all in the file.

It looks as the page of `m2s app` does. Each keyframe is in the file once, however many scenes overlap.
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from .app_html_m2s import count, span
from .figures_m2s import SCENE_COLORS, THUMBNAIL_WIDTH, encode, timecode
from .pipeline_m2s import open_image
from .search_m2s import Scene, SceneIndex, mean_squared_distance
from .shot_store_m2s import read_shots
from .shots_m2s import Shot
from .storage_m2s import StorageError

PARTS = Path(__file__).parent / "app_page"
MOST_KEYFRAMES, MOST_SIMILAR = 9, 6


def film_page(index: SceneIndex, movie_id: str) -> str:
    """The page of a film.

    Args:
        index: the film's index.
        movie_id: the film's id, which is the page's title.

    Raises:
        StorageError: the film has no scenes.
    """
    scenes = [scene for scene in index.scenes if scene.movie_id == movie_id]
    if not scenes:
        raise StorageError(f"{movie_id}: the film has no scenes, so there is no page to make")
    shots = read_shots(index.shots, index.films[movie_id])
    shown = [_keyframes_of(scene, shots) for scene in scenes]
    pictures = {shot: _picture(shots[shot]) for shot in sorted({shot for each in shown for shot in each})}
    content = json.dumps({"pictures": pictures, "similar": similar_scenes(index, scenes)})
    seconds = index.films[movie_id].facts["duration_seconds"]
    facts = [
        timecode(seconds),
        count(len(shots), "shot"),
        count(len(scenes), "scene"),
        f"encoder {index.record['model']}",
    ]
    items = "\n".join(_scene_item(k, scene, shown[k], shots) for k, scene in enumerate(scenes))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{escape(movie_id)}</title>
<style>
{_part("page.css")}{_part("film.css")}</style>
</head>
<body>
<header class="m2s-head"><h1>{escape(movie_id)}</h1><p>{escape(" · ".join(facts))}</p></header>
<main class="m2s-film">
<nav class="m2s-top" aria-label="Timeline"><div class="m2s-timeline" role="toolbar" aria-label="Scenes, by arrow keys">\
{_timeline(scenes, shots)}</div>
<div class="m2s-ends m2s-faint"><span>00:00:00</span><span>{timecode(seconds)}</span></div></nav>
<p class="m2s-faint">Click a scene to see the scenes that are like it.</p>
<noscript><p class="m2s-status">Pictures and similar scenes need a browser that runs scripts.</p></noscript>
<ol class="m2s-list">
{items}
</ol>
</main>
<script type="application/json" id="m2s-content">{content}</script>
<script>
{_part("film.js")}</script>
</body>
</html>
"""


def similar_scenes(index: SceneIndex, scenes: Sequence[Scene]) -> list[list[tuple[int, float]]]:
    """For each of a film's scenes the scenes of the film that are like it, as number and similarity, best first.

    None of them overlaps the scene or another one. Similarity is that of `m2s app`, for this film alone.
    """
    scale = mean_squared_distance(index.points[[scene.row for scene in scenes]])
    numbers = {scene.row: number for number, scene in enumerate(scenes)}
    found = []
    for scene in scenes:
        distances_N = index.distances(index.vectors[scene.row])
        nearest = index.nearest(distances_N, MOST_SIMILAR, scene, "within")
        found.append([(numbers[other.row], round(1 - other.distance**2 / scale, 3)) for other in nearest])
    return found


def _keyframes_of(scene: Scene, shots: Sequence[Shot]) -> list[int]:
    """Up to `MOST_KEYFRAMES` of a scene's shots that have a keyframe, evenly spaced."""
    having = [k for k in range(scene.first_shot, scene.first_shot + scene.num_shots) if shots[k].keyframes]
    if len(having) <= MOST_KEYFRAMES:
        return having
    return [having[place] for place in np.linspace(0, len(having) - 1, MOST_KEYFRAMES).round().astype(int)]


def _picture(shot: Shot) -> str:
    """A shot's first keyframe as a small JPEG in base64."""
    image = open_image(shot.keyframes[0])
    image.thumbnail((THUMBNAIL_WIDTH, 3 * THUMBNAIL_WIDTH))
    return base64.b64encode(encode(image, "JPEG")).decode()


def _timeline(scenes: Sequence[Scene], shots: Sequence[Shot]) -> str:
    """One button per scene, as wide as the time until the next scene begins, with a line at every cut."""
    pieces = []
    for k, scene in enumerate(scenes):
        end = scenes[k + 1].start_seconds if k + 1 < len(scenes) else scene.end_seconds
        length = max(end - scene.start_seconds, 1e-3)
        cuts = [shot.start_seconds for shot in shots if scene.start_seconds < shot.start_seconds < end]
        lines = "".join(f'<i style="left:{100 * (cut - scene.start_seconds) / length:.2f}%"></i>' for cut in cuts)
        label = f"Scene {k + 1}, {span(scene)}"
        pieces.append(
            f'<button type="button" data-scene="{k}" style="flex-grow:{length:.3f};background:{_color(k)}" '
            f'title="{label}" aria-label="{label}" aria-pressed="false" tabindex="{-1 if k else 0}">{lines}</button>'
        )
    return "".join(pieces)


def _scene_item(k: int, scene: Scene, shown: Sequence[int], shots: Sequence[Shot]) -> str:
    images = "".join(
        f'<img data-shot="{shot}" alt="Shot {shot + 1}, {timecode(shots[shot].start_seconds)}">' for shot in shown
    )
    return (
        f'<li id="scene-{k + 1}"><button type="button" class="m2s-scene" data-scene="{k}" aria-pressed="false" '
        f'style="border-left-color:{_color(k)}"><b>Scene {k + 1}</b> <span>{span(scene)}</span> '
        f'<small>{count(scene.num_shots, "shot")}</small></button><div class="m2s-keyframes">{images}</div></li>'
    )


def _color(k: int) -> str:
    return SCENE_COLORS[k % len(SCENE_COLORS)]


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
