"""A small catalog to train contrast on: films with stripes by theme, their shots as JPEG, and pairs of their scenes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_m2s.shots_m2s import Shot
from modeling_m2s.storage_m2s import FilmDataset

THEMES, SCENE = 4, 5


def movie_ids(count: int) -> list[str]:
    return [f"tt{2_000_000 + number}" for number in range(count)]


def num_shots(film: int) -> int:
    return 11 + 3 * film % 7


def picture(film: int, shot: int) -> bytes:
    """A JPEG: stripes as wide as the theme says, in colors of the film, with noise."""
    random = np.random.default_rng([film, shot])
    width = 2 + 3 * (film % THEMES)
    stripes = (np.arange(40) // width % 2)[None, :, None] * np.array([150, 120, 90])
    pixels = stripes + random.integers(0, 60, 3) + random.integers(0, 30, (36, 40, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_shots(folder: Path, films: int = 12, broken: dict[tuple[int, int], bytes] | None = None) -> None:
    """A `shots` dataset; `broken` has other bytes in place of some keyframes, by film and shot."""
    dataset = FilmDataset(folder, "shots")
    dataset.begin({"keyframes_per_shot": 1})
    for film, movie_id in enumerate(movie_ids(films)):
        rows = []
        for n in range(num_shots(film)):
            jpeg = (broken or {}).get((film, n), picture(film, n))
            shot = vars(Shot(n, n, n + 1, float(n), n + 1.0, [n]))
            rows.append({**shot, "movie_id": movie_id, "keyframes": [{"bytes": jpeg}]})
        dataset.write_film(movie_id, rows, {})
    dataset.finish(movie_ids(films), {})


def write_pairs(folder: Path, films: int = 12, lengths: tuple[int, ...] = (SCENE,)) -> None:
    """A `scene_pairs` dataset: of every two films of a theme, the first scenes and some later ones."""
    ids, rows = movie_ids(films), []
    for a in range(films):
        for b in range(a + THEMES, films, THEMES):
            for length in lengths:
                for first in range(0, min(num_shots(a), num_shots(b)) - length + 1, 3):
                    rows.append(
                        {
                            "movie_id_a": ids[a],
                            "first_shot_a": first,
                            "movie_id_b": ids[b],
                            "first_shot_b": num_shots(b) - length - first,
                            "num_shots": length,
                            "score": 1.0,
                            "source": "genre",
                        }
                    )
    dataset = FilmDataset(folder, "scene_pairs")
    dataset.begin({"space": "features"})
    dataset.write_all(sorted(rows, key=lambda row: (row["movie_id_a"], row["movie_id_b"], row["first_shot_a"])))


def write_labels(path: Path, films: range) -> None:
    """A CSV of labeled scenes: the theme of each film, of two of its scenes."""
    rows = [
        f"{movie_ids(film + 1)[film]},{first},{SCENE},theme {film % THEMES}"
        for film in films
        for first in (0, num_shots(film) - SCENE)
    ]
    path.write_text("\n".join(["movie_id,first_shot,num_shots,label", *rows]) + "\n")
