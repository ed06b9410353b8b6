"""Read a `shot_features` dataset film by film, from an Arrow copy that is mapped into memory.

    >>> features = ShotFeatures(Path("catalog/shot_features"))
    >>> features["tt0133093"]                       float16 (shots, dim), not normalized
    >>> has_keyframe(features["tt0133093"])         bool (shots,): False where a shot had no keyframe, a row of zeros

Parquet is the exchange format, but reading one film from it decodes a whole row group. `datasets` therefore makes an
Arrow copy in its cache, once for all processes and runs on a machine, and a film is then a view of that file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from data_scripts.readers.arrow_copy import arrow_copy
from data_scripts.stages.inputs import finished
from modeling_m2s.storage_m2s import StorageError, require_settings

DTYPE = np.dtype("<f2")
# Films in memory while the copy is made; by default `datasets` would hold a thousand, which is gigabytes.
FILMS_AT_A_TIME = 16
# Infinity and NaN are the float16 numbers whose exponent is all ones.
SIGNLESS, INFINITY = np.uint16(0x7FFF), np.uint16(0x7C00)


class ShotFeatures:
    """Features of every film's shots [4.2].

    Args:
        folder: folder of a finished `shot_features` dataset.
        cache: folder of the Arrow copy; by default the cache of `datasets`.

    Attributes:
        movie_ids: ids of the films, sorted.
        num_shots: number of shots of each of these films, int64 (films,).
        dim: numbers per shot.
        record: the content of `m2s.json`; `record["settings"]` names encoder and revision.

    Raises:
        StorageError: not a finished dataset of this kind, no films in it, or features of another size than it says.
    """

    def __init__(self, folder: Path, cache: Path | None = None):
        self.folder = Path(folder)
        dataset = finished(self.folder, "shot_features")
        self.record: dict[str, Any] = dataset.record
        self._dataset = dataset
        index = dataset.read(["movie_id", "num_shots", "dim", "dtype"]).to_pydict()
        if not index["movie_id"]:
            raise StorageError(f"{folder}: holds no films")
        self.movie_ids: list[str] = index["movie_id"]
        self.num_shots = np.array(index["num_shots"], dtype=np.int64)
        self.dim: int = index["dim"][0]
        for column, expected in (("dim", self.dim), ("dtype", "float16")):
            self._require(column, index[column], [expected] * len(self.movie_ids))
        self._rows = {movie_id: row for row, movie_id in enumerate(self.movie_ids)}
        self._table = self._arrow_copy(cache).with_format("arrow")
        sizes = pc.binary_length(self._table.data.column("features")).to_pylist()
        self._require("bytes of features", sizes, (self.num_shots * self.dim * DTYPE.itemsize).tolist())

    def __getitem__(self, movie_id: str) -> np.ndarray:
        """Features of a film's shots, float16 (shots, dim), as E_fixed gave them: a read-only view of the mapped file.

        Raises:
            KeyError: no such film.
            StorageError: a feature is infinite or not a number.
        """
        row = self._rows[movie_id]
        values = self._table[row]["features"].chunk(0)
        _, offsets, content = values.buffers()  # a value taken out of Arrow would be a copy
        start = np.frombuffer(offsets, np.int32)[values.offset]
        count = self.num_shots[row] * self.dim
        features_MD = np.frombuffer(content, DTYPE, count, start).reshape(self.num_shots[row], self.dim)
        bad_M = (features_MD.view(np.uint16) & SIGNLESS).max(axis=1, initial=0) >= INFINITY
        if bad_M.any():
            raise StorageError(
                f"{self.folder}: film {movie_id}, shot {int(bad_M.argmax())}: a feature is infinite or not a number; "
                "remove the folder and extract the features again"
            )
        return features_MD

    def __contains__(self, movie_id: str) -> bool:
        return movie_id in self._rows

    def __len__(self) -> int:
        return len(self.movie_ids)

    def counts(self) -> dict[str, int]:
        """The number of shots of each film."""
        return dict(zip(self.movie_ids, self.num_shots.tolist(), strict=True))

    def sources(self) -> dict[str, list[Any]]:
        """For each film, values that change if its shots or features are made again from another video."""
        stored = self._dataset.films()
        return {movie_id: [count, stored[movie_id].facts.get("source")] for movie_id, count in self.counts().items()}

    def require_encoder(self, needed: Mapping[str, Any]) -> None:
        """Refuse features of another encoder than is `needed`: {"encoder": …, "revision": …}, or any other setting.

        Raises:
            StorageError: names every setting that differs with both values.
        """
        settings = self.record["settings"]
        require_settings(self.folder, {key: settings.get(key) for key in needed}, needed)

    def _arrow_copy(self, cache: Path | None) -> datasets.Dataset:
        megabytes = self.num_shots.sum() * self.dim * DTYPE.itemsize / 1e6
        message = f"{self.folder}: an Arrow copy of {megabytes:,.1f} MB"
        return arrow_copy(self._dataset.shard_paths(), cache, message, FILMS_AT_A_TIME)

    def _require(self, name: str, found: list[Any], expected: list[Any]) -> None:
        for movie_id, value, needed in zip(self.movie_ids, found, expected, strict=True):
            if value != needed:
                raise StorageError(f"{self.folder}: film {movie_id}: {name} is {value!r}; expected {needed!r}")


def has_keyframe(features_MD: np.ndarray) -> np.ndarray:
    """Which shots have a decodable keyframe, bool (shots,); the features of all others are zeros."""
    return features_MD.any(axis=1)
