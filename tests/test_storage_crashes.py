"""The bytes of a finished folder depend on films and settings alone; a run that ends in the middle costs nothing.

Folders are compared with those of one undisturbed run: after random histories, kills at random moments, a crash at
every rename and removal, a full disk.
"""

import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_storage import FAILED, SETTINGS, bring, contents, jpeg, shot_rows, use_small_shards, write

from modeling_m2s.storage_m2s import SCHEMAS, FilmDataset, StorageError, atomic_write, exclusive


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Two films a shard, so that a few films shift shards."""
    monkeypatch.setitem(SCHEMAS, "shots", SCHEMAS["shots"])
    use_small_shards()


def random_films(generator: random.Random) -> dict[str, int]:
    names = generator.sample("abcdefghijk", generator.randint(3, 8))
    return {f"film {name}": generator.randint(0, 1) for name in names}


def assert_whole(folder: Path) -> None:
    """Every file that is under its final name can be read, and what is called complete is."""
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            pq.read_table(path)
    dataset = FilmDataset(folder / "shots", "shots")
    assert dataset.record or not dataset.films()
    assert not dataset.record.get("complete") or dataset.check() == []
    for film in dataset.films().values():
        named = [name for table in dataset.read_film(film) for name in table["movie_id"].to_pylist()]
        assert named == [film.movie_id] * film.num_rows


def start(function, *arguments):
    """A process that runs the function with a connection as its last argument, and the other end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modeling_m2s.storage_m2s", "pytest"])
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.parametrize("seed", range(6))
def test_bytes_do_not_depend_on_history(seed, tmp_path):
    """Catalogs that grow, shrink and replace films, runs that wrote films and never packed, any order of writing."""
    generator = random.Random(seed)
    use_small_shards(films_per_shard=1 + seed % 3)
    bring(tmp_path / "history", {}, failed=dict(reversed(FAILED.items())))
    for _ in range(4):
        films = random_films(generator)
        dataset = bring(tmp_path / "history", films, generator)
        for movie_id, version in random_films(generator).items():
            write(dataset, movie_id, version)
    bring(tmp_path / "history", films, generator)
    bring(tmp_path / "fresh", films, failed=FAILED)
    assert contents(tmp_path / "history") == contents(tmp_path / "fresh")


def test_bytes_of_large_films_survive_repacking(tmp_path):
    """Column chunks of more than a page of bytes, and of more values than Parquet writes at a time."""
    large = shot_rows("b", 70, [jpeg(i, 96, 90) for i in range(64)], per_shot=3)
    many = shot_rows("c", 70, per_shot=31)
    for folder, rounds in ((tmp_path / "fresh", ["bc"]), (tmp_path / "repacked", ["bc", "abc", "bc"])):
        dataset = FilmDataset(folder, "shots")
        dataset.begin(SETTINGS)
        write(dataset, "b", rows=large)
        write(dataset, "c", rows=many)
        write(dataset, "a")
        for catalog in rounds:
            dataset.finish(catalog, {})
            if "a" not in catalog and catalog is not rounds[-1]:
                write(dataset, "a")
    assert dataset.read().to_pylist() == large + many
    assert contents(tmp_path / "fresh") == contents(tmp_path / "repacked")


def test_finishing_again_writes_no_shard(tmp_path):
    """Only shards whose films changed are written again."""
    dataset = bring(tmp_path, dict.fromkeys("abcdef", 0))
    before = [path.stat().st_ino for path in dataset.shard_paths()]
    bring(tmp_path, dict.fromkeys("abcdef", 0) | {"d": 1})
    after = [path.stat().st_ino for path in dataset.shard_paths()]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


BEFORE = {"a": 0, "b": 0, "d": 0, "f": 0, "g": 0}
AFTER = {"a": 0, "c": 0, "d": 1, "e": 0, "f": 0, "g": 0, "h": 0}


class Crash(BaseException):
    """Ends a run without being handled, as a kill does."""


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("films", [(BEFORE, AFTER), (AFTER, BEFORE)], ids=["grows", "shrinks"])
def test_a_crash_at_any_rename_or_removal_costs_nothing(films, late, tmp_path, monkeypatch):
    bring(tmp_path / "old", films[0], failed=FAILED)
    bring(tmp_path / "fresh", films[1], failed=FAILED)
    steps: Iterator[int] = iter([])

    def crashing(function):
        def call(*arguments, **options):
            crash = next(steps, None) is None
            if late or not crash:
                function(*arguments, **options)
            if crash:
                raise Crash

        return call

    for step in itertools.count():
        folder, steps = tmp_path / str(step), iter(range(step))
        shutil.copytree(tmp_path / "old", folder)
        with monkeypatch.context() as patch:
            for owner, name in ((os, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, crashing(getattr(owner, name)))
            try:
                bring(folder, films[1])
                break
            except Crash:
                pass
        assert_whole(folder)
        bring(folder, films[1])
        assert contents(folder) == contents(tmp_path / "fresh")
    assert step > 10


def rewrite_forever(folder: Path, seed: int, connection) -> None:
    """A process that brings the folder to one random catalog after the other and says so."""
    use_small_shards()
    generator = random.Random(seed)
    while True:
        bring(folder, random_films(generator), generator)
        connection.send("again")


def test_kills_at_random_moments_cost_nothing(tmp_path):
    bring(tmp_path / "fresh", AFTER, failed=FAILED)
    folder, generator, num_unfinished = tmp_path / "killed", random.Random(0), 0
    bring(folder, BEFORE, failed=FAILED)
    for seed in range(12):
        process, connection = start(rewrite_forever, folder, seed)
        connection.recv()
        time.sleep(generator.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert_whole(folder)
        files = contents(folder)
        num_unfinished += "shots/parts" in files or not json.loads(files["shots/m2s.json"])["complete"]
    assert num_unfinished
    bring(folder, AFTER)
    assert contents(folder) == contents(tmp_path / "fresh")


def bring_within(folder: Path, num_bytes: int, connection) -> None:
    """A process whose files cannot grow beyond this size; it sends the error."""
    use_small_shards()
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    try:
        bring(folder, AFTER, failed=FAILED)
    except StorageError as error:
        connection.send(str(error))


@pytest.mark.parametrize(("num_bytes", "name"), [(100, "m2s.json"), (9000, "parts/c-"), (18000, "data/train-00000")])
def test_no_space_is_said_and_costs_nothing(num_bytes, name, tmp_path):
    folder = tmp_path / "full"
    process, connection = start(bring_within, folder, num_bytes)
    message = connection.recv()
    process.join()
    assert message.startswith(f"{folder}/shots/{name}") and message.endswith("cannot be written (File too large)")
    assert not list(folder.rglob("*.tmp"))
    assert_whole(folder)
    bring(folder, AFTER, failed=FAILED)
    bring(tmp_path / "fresh", AFTER, failed=FAILED)
    assert contents(folder) == contents(tmp_path / "fresh")


def hold(folder: Path, connection) -> None:
    """A process that holds the folder until it is killed."""
    with exclusive(folder):
        connection.send("held")
        connection.recv()


def test_one_run_holds_a_folder_and_a_killed_one_lets_go(tmp_path):
    process, connection = start(hold, tmp_path / "index")
    assert connection.recv() == "held"
    with pytest.raises(StorageError, match="index: another run is writing here"):
        exclusive(tmp_path / "index").__enter__()
    with exclusive(tmp_path / "other"):
        process.kill()
    process.join()
    for _ in range(2):
        with exclusive(tmp_path / "index"), pytest.raises(StorageError, match="another run"):
            exclusive(tmp_path / "index").__enter__()


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "data").mkdir()
    for name in (".settings.tmp", "film.tmp", "data/.notes.tmp"):
        (tmp_path / name).touch()
    before = contents(tmp_path)
    with pytest.raises(Crash), atomic_write(tmp_path / "data/shard") as file:
        Path(file.name).with_suffix(".tmp.kept").hardlink_to(file.name)
        raise Crash
    (kept,) = tmp_path.rglob("*.kept")
    kept.rename(kept.with_suffix(""))
    assert contents(tmp_path) != before
    with exclusive(tmp_path):
        assert contents(tmp_path) == before


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as file:
        file.write(b"first")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(path) as file:
            file.write(b"second, and half of it")
            assert path.read_bytes() == b"first"
            raise error
    assert contents(path.parent) == {"file": b"first"}
