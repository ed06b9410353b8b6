"""Every kind of dataset through plain `datasets`: loaded from its folder, streamed, pushed to a Hub and back.

`datasets` reads the Hub's address when it is imported, so one script does it all in a process of its own.
"""

import io
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from PIL import Image

from modeling_m2s.storage_m2s import SCHEMAS, FilmDataset

KINDS = ["movies", "shots", "films", "shot_features", "similar_movies", "scene_pairs"]
FILMS = {"tt0000001": 1, "tt0000002": 65, "千と千尋": 130, "tt0000010": 3}  # shots by film

# Arguments are kinds; their folders have the same names, below the working directory.
SCRIPT = """
import sys
import datasets
from huggingface_hub import HfApi

datasets.disable_progress_bars()
for kind in sys.argv[1:]:
    def plain(dataset):
        for column, feature in dataset.features.items():  # images as the bytes they are
            if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
                dataset = dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
        return dataset

    here = datasets.load_dataset(kind, split="train")
    rows = list(plain(here))
    assert rows

    streamed = datasets.load_dataset(kind, split="train", streaming=True)
    assert streamed.features == here.features, kind
    assert list(plain(streamed)) == rows, kind

    here.push_to_hub(f"someone/{kind}")
    HfApi().create_repo(f"someone/{kind}-folder", repo_type="dataset")
    HfApi().upload_folder(repo_id=f"someone/{kind}-folder", folder_path=kind, repo_type="dataset")
    for name in (f"someone/{kind}", f"someone/{kind}-folder"):
        there = datasets.load_dataset(name, split="train")
        assert there.features == here.features, name
        assert list(plain(there)) == rows, name
        streamed = datasets.load_dataset(name, split="train", streaming=True)
        assert list(plain(streamed)) == rows, name
    print(kind, len(rows))
"""


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def rows_of(kind: str, movie_id: str, num_shots: int) -> list[dict[str, Any]]:
    """A film's rows, with what careless conversions lose: empty lists, no bytes, Unicode, all digits of float64."""
    others = sorted(set(FILMS) - {movie_id})
    if kind == "shots":
        return [
            {
                "movie_id": movie_id,
                "shot_index": n,
                "start_frame": 24 * n,
                "end_frame": 24 * (n + 1),
                "start_seconds": 24 * n * 1001 / 24000,
                "end_seconds": 24 * (n + 1) * 1001 / 24000,
                "keyframe_frames": [24 * n + 8 * k for k in range(n % 3)],
                "keyframes": [{"bytes": jpeg(n * 3 + k), "path": None} for k in range(n % 3)],
            }
            for n in range(num_shots)
        ]
    if kind == "scenes":
        return [
            {"movie_id": movie_id, "scene": n, "first_shot": n, "num_shots": 1}
            | {"start_seconds": n * 1001 / 24000, "end_seconds": (n + 1) * 1001 / 24000}
            for n in range(num_shots)
        ]
    if kind == "shot_features":
        features = np.random.default_rng(num_shots).normal(0, 10, (num_shots, 5)).astype("<f2").tobytes()
        row = {"movie_id": movie_id, "num_shots": num_shots, "dim": 5, "dtype": "float16", "features": features}
    elif kind == "movies":
        row = {"movie_id": movie_id, "title": f"{movie_id}, “the film”\n", "year": 0, "genres": [], "synopsis": ""}
        row |= {"video": "/films/a b.mp4"} if num_shots == 1 else {"video": "", "genres": ["Drama", "Sci-Fi"]}
    elif kind == "films":
        row = {"movie_id": movie_id, "shard": 0, "first_row": 2**40, "num_shots": num_shots, "video": "", "damage": ""}
        row |= {"fingerprint": "f", "num_frames": 9, "frame_rate": 24000 / 1001, "duration_seconds": 0.1}
        row |= {"width": 640, "height": 360}
    elif kind == "similar_movies":
        row = {"movie_id": movie_id, "source": "genre", "score": 0.5}
        return [{**row, "similar_movie_id": other, "rank": rank} for rank, other in enumerate(others, 1)]
    else:
        row = {"movie_id_a": movie_id, "num_shots": 9, "score": 0.25, "source": "co_watch+genre"}
        return [{**row, "movie_id_b": b, "first_shot_a": 0, "first_shot_b": 2} for b in others if movie_id < b]
    return [row]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Below it, a finished dataset of each kind, in shards of two films."""
    folder = tmp_path_factory.mktemp("catalog")
    for kind in KINDS:
        dataset = FilmDataset(folder / kind, kind)
        dataset.schema = replace(dataset.schema, films_per_shard=2)
        dataset.begin({"made_by": "test"})
        for movie_id, num_shots in FILMS.items():
            dataset.write_film(movie_id, rows_of(kind, movie_id, num_shots), {})
        dataset.finish(FILMS, {})
        assert dataset.check() == []
    return folder


def test_datasets_load_stream_and_come_back_from_a_hub(folder, tmp_path):
    with Hub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path), "TQDM_DISABLE": "1"}
        finished = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, *KINDS],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert finished.returncode == 0, finished.stderr
        expected = {kind: sum(len(rows_of(kind, *film)) for film in FILMS.items()) for kind in KINDS}
        assert finished.stdout.splitlines() == [f"{kind} {count}" for kind, count in expected.items()]
        for kind in KINDS:
            pushed = hub.repos[f"datasets/someone/{kind}-folder"]
            paths = [path for path in (folder / kind).rglob("*") if path.is_file()]
            assert {str(path.relative_to(folder / kind)): path.read_bytes() for path in paths}.items() <= pushed.items()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_film_are_neighbors_in_one_file(folder, kind):
    paths = sorted((folder / kind / "data").iterdir())
    assert len(paths) == 2
    films = [
        movie_id
        for path in paths
        for movie_id, _ in itertools.groupby(pq.read_table(path)[SCHEMAS[kind].film_column].to_pylist())
    ]
    assert films == sorted(movie_id for movie_id, num_shots in FILMS.items() if rows_of(kind, movie_id, num_shots))


def test_row_groups_with_images_are_small(folder):
    paths = sorted((folder / "shots/data").iterdir())
    groups = [
        pq.read_metadata(path).row_group(n) for path in paths for n in range(pq.read_metadata(path).num_row_groups)
    ]
    assert [group.num_rows for group in groups] == [1, 64, 1, 3, 64, 64, 2]
