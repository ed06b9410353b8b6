"""The schema of each dataset: columns and types, the order of rows, the sizes of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List, Value
except ImportError as error:
    raise ImportError(f"datasets on disk need more packages: pip install 'movies2scenes[video]' ({error})") from error


@dataclass(frozen=True)
class Schema:
    """A kind of dataset: its columns, how many films go into a shard and how many rows into a row group.

    Rows are sorted by the columns `order`, and no two rows are equal in all of them. The first of these columns names
    the film. `added` gives a value for each column that files of an earlier release lack.
    """

    features: Features
    films_per_shard: int
    rows_per_group: int
    order: tuple[str, ...] = ("movie_id",)
    added: Mapping[str, Any] = field(default_factory=dict)

    @property
    def film_column(self) -> str:
        return self.order[0]

    def read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """The rows of a Parquet file; columns that it lacks have the value of `added` in every row."""
        if not self.added:
            return pq.read_table(path, columns=columns)
        present = pq.read_schema(path).names
        table = self.complete(pq.read_table(path, columns=[name for name in columns or present if name in present]))
        return table.select(columns) if columns else table

    def complete(self, table: pa.Table) -> pa.Table:
        """A table of any release with all columns of this one."""
        for name, value in self.added.items():
            if name not in table.column_names:
                column = self.features.arrow_schema.field(name)
                table = table.append_column(column, pa.repeat(pa.scalar(value, column.type), len(table)))
        return table


SCHEMAS = {
    "movies": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "title": Value("string"),
                "year": Value("int32"),
                "genres": List(Value("string")),
                "synopsis": Value("string"),
                "video": Value("string"),
                "excluded": Value("string"),
            }
        ),
        films_per_shard=10**6,
        rows_per_group=1024,
        added={"excluded": ""},
    ),
    "shot_features": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "num_shots": Value("int32"),
                "dim": Value("int32"),
                "dtype": Value("string"),
                "features": Value("binary"),
            }
        ),
        films_per_shard=256,
        rows_per_group=1,
    ),
    "similar_movies": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "similar_movie_id": Value("string"),
                "rank": Value("int32"),
                "score": Value("float32"),
                "source": Value("string"),
            }
        ),
        films_per_shard=10**6,
        rows_per_group=65536,
        order=("movie_id", "source", "rank"),
    ),
    "scene_pairs": Schema(
        Features(
            {
                "movie_id_a": Value("string"),
                "first_shot_a": Value("int32"),
                "movie_id_b": Value("string"),
                "first_shot_b": Value("int32"),
                "num_shots": Value("int32"),
                "score": Value("float32"),
                "source": Value("string"),
            }
        ),
        films_per_shard=1024,
        rows_per_group=65536,
        order=("movie_id_a", "movie_id_b", "first_shot_a"),
    ),
    "shots": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "shot_index": Value("int32"),
                "start_frame": Value("int32"),
                "end_frame": Value("int32"),
                "start_seconds": Value("float64"),
                "end_seconds": Value("float64"),
                "keyframe_frames": List(Value("int32")),
                "keyframes": List(Image()),
            }
        ),
        films_per_shard=16,
        rows_per_group=64,
        order=("movie_id", "shot_index"),
    ),
    "films": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "shard": Value("int32"),
                "first_row": Value("int64"),
                "num_shots": Value("int32"),
                "video": Value("string"),
                "fingerprint": Value("string"),
                "num_frames": Value("int32"),
                "frame_rate": Value("float64"),
                "duration_seconds": Value("float64"),
                "width": Value("int32"),
                "height": Value("int32"),
                "damage": Value("string"),
                "moved_keyframes": Value("int32"),
            }
        ),
        films_per_shard=10**6,
        rows_per_group=1024,
        added={"moved_keyframes": 0},
    ),
    "scene_embeddings": Schema(
        Features(
            {
                "scene_id": Value("string"),
                "movie_id": Value("string"),
                "first_shot": Value("int32"),
                "num_shots": Value("int32"),
                "start_seconds": Value("float64"),
                "end_seconds": Value("float64"),
                "embedding": List(Value("float32")),
                "model": Value("string"),
                "revision": Value("string"),
                "kind": Value("string"),
            }
        ),
        films_per_shard=256,
        rows_per_group=1024,
        order=("movie_id", "first_shot", "scene_id"),  # labeled scenes may begin with the same shot
        added={"kind": "window"},
    ),
    "scenes": Schema(
        Features(
            {
                "movie_id": Value("string"),
                "scene": Value("int32"),
                "first_shot": Value("int32"),
                "num_shots": Value("int32"),
                "start_seconds": Value("float64"),
                "end_seconds": Value("float64"),
            }
        ),
        films_per_shard=10**6,
        rows_per_group=65536,
        order=("movie_id", "scene"),
    ),
}
