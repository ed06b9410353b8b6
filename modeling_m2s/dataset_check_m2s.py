"""Problems of a finished dataset: its checksums, schema, order of rows, counts and images."""

from io import BytesIO

from PIL import Image

try:
    import pyarrow as pa
except ImportError as error:
    raise ImportError(f"datasets on disk need more packages: pip install 'movies2scenes[video]' ({error})") from error

from .checksums_m2s import checksum_of
from .storage_m2s import RECORD_NAME, FilmDataset, StorageError, films_in, shard_names


def check_dataset(dataset: FilmDataset) -> list[str]:
    """The problems of a finished dataset, one line each; empty if there are none."""
    problems = []
    record = dataset.record
    if not record.get("complete"):
        return [f"{dataset.folder}: not finished" if record else f"{dataset.folder}: no {RECORD_NAME}"]
    paths = dataset.shard_paths()
    if [path.name for path in paths] != shard_names(dataset.folder, record):
        problems.append(f"{dataset.folder}: shards on disk and in the record differ")
    checksums = {shard["file"]: shard.get("sha256") for shard in record["shards"]}
    previous, num_rows, num_films = None, 0, 0
    for path in paths:
        try:
            if checksums.get(path.name) and checksums[path.name] != checksum_of(path):
                problems.append(f"{path}: holds other bytes than were written; make it again")
            films, table = films_in(path), dataset.schema.read(path)
        except StorageError as error:
            problems.append(str(error))
            continue
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{path}: cannot be read ({error})")
            continue
        if not table.schema.equals(dataset.schema.features.arrow_schema):
            problems.append(f"{path}: columns differ from those of {dataset.kind}")
            continue
        num_rows, num_films = num_rows + len(table), num_films + len(films)
        named = [movie_id for film in films for movie_id in [film.movie_id] * film.num_rows]
        if named != table[dataset.schema.film_column].to_pylist():
            problems.append(f"{path}: films are not where its index says")
        for row in zip(*(table[column].to_pylist() for column in dataset.schema.order), strict=True):
            if previous is not None and row <= previous:
                problems.append(f"{path}: row {row} does not follow {previous}")
            previous = row
        if "keyframes" in table.column_names:
            problems += [f"{path}: {problem}" for problem in _undecodable(table)]
    if (num_rows, num_films) != (record["num_rows"], record["num_films"]):
        problems.append(
            f"{dataset.folder}: {num_rows} rows of {num_films} films; the record says {record['num_rows']} of "
            f"{record['num_films']}"
        )
    return problems


def _undecodable(table: pa.Table) -> list[str]:
    """Rows whose keyframes do not open as images."""
    problems = []
    for row in table.select(["movie_id", "shot_index", "keyframes"]).to_pylist():
        for keyframe in row["keyframes"]:
            try:
                Image.open(BytesIO(keyframe["bytes"])).load()
            except Exception as error:
                problems.append(f"{row['movie_id']}, shot {row['shot_index']}: keyframe cannot be decoded ({error})")
    return problems
