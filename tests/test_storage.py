"""Datasets on disk: films come back as written, here and through plain `datasets`; other folders and faults are named.

What a finished folder's bytes depend on is in `test_storage_crashes.py`.
"""

import functools
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_m2s import storage_m2s
from modeling_m2s.storage_m2s import (
    RECORD_NAME,
    SCHEMAS,
    FilmDataset,
    StorageError,
    StoredFilm,
    default_values,
    exclusive,
    file_name,
    write_json,
)

SETTINGS = {"detector": "content", "threshold": 27.0, "short_side": 12}
FAILED = {"broken": "broken.mp4: the file is empty", "audio": "audio.mp4: the file has no video stream"}
AWKWARD_IDS = ["", "..", ".hidden", "../../etc/passwd", "/etc/passwd", "C:\\con", "a/b\\c", "-rf *", "a\nb", "A", "a"]
AWKWARD_IDS += ["Am\u00e9lie", "Ame\u0301lie", "千と千尋 🎬", "long " * 100, "long " * 100 + ".", "tt0000001.parquet"]


def use_small_shards(films_per_shard: int = 2) -> None:
    SCHEMAS["shots"] = replace(SCHEMAS["shots"], films_per_shard=films_per_shard)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Two films a shard, so that a few films shift shards."""
    monkeypatch.setitem(SCHEMAS, "shots", SCHEMAS["shots"])
    use_small_shards()


@functools.cache
def jpeg(seed: int, width: int = 9, height: int = 5) -> bytes:
    """Random pixels, which hardly compress."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def shot_rows(movie_id: str, num_shots: int, images: list[bytes] | None = None, per_shot: int = 1) -> list[dict]:
    """A film's shots; every seventh has no keyframe."""
    images = images or [jpeg(0), jpeg(1), jpeg(2)]
    rows = []
    for shot in range(num_shots):
        places = range(per_shot if shot % 7 != 6 else 0)
        rows.append(
            {
                "movie_id": movie_id,
                "shot_index": shot,
                "start_frame": shot * 31,
                "end_frame": (shot + 1) * 31,
                "start_seconds": shot * 31 / 24,
                "end_seconds": (shot + 1) * 31 / 24,
                "keyframe_frames": [shot * 31 + place for place in places],
                "keyframes": [{"bytes": images[(shot + place) % len(images)], "path": None} for place in places],
            }
        )
    return rows


def film_rows(movie_id: str, version: int = 0) -> list[dict]:
    """One version of a film: an awkward number of shots."""
    return shot_rows(movie_id, random.Random(f"{movie_id} {version}").choice([1, 2, 9, 63, 64, 65, 130]))


def rows_of(dataset: FilmDataset, film: StoredFilm, *run: int) -> list[dict]:
    """The rows of a film, or of a run of its shots: first and how many."""
    return [row for table in dataset.read_film(film, *run) for row in table.to_pylist()]


def write(dataset: FilmDataset, movie_id: str, version: int = 0, rows: list[dict] | None = None) -> None:
    dataset.write_film(movie_id, film_rows(movie_id, version) if rows is None else rows, {"version": version})


def bring(folder: Path, films: dict[str, int], order=None, failed: dict[str, str] | None = None) -> FilmDataset:
    """Bring a folder to these versions of films: write what is missing or has changed, then pack.

    Films that failed in an earlier run stay in the record.
    """
    with exclusive(folder):
        dataset = FilmDataset(folder / "shots", "shots")
        dataset.begin(SETTINGS)
        stored, failed = dataset.films(), dataset.record["failed"] | (failed or {})
        missing = [name for name in films if name not in stored or stored[name].facts["version"] != films[name]]
        if order:
            order.shuffle(missing)
        for movie_id in missing:
            write(dataset, movie_id, films[movie_id])
        dataset.finish(films, failed, model="clip")
    return dataset


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes; of folders the names."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture(params=[False, True], ids=["parts", "finished"])
def three_films(request, tmp_path) -> tuple[FilmDataset, dict[str, list[dict]]]:
    """A dataset of three films, being written and finished, and their rows."""
    dataset = FilmDataset(tmp_path / "shots", "shots")
    dataset.begin(SETTINGS)
    rows = {name: shot_rows(name, num_shots) for name, num_shots in (("c", 65), ("a", 130), ("b", 1))}
    for movie_id in rows:
        write(dataset, movie_id, rows=rows[movie_id])
    if request.param:
        dataset.finish(rows, {})
    return dataset, rows


def test_films_come_back_row_by_row(three_films):
    dataset, rows = three_films
    films = dataset.films()
    assert list(films) == ["a", "b", "c"]
    for movie_id, film in films.items():
        assert rows_of(dataset, film) == rows[movie_id]
        assert (film.num_rows, film.facts) == (len(rows[movie_id]), {"version": 0})
        for first, num_rows in ((0, 1), (63, 2), (60, 70), (64, 1), (129, 1)):
            if first + num_rows <= film.num_rows:
                assert rows_of(dataset, film, first, num_rows) == rows[movie_id][first : first + num_rows]


def test_a_part_counts_before_what_was_packed(tmp_path):
    dataset = bring(tmp_path, {"a": 0, "b": 0})
    rows = shot_rows("a", 3)
    write(dataset, "a", version=1, rows=rows)
    for film in (dataset.part("a"), dataset.films()["a"]):
        assert film.facts == {"version": 1}
        assert rows_of(dataset, film) == rows


def test_only_the_row_groups_of_the_film_are_read(tmp_path):
    """The pages of all other films are overwritten with zeros, and the film still reads."""
    use_small_shards(films_per_shard=3)
    films = dict.fromkeys("abc", 0)
    dataset = bring(tmp_path, films)
    film = dataset.films()["b"]
    metadata = pq.read_metadata(film.path)
    data, row = bytearray(film.path.read_bytes()), 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if not film.first_row <= row < film.first_row + film.num_rows:
            for column in map(group.column, range(group.num_columns)):
                first = column.dictionary_page_offset or column.data_page_offset
                data[first : first + column.total_compressed_size] = bytes(column.total_compressed_size)
        row += group.num_rows
    film.path.write_bytes(data)
    assert [row["shot_index"] for row in rows_of(dataset, film)] == list(range(film.num_rows))
    for movie_id in "ac":
        with pytest.raises((OSError, pa.ArrowException)):
            rows_of(dataset, dataset.films()[movie_id])


@pytest.mark.parametrize("movie_id", AWKWARD_IDS, ids=range(len(AWKWARD_IDS)))
def test_no_id_leaves_the_folder(movie_id, tmp_path):
    name = file_name(movie_id)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name.isascii() and name.isprintable() and len(name) < 100 and not name.startswith(".")


def test_awkward_ids_are_kept_apart(tmp_path):
    assert len({file_name(movie_id).lower() for movie_id in AWKWARD_IDS}) == len(AWKWARD_IDS)
    dataset = bring(tmp_path / "in", dict.fromkeys(AWKWARD_IDS, 0))
    assert list(dataset.films()) == sorted(AWKWARD_IDS)
    assert set(dataset.read(["movie_id"])["movie_id"].to_pylist()) == set(AWKWARD_IDS)
    assert dataset.check() == []
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_rows_and_features(streaming, tmp_path):
    films = {"c": 0, "a": 0, "b": 0}
    dataset = bring(tmp_path, films)
    loaded = datasets.load_dataset(
        str(dataset.folder), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features == SCHEMAS["shots"].features
    expected = [row for movie_id in "abc" for row in film_rows(movie_id)]
    raw = loaded.cast_column("keyframes", datasets.List(datasets.Image(decode=False)))
    assert list(raw) == expected
    for row, expected_row in zip(loaded, expected, strict=True):
        for image, keyframe in zip(row["keyframes"], expected_row["keyframes"], strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(keyframe["bytes"]))))


def test_finished_folders_hold_shards_and_a_record_only(tmp_path):
    films = dict.fromkeys("abcde", 0)
    dataset = bring(tmp_path, films, random.Random(0), FAILED)
    assert list(contents(tmp_path)) == [
        "shots",
        "shots/data",
        *(f"shots/data/train-{shard:05d}.parquet" for shard in range(3)),
        "shots/m2s.json",
    ]
    table = dataset.read()
    places = list(zip(table["movie_id"].to_pylist(), table["shot_index"].to_pylist(), strict=True))
    assert places == sorted(set(places))
    assert [[f.movie_id for f in dataset.films().values() if f.path == p] for p in dataset.shard_paths()] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]
    record = dataset.record
    assert record.items() >= {"complete": True, "settings": SETTINGS, "failed": FAILED, "model": "clip"}.items()
    assert (record["num_films"], record["num_rows"]) == (5, len(table))


def test_row_groups_are_small_and_of_one_film(three_films):
    dataset, _ = three_films
    for path in dataset.folder.rglob("*.parquet"):
        metadata = pq.read_metadata(path)
        film_of_row = pq.read_table(path)["movie_id"].to_pylist()
        row = 0
        for group in range(metadata.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            assert num_rows <= 64
            assert len(set(film_of_row[row : row + num_rows])) == 1
            row += num_rows


@pytest.mark.parametrize("num_films", [0, 1, 2, 3])
def test_films_without_rows_and_empty_catalogs(tmp_path, num_films):
    dataset = FilmDataset(tmp_path, "shots")
    dataset.begin(SETTINGS)
    for movie_id in "abc"[:num_films]:
        write(dataset, movie_id, rows=shot_rows(movie_id, 5 if movie_id == "b" else 0))
    dataset.finish("abcd", {})
    assert [len(rows_of(dataset, film)) for film in dataset.films().values()] == [0, 5, 0][:num_films]
    assert dataset.read()["movie_id"].to_pylist() == ["b"] * (5 if num_films > 1 else 0)
    assert dataset.check() == []


def test_failures_are_known_until_the_film_is_written_or_the_dataset_finished(tmp_path):
    dataset = FilmDataset(tmp_path, "shots")
    dataset.begin(SETTINGS)
    for movie_id in reversed(AWKWARD_IDS):
        dataset.write_failure(movie_id, f"{movie_id!r} is broken")
    reasons = {movie_id: f"{movie_id!r} is broken" for movie_id in sorted(AWKWARD_IDS)}
    assert list(dataset.failures().items()) == list(reasons.items())
    assert dataset.films() == {}
    write(dataset, "A")
    del reasons["A"]
    assert dataset.failures() == reasons
    dataset.finish("A", reasons)
    assert dataset.failures() == {} and dataset.record["failed"] == reasons
    assert dataset.check() == []


def test_a_shard_packed_ahead_is_the_one_of_a_finished_dataset(tmp_path):
    bring(tmp_path / "fresh", dict.fromkeys("abc", 0))
    dataset = bring(tmp_path / "ahead", {})
    for movie_id in "bca":
        write(dataset, movie_id)
    dataset.pack(0, ["a", "b"])
    assert not dataset.record["complete"]
    assert [path.name[0] for path in (dataset.folder / "parts").iterdir()] == ["c"]
    packed = dataset.shard_path(0).read_bytes()
    bring(tmp_path / "ahead", dict.fromkeys("abc", 0))
    assert dataset.shard_path(0).read_bytes() == packed
    assert contents(tmp_path / "ahead") == contents(tmp_path / "fresh")


@dataclass
class ThisRelease:
    """Settings; the last two were added since the dataset was made."""

    detector: str
    threshold: float = 3.0
    names: list[str] = field(default_factory=lambda: ["a"])


def test_a_setting_that_a_dataset_lacks_is_its_default(tmp_path):
    FilmDataset(tmp_path, "shots").begin({"detector": "content"})
    now = ThisRelease("content")
    FilmDataset(tmp_path, "shots").begin(asdict(now), default_values(now))
    assert default_values(now) == default_values(ThisRelease) == {"threshold": 3.0, "names": ["a"]}
    for change, words in (
        ({"threshold": 4.0}, "threshold is 3.0 there, 4.0 now"),
        ({"names": []}, "names is ['a'] there, [] now"),
        ({"detector": "hash"}, "detector is 'content' there, 'hash' now"),
    ):
        with pytest.raises(StorageError, match=re.escape(words)) as refused:
            FilmDataset(tmp_path, "shots").begin(asdict(replace(now, **change)), default_values(now))
        assert str(refused.value).count(" there, ") == 1
    with pytest.raises(StorageError, match=r"threshold is None there, 3\.0 now"):
        FilmDataset(tmp_path, "shots").begin(asdict(now))


def test_a_column_that_an_earlier_release_did_not_write_is_read(tmp_path):
    """With its value in every row, whichever columns are asked for, in their order."""
    movies = FilmDataset(tmp_path / "movies", "movies")
    movies.begin({})
    film = {"title": "", "year": 0, "genres": [], "synopsis": "", "video": "", "excluded": "by id"}
    movies.write_all([{**film, "movie_id": name} for name in ("a", "b", "c")])
    assert movies.read(["excluded"]).to_pydict() == {"excluded": ["by id"] * 3}
    path = movies.shard_path(0)
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    with pq.ParquetWriter(path, table.drop_columns("excluded").schema) as writer:
        writer.write_table(table.drop_columns("excluded"))
        writer.add_key_value_metadata({"m2s.films": metadata[b"m2s.films"]})
    assert movies.check() == [f"{path}: holds other bytes than were written; make it again"]
    assert movies.read(["excluded"]).to_pydict() == {"excluded": [""] * 3}
    assert movies.read(["excluded", "movie_id"]).to_pydict() == {"excluded": [""] * 3, "movie_id": ["a", "b", "c"]}
    assert movies.read(["movie_id"]).column_names == ["movie_id"]
    rows = [{"movie_id": name, **film, "excluded": ""} for name in ("a", "b", "c")]
    assert movies.read().to_pylist() == rows
    assert [table.to_pylist() for table in movies.read_film(movies.films()["b"])] == [rows[1:2]]


def test_many_differences_are_not_all_told(tmp_path):
    FilmDataset(tmp_path, "shots").begin({f"s{number}": 0 for number in range(9)})
    with pytest.raises(StorageError, match=r"s5 is 0 there, 1 now; and 3 more\. Use the same"):
        FilmDataset(tmp_path, "shots").begin({f"s{number}": 1 for number in range(9)})


def test_other_settings_are_refused_with_both_values(tmp_path):
    dataset = FilmDataset(tmp_path, "shots")
    dataset.begin({**SETTINGS, "sizes": (3, 4)})
    dataset.begin({**SETTINGS, "sizes": (3, 4)})
    with pytest.raises(StorageError) as raised:
        dataset.begin({"detector": "hash", "threshold": 27.0, "sizes": (3, 5)})
    for part in (str(tmp_path), "'content' there, 'hash' now", "short_side is 12 there, None now", "[3, 4] there"):
        assert part in str(raised.value)
    assert "threshold" not in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "not a record"),
        (b'{"dataset": "shots", "sch', "not a record"),
        (b"[1, 2]", "not a record"),
        (b'{"schema_version": 1}', "not a record"),
        (b"\xff\xfe\xfd", "not a record"),
        (b'{"dataset": "films", "schema_version": 1}', r"holds \('films', 1\); expected \('shots', 1\)"),
        (b'{"dataset": "shots", "schema_version": 2}', r"holds \('shots', 2\); expected \('shots', 1\)"),
    ],
)
def test_other_records_are_refused(record, message, tmp_path):
    (tmp_path / RECORD_NAME).write_bytes(record)
    with pytest.raises(StorageError, match=message) as raised:
        FilmDataset(tmp_path, "shots").begin(SETTINGS)
    assert str(tmp_path / RECORD_NAME) in str(raised.value)


def test_records_are_utf8_whatever_the_locale(tmp_path):
    bring(tmp_path, {}, failed={"千と千尋": "🎬.mp4: empty"})
    script = f"""
import sys
sys.path.insert(0, {str(Path(storage_m2s.__file__).parents[1])!r})
from modeling_m2s.storage_m2s import FilmDataset
print(ascii(FilmDataset(sys.argv[1], "shots").record["failed"]))
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "shots"], env=environment, capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == ascii({"千と千尋": "🎬.mp4: empty"})


def rewrite(path: Path, change) -> None:
    """Change the table of a shard and keep its index of films."""
    table = pq.read_table(path)
    films = pq.read_metadata(path).metadata[b"m2s.films"]
    changed = change(table)
    pq.write_table(changed.replace_schema_metadata({**(changed.schema.metadata or {}), b"m2s.films": films}), path)


def change_record(path: Path, **changes) -> None:
    record = path.parents[1] / RECORD_NAME
    record.write_text(json.dumps(json.loads(record.read_bytes()) | changes))


def spoil_keyframe(path: Path) -> None:
    rows = shot_rows("d", 1)
    rows[0]["keyframes"][0]["bytes"] = jpeg(0)[:50]
    broken = pa.Table.from_pylist(rows, schema=SCHEMAS["shots"].features.arrow_schema)
    rewrite(path, lambda table: pa.concat_tables([table.slice(0, table.num_rows - 1), broken.take([0])]))


def overwrite(path: Path, start: int, stop: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def swap(first: int, second: int):
    def change(table: pa.Table) -> pa.Table:
        order = list(range(len(table)))
        order[first], order[second] = order[second], order[first]
        return table.take(order)

    return change


FAULTS = {
    "deleted": (Path.unlink, ["shards on disk and in the record differ", "the record says"]),
    "truncated": (lambda path: os.truncate(path, 3000), ["train-00001.parquet: holds no films"]),
    "overwritten": (lambda path: overwrite(path, 200, 400), ["train-00001.parquet: cannot be read"]),
    "foreign": (lambda path: pq.write_table(pa.table({"movie_id": ["x"]}), path), ["holds no films"]),
    "swapped": (lambda path: rewrite(path, swap(3, 4)), ["('c', 3) does not follow ('c', 4)"]),
    "mixed": (lambda path: rewrite(path, swap(0, -1)), ["films are not where its index says"]),
    "renamed": (lambda path: rewrite(path, lambda t: t.rename_columns(["film", *t.column_names[1:]])), ["columns"]),
    "keyframe": (spoil_keyframe, ["train-00001.parquet: d, shot 0: keyframe cannot be decoded"]),
    "doubled": (lambda path: shutil.copy(path, path.with_name("train-00003.parquet")), ["does not follow", "differ"]),
    "counted": (lambda path: change_record(path, num_rows=7), ["the record says 7 of 5"]),
    "unfinished": (lambda path: change_record(path, complete=False), ["shots: not finished"]),
    "unrecorded": (lambda path: (path.parents[1] / RECORD_NAME).unlink(), ["shots: no m2s.json"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault, tmp_path):
    dataset = bring(tmp_path, {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0})
    assert dataset.check() == []
    plant, messages = FAULTS[fault]
    plant(dataset.folder / "data" / "train-00001.parquet")
    problems = dataset.check()
    for message in messages:
        assert any(message in problem for problem in problems), problems


def test_an_index_of_films_is_written_at_once(tmp_path):
    """The `films` dataset finds a film's rows in plain Parquet, without this package."""
    shots = bring(tmp_path, {"a": 0, "b": 0, "c": 0})
    index = FilmDataset(tmp_path / "films", "films")
    for settings in ({"shots": shots.record["settings"]},) * 2:
        index.begin(settings)
        rows = [
            {"movie_id": f.movie_id, "shard": int(f.path.stem[-5:]), "first_row": f.first_row, "num_shots": f.num_rows}
            for f in shots.films().values()
        ]
        index.write_all(rows)
    assert index.check() == []
    assert [path.name for path in (tmp_path / "films").rglob("*.*")] == ["m2s.json", "train-00000.parquet"]
    loaded = datasets.load_dataset(str(index.folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == SCHEMAS["films"].features
    for row in loaded:
        shard = pq.read_table(shots.folder / f"data/train-{row['shard']:05d}.parquet")
        film = shard.slice(row["first_row"], row["num_shots"])
        assert film.to_pylist() == rows_of(shots, shots.films()[row["movie_id"]])


def test_films_without_a_record_are_not_mixed_with_others(tmp_path):
    dataset = bring(tmp_path, {"a": 0})
    (dataset.folder / RECORD_NAME).unlink()
    with pytest.raises(StorageError, match=r"holds 1 films but no m2s\.json"):
        dataset.begin(SETTINGS)


def test_a_reopened_dataset_is_unfinished_until_it_is_finished(tmp_path):
    dataset = bring(tmp_path, {"a": 0}, failed={"b": "broken"})
    dataset.reopen()
    assert dataset.check() == [f"{dataset.folder}: not finished"]
    dataset.finish("a", dataset.record["failed"])
    assert dataset.check() == [] and dataset.record["failed"] == {"b": "broken"}


def test_json_is_readable_and_whole(tmp_path):
    write_json(tmp_path / "a/b.json", {"a": 1, "b": ["é"]})
    text = (tmp_path / "a/b.json").read_text()
    assert json.loads(text) == {"a": 1, "b": ["é"]} and text.endswith("}\n") and text.count("\n") > 3
    with pytest.raises(TypeError):
        write_json(tmp_path / "a/b.json", {"a": object()})
    assert (tmp_path / "a/b.json").read_text() == text
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
