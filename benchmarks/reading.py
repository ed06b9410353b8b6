"""Reading for training: features of films for movie-similarity learning, nine-shot scenes for momentum contrast.

    python -m benchmarks.reading        about a minute; 500 MB in a temporary folder

Features: `ShotFeatures` reads generated films of 1,088 shots on average, 512 float16 per shot. It is compared with the
columns that `datasets` offers for matrices: Array2D in NumPy format, and lists of lists.

Scenes: nine neighboring shots are read as JPEG bytes, from the Arrow copy of a `shots` dataset, from its Parquet files
with row groups of 64 rows, and from a Parquet file with the row groups that `datasets` makes.

Frames: `SceneFrames` reads the same scenes as pixels, from the Arrow copy and from the Parquet files. It is compared
with images that `datasets` decodes and `CLIPImageProcessor` resizes and crops. Keyframes of 398×224 pixels have the
stored size for encoders that read 224×224; those of 320×180 are resized to 112.

Each way reads in a seeded random order, and all give the same values (asserted before anything is timed).

Predicted: a film is 1.1 MB. Copying it takes 0.1 ms, and the search for infinities reads it once more: 0.25 ms. Array2D
converts to float32 and back by pages of offsets: 1 ms. Lists of lists make 557,000 Python numbers of 30 ns: 20 ms.
A scene is 0.14 MB. Arrow makes a view of it into Python bytes: 0.05 ms. 64-row groups read 0.9 MB for it and parse the
file's footer again: 2 ms. Row groups as large as the file read its 70 MB: 30 ms. Decoding a JPEG takes 0.4 ms at
398×224 and 0.2 ms at 320×180, where bicubic resizing adds 0.6 ms. The processor's conversions take 0.3 ms more. A scene
of nine thus takes 4 and 8 ms, and the plain way 7 and 11 ms.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from benchmarks.harness import alternate, write_result, write_shots
from data_scripts.features.shot_features import ShotFeatures
from data_scripts.readers.scene_frames import SceneFrames
from m2s.commands import run_command
from modeling_m2s.shot_store_m2s import read_shots
from modeling_m2s.storage_m2s import FilmDataset

DIM = 512
FILMS, FILMS_SLOW = 200, 20
SCENE = 9
FILMS_WITH_IMAGES, SHOTS_PER_FILM, JPEG_BYTES = 16, 300, 15_000
SCENES, SCENES_SLOW = 200, 20
KEYFRAMES = ((398, 224, 224), (320, 180, 112))  # width, height, and the side that the encoder reads


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.reading", Options, run, argv)


def run(options: Options) -> None:
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "milliseconds_a_film": compare_features(Path(folder), options.runs),
            "milliseconds_a_scene": compare_scenes(Path(folder), options.runs),
            "milliseconds_a_scene_of_pixels": {
                f"{width}×{height} to {side}×{side}": compare_frames(Path(folder), width, height, side, options.runs)
                for width, height, side in KEYFRAMES
            },
        }
    write_result("reading", "float16", results)


def compare_features(folder: Path, runs: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    films = {
        f"tt{n:07d}": random.normal(0, 0.5, (int(length), DIM)).astype(np.float16)
        for n, length in enumerate(random.integers(400, 1777, FILMS))
    }
    dataset = FilmDataset(folder / "shot_features", "shot_features")
    dataset.begin({})
    for movie_id, features_MD in films.items():
        row = {"movie_id": movie_id, "num_shots": len(features_MD), "dim": DIM, "dtype": "float16"}
        dataset.write_film(movie_id, [{**row, "features": features_MD.tobytes()}], {})
    dataset.finish(films, {})
    features = ShotFeatures(dataset.folder, cache=folder / "cache")
    few = list(films)[:FILMS_SLOW]

    def stored(column: datasets.Array2D | datasets.List) -> datasets.Dataset:
        rows = ({"features": films[movie_id]} for movie_id in few)
        schema = datasets.Features({"features": column})
        path = folder / f"{type(column).__name__}.parquet"
        datasets.Dataset.from_list(list(rows), features=schema).to_parquet(path)
        return datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(folder / "cache"))

    array2d = stored(datasets.Array2D((None, DIM), "float16")).with_format("numpy")
    lists = stored(datasets.List(datasets.List(datasets.Value("float16"))))
    order, slow = random.permutation(FILMS).tolist(), random.permutation(FILMS_SLOW).tolist()
    ids = list(films)
    readers: dict[str, tuple[list[int], Callable[[int], np.ndarray]]] = {
        "ShotFeatures": (order, lambda n: np.array(features[ids[n]])),
        "Array2D, NumPy format": (slow, lambda n: np.array(array2d[n]["features"], dtype=np.float16)),
        "lists of lists": (slow, lambda n: np.array(lists[n]["features"], dtype=np.float16)),
    }
    for _, read in readers.values():
        for n in slow:
            np.testing.assert_array_equal(read(n), films[ids[n]])
    return milliseconds(readers, runs)


def compare_scenes(folder: Path, runs: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    films = {
        f"tt{film:07d}": [random.bytes(JPEG_BYTES) for _ in range(SHOTS_PER_FILM)] for film in range(FILMS_WITH_IMAGES)
    }
    dataset = write_shots(folder / "shots", films)
    plain = datasets.List(datasets.Image(decode=False))
    arrow = datasets.load_dataset(str(dataset.folder), split="train", cache_dir=str(folder / "cache"))
    arrow = arrow.cast_column("keyframes", plain)
    arrow.to_parquet(folder / "default.parquet")
    stored = list(dataset.films().values())

    def from_row_groups(row: int) -> list[bytes]:
        film, first = divmod(row, SHOTS_PER_FILM)
        return [shot.keyframes[0] for shot in read_shots(dataset, stored[film], first, SCENE)]

    def from_default_groups(row: int) -> list[bytes]:
        with pq.ParquetFile(folder / "default.parquet") as file:
            size, images = file.metadata.row_group(0).num_rows, []
            for group in range(row // size, (row + SCENE - 1) // size + 1):
                images += file.read_row_group(group, ["keyframes"])["keyframes"].to_pylist()
            return [row[0]["bytes"] for row in images[row % size : row % size + SCENE]]

    rows = [
        int(film * SHOTS_PER_FILM + first)
        for film, first in zip(
            random.integers(0, FILMS_WITH_IMAGES, SCENES),
            random.integers(0, SHOTS_PER_FILM - SCENE + 1, SCENES),
            strict=True,
        )
    ]
    readers: dict[str, tuple[list[int], Callable[[int], Any]]] = {
        "Arrow slice": (
            rows,
            lambda row: [keyframes[0]["bytes"] for keyframes in arrow[row : row + SCENE]["keyframes"]],
        ),
        "Parquet, 64 rows a group": (rows, from_row_groups),
        "Parquet, groups as datasets makes them": (rows[:SCENES_SLOW], from_default_groups),
    }
    for row in rows[:SCENES_SLOW]:
        first, *others = [read(row) for _, read in readers.values()]
        assert len(first) == SCENE and all(other == first for other in others)
    return milliseconds(readers, runs)


def compare_frames(folder: Path, width: int, height: int, side: int, runs: int) -> dict[str, float]:
    films = {
        f"tt{film:07d}": [blurred_noise(width, height, SHOTS_PER_FILM * film + n) for n in range(SHOTS_PER_FILM)]
        for film in range(2)
    }
    dataset = write_shots(folder / f"shots_{side}", films)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    arrow = SceneFrames(dataset.folder, processor, cache=folder / "cache")
    parquet = SceneFrames(dataset.folder, processor, arrow_copy=False)
    decoded = datasets.load_dataset(str(dataset.folder), split="train", cache_dir=str(folder / "cache"))
    ids = list(films)

    def plain(row: int) -> torch.Tensor:
        images = [keyframes[0] for keyframes in decoded[row : row + SCENE]["keyframes"]]
        return processor(images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]

    def by(frames: SceneFrames) -> Callable[[int], torch.Tensor]:
        return lambda row: frames.read(ids[row // SHOTS_PER_FILM], row % SHOTS_PER_FILM, SCENE).pixels_FCYX

    random = np.random.default_rng(0)
    starts = random.integers(0, SHOTS_PER_FILM - SCENE + 1, SCENES // 4) + SHOTS_PER_FILM * random.integers(
        0, len(films), SCENES // 4
    )
    rows = starts.tolist()
    readers: dict[str, tuple[list[int], Callable[[int], Any]]] = {
        "SceneFrames": (rows, by(arrow)),
        "SceneFrames without a copy": (rows, by(parquet)),
        "datasets and CLIPImageProcessor": (rows, plain),
    }
    for row in rows[:SCENES_SLOW]:
        first, *others = [read(row) for _, read in readers.values()]
        assert len(first) == SCENE and all(torch.equal(other, first) for other in others)
    return milliseconds(readers, runs)


def blurred_noise(width: int, height: int, seed: int) -> bytes:
    """A JPEG of blurred noise, about as large as a keyframe's file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def milliseconds(readers: dict[str, tuple[list[int], Callable[[int], Any]]], runs: int) -> dict[str, float]:
    def read_all(name: str) -> None:
        order, read = readers[name]
        for n in order:
            read(n)

    times = alternate({name: lambda name=name: read_all(name) for name in readers}, runs)
    return {name: round(times[name]["wall_seconds"] / len(readers[name][0]) * 1000, 3) for name in readers}


if __name__ == "__main__":
    main()
