"""Arrow copies of datasets in the cache of `datasets`, which are mapped into memory."""

import glob
from collections.abc import Sequence
from pathlib import Path

import datasets


def arrow_copy(
    paths: Sequence[Path], cache: Path | None, message: str, films_at_a_time: int | None = None
) -> datasets.Dataset:
    """The copy of a dataset's shards, made once for all processes and runs on a machine.

    Args:
        paths: the shards. Their names are taken literally: `datasets` reads patterns, and a folder `run[2]` as `run2`.
        cache: folder of the copy; by default the cache of `datasets`.
        message: printed with the copy's place when there is none yet.
        films_at_a_time: rows in memory while the copy is made, by default a thousand.

    Raises:
        DatasetGenerationError: a shard cannot be read.
    """
    builder = datasets.load_dataset_builder(
        "parquet",
        data_files=[glob.escape(str(path.absolute())) for path in paths],
        cache_dir=None if cache is None else str(cache),
        writer_batch_size=films_at_a_time,
    )
    if not Path(builder.cache_dir).exists():
        print(f"{message} goes to {builder.cache_dir}", flush=True)
    builder.download_and_prepare()
    return builder.as_dataset("train")
