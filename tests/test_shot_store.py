"""The engine that fills a `shots` dataset: what is done, what stays, what is kept over a kill, and what it hands on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset

from modeling_m2s.schemas_m2s import SCHEMAS
from modeling_m2s.shot_store_m2s import ShotStore, read_shots, write_shots
from modeling_m2s.shots_m2s import Shot
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from modeling_m2s.video_m2s import fingerprint
from modeling_m2s.workers_m2s import Outcome

MEASURES = dict.fromkeys(["num_frames", "frame_rate", "duration_seconds", "width", "height"], 1)


class Kill(BaseException):
    """Ends a run without being handled."""


def shots_of(lengths: list[int]) -> list[Shot]:
    return [Shot(n, n, n + 1, n / 2, (n + 1) / 2, [n], [bytes([length])]) for n, length in enumerate(lengths)]


def store_text(movie_id: str, path: str, folder: str, report=None) -> None:
    """A film is a text file of numbers, one a shot."""
    text = Path(path).read_text()
    if not text:
        raise ValueError("it is empty")
    facts = {"video": path, "fingerprint": fingerprint(path), "damage": None, **MEASURES}
    write_shots(FilmDataset(Path(folder), "shots"), movie_id, shots_of(list(map(int, text.split()))), facts)


def one_by_one(function, inputs, report, **_) -> Iterator[Outcome]:
    """Does the work in this process, until a film's text is "kill"."""
    for key, arguments in inputs:
        if Path(arguments[1]).read_text() == "kill":
            raise Kill
        try:
            yield Outcome(key, function(*arguments, report=None))
        except (ValueError, StorageError) as error:
            yield Outcome(key, error=str(error), error_type=type(error).__name__)


def write_films(folder: Path, **texts: str) -> dict[str, Path]:
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def bring(folder: Path, films: dict[str, Path], grows: bool = True, fails: str = "") -> ShotStore:
    """A whole run; whoever works on the films makes those in `fails` fail."""
    store = ShotStore(folder / "shots", {"keyframes_per_shot": 1})
    store.plan(films, grows=grows)
    for film in store.run(store_text, one_by_one):
        if film.movie_id in fails:
            store.fail(film.movie_id, "no scenes")
    store.finish()
    return store


def lengths(folder: Path) -> dict[str, list[int]]:
    dataset = FilmDataset(folder / "shots", "shots")
    films = dataset.films(parts=False)
    assert [row["movie_id"] for row in load_dataset(str(folder / "films"), split="train")] == list(films)
    return {name: [shot.keyframes[0][0] for shot in read_shots(dataset, film)] for name, film in films.items()}


def recorded(folder: Path) -> dict[str, str]:
    return FilmDataset(folder / "shots", "shots").record["failed"]


def test_shots_come_back_as_they_were_written(tmp_path):
    dataset = FilmDataset(tmp_path, "shots")
    dataset.begin({})
    shots = shots_of(list(range(150)))
    write_shots(dataset, "a", shots, {})
    assert read_shots(dataset, dataset.part("a")) == shots
    assert read_shots(dataset, dataset.part("a"), 60, 70) == shots[60:130]
    for shot in shots:
        shot.keyframes = []
    assert read_shots(dataset, dataset.part("a"), 3, 64, with_keyframes=False) == shots[3:67]


def test_films_of_other_runs_stay_in_a_store_that_grows(tmp_path):
    bring(tmp_path, write_films(tmp_path, a="1 2", b="", c="3"))
    store = bring(tmp_path, write_films(tmp_path, d="4") | {"gone": tmp_path / "gone"})
    assert lengths(tmp_path) == {"a": [1, 2], "c": [3], "d": [4]}
    assert list(store.unreachable) == ["gone"]
    assert recorded(tmp_path) == {"b": f"{tmp_path}/b: it is empty"}
    bring(tmp_path, write_films(tmp_path, b="5"))
    assert lengths(tmp_path) == {"a": [1, 2], "b": [5], "c": [3], "d": [4]} and not recorded(tmp_path)


def test_films_of_other_runs_leave_a_store_of_a_catalog(tmp_path):
    bring(tmp_path, write_films(tmp_path, a="1 2", b="", c="3"), grows=False)
    bring(tmp_path, write_films(tmp_path, c="3", d="4") | {"gone": tmp_path / "gone"}, grows=False)
    assert lengths(tmp_path) == {"c": [3], "d": [4]}
    assert recorded(tmp_path) == {"gone": f"{tmp_path}/gone: No such file or directory"}


@pytest.mark.parametrize("grows", [False, True])
def test_a_film_that_was_replaced_by_a_file_that_fails_is_removed(grows, tmp_path):
    films = write_films(tmp_path, a="1", b="2")
    bring(tmp_path, films, grows)
    write_films(tmp_path, a="")
    bring(tmp_path, films, grows)
    assert lengths(tmp_path) == {"b": [2]} and list(recorded(tmp_path)) == ["a"]


@pytest.mark.parametrize("films_per_shard", [1, 16])
def test_failures_are_kept_over_a_kill_also_for_a_run_on_other_films(films_per_shard, tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEMAS, "shots", replace(SCHEMAS["shots"], films_per_shard=films_per_shard))
    with pytest.raises(Kill):
        bring(tmp_path, write_films(tmp_path, a="", b="1", c="kill", d="2"))
    write_films(tmp_path, a="3")
    bring(tmp_path, write_films(tmp_path, e="4"))
    assert lengths(tmp_path) == {"b": [1], "e": [4]}
    assert recorded(tmp_path) == {"a": f"{tmp_path}/a: it is empty"}
    bring(tmp_path, {"a": tmp_path / "a"})
    assert lengths(tmp_path) == {"a": [3], "b": [1], "e": [4]} and not recorded(tmp_path)


def test_within_an_unfinished_run_a_failed_film_is_not_tried_again(tmp_path):
    with pytest.raises(Kill):
        bring(tmp_path, write_films(tmp_path, a="", b="kill"))
    films = write_films(tmp_path, a="1", b="2")
    assert list(bring(tmp_path, films).failed) == ["a"] and lengths(tmp_path) == {"b": [2]}
    assert not bring(tmp_path, films).failed and lengths(tmp_path) == {"a": [1], "b": [2]}


def test_whoever_works_on_the_films_can_make_them_fail(tmp_path):
    films = write_films(tmp_path, a="1", b="2", c="3")
    bring(tmp_path, films, fails="b")
    assert lengths(tmp_path) == {"a": [1], "c": [3]} and recorded(tmp_path) == {"b": "no scenes"}
    bring(tmp_path, films, fails="a")  # a stored film; the other one is tried again
    assert lengths(tmp_path) == {"b": [2], "c": [3]} and recorded(tmp_path) == {"a": "no scenes"}


def test_stored_films_are_handed_on_first_then_each_as_it_is_done(tmp_path):
    bring(tmp_path, write_films(tmp_path, c="1", d="2"))
    store = ShotStore(tmp_path / "shots", {"keyframes_per_shot": 1})
    store.plan(write_films(tmp_path, a="3", b="", d="4", e="5"), grows=True)
    assert list(store.missing) == ["a", "b", "d", "e"]
    found = [(film.movie_id, film.num_rows) for film in store.run(store_text, one_by_one)]
    assert found == [("c", 1), ("a", 1), ("d", 1), ("e", 1)]


def test_other_settings_are_refused(tmp_path):
    bring(tmp_path, write_films(tmp_path, a="1"))
    with pytest.raises(StorageError, match="keyframes_per_shot is 1 there, 2 now"):
        ShotStore(tmp_path / "shots", {"keyframes_per_shot": 2})
