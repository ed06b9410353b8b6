"""`mine_scene_pairs`: every film pair once, the same bytes however it runs, what is skipped is counted and said."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from forked_runs import ROOT
from mining_catalog import (
    DIM,
    LENGTHS,
    PAIRS,
    SETTINGS,
    SIMILAR,
    features_of,
    flags,
    rows,
    write_catalog,
    write_features,
    write_similar,
)
from trees import tree

from data_scripts.mine_scene_pairs import main
from data_scripts.mining.scenes import WINDOW, exact_embedder, film_windows, mine_scene_pairs, num_scene_pairs
from modeling_m2s.configuration_m2s import M2SMovieSimilarityConfig
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """The Arrow copies of a test go with it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def films() -> dict[str, np.ndarray]:
    return {movie_id: features_of(movie_id, num_shots) for movie_id, num_shots in LENGTHS.items()}


@pytest.fixture
def catalog(films, tmp_path) -> Path:
    write_catalog(tmp_path, films)
    return tmp_path


@pytest.mark.parametrize("space", ["model", "features"])
def test_every_pair_of_similar_films_is_mined_once(space, catalog, films, capsys):
    main(flags(catalog, "pairs", space=space))
    embed = exact_embedder(M2SMovieSimilarityModel.from_pretrained(catalog / "model")) if space == "model" else None
    windows = {movie_id: film_windows(torch.from_numpy(features), embed) for movie_id, features in films.items()}
    expected = [
        (a, pair.first_shot_a, b, pair.first_shot_b, WINDOW, pytest.approx(pair.score, rel=1e-6), source)
        for (a, b), source in PAIRS.items()
        for pair in sorted(mine_scene_pairs([(windows[a], windows[b])])[0])
    ]
    assert [tuple(row.values()) for row in rows(catalog, "pairs")] == expected
    said = capsys.readouterr().out
    assert f"{len(expected)} scene pairs of 6 of 6 film pairs" in said and "skipped: no film" in said
    assert "quartiles" in said and "next: python -m data_scripts.pair_atlas" in said


def test_the_two_spaces_and_chance_differ(catalog):
    found = {}
    for space in ("model", "features", "random"):
        main(flags(catalog, space, space=space))
        found[space] = [(row["first_shot_a"], row["first_shot_b"]) for row in rows(catalog, space)]
    assert len(found["model"]) == len(found["features"]) == len(found["random"])
    assert found["model"] != found["features"] != found["random"] != found["model"]


def test_random_scenes_follow_from_the_seed(catalog):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main(flags(catalog, name, "--seed", seed, "--batch_pairs", {"a": "1"}.get(name, "5"), space="random"))
    assert tree(catalog / "a") == tree(catalog / "b")
    assert rows(catalog, "a") != rows(catalog, "c")


def test_only_the_sources_asked_for(catalog):
    main(flags(catalog, "pairs", "--sources", "co_watch", "synopsis"))
    found = {(row["movie_id_a"], row["movie_id_b"]): row["source"] for row in rows(catalog, "pairs")}
    assert found == {
        ("tt0000001", "tt0000002"): "co_watch",
        ("tt0000001", "tt0000003"): "co_watch",
        ("tt0000003", "tt0000004"): "synopsis",
        ("tt0000005", "tt0000006"): "co_watch",
    }


@pytest.mark.parametrize("more", [["--batch_pairs", "1"], ["--batch_pairs", "5", "--cached_films", "1"]])
def test_batch_and_memory_do_not_show(more, catalog):
    main(flags(catalog, "whole"))
    main(flags(catalog, "other", *more))
    assert tree(catalog / "other") == tree(catalog / "whole")


@pytest.mark.parametrize("kept", [1, 3])
def test_an_interrupted_run_is_finished_the_same(kept, catalog, monkeypatch):
    main(flags(catalog, "whole"))
    write_film = FilmDataset.write_film

    def interrupted(dataset, *film):
        if len(dataset.films()) == kept:
            raise KeyboardInterrupt
        write_film(dataset, *film)

    monkeypatch.setattr(FilmDataset, "write_film", interrupted)
    with pytest.raises(SystemExit):
        main(flags(catalog, "cut", "--batch_pairs", "1"))
    assert len(FilmDataset(catalog / "cut", "scene_pairs").films()) == kept
    monkeypatch.undo()
    main(flags(catalog, "cut"))
    assert tree(catalog / "cut") == tree(catalog / "whole")


@pytest.mark.slow
def test_a_killed_run_is_finished_the_same(catalog):
    command = [sys.executable, "-m", "data_scripts.mine_scene_pairs"]
    main(flags(catalog, "whole", space="features"))
    kills = 0
    while True:
        process = subprocess.Popen(
            [*command, *flags(catalog, "killed", "--batch_pairs", "1", space="features")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if kills < 1 and len(list(catalog.glob("killed/parts/*.parquet"))) > 1:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        if process.wait() == 0:
            break
        kills += 1
    assert kills == 1
    assert tree(catalog / "killed") == tree(catalog / "whole")


def test_films_that_are_kept_are_not_mined_again(catalog, monkeypatch):
    main(flags(catalog, "pairs"))
    whole = tree(catalog / "pairs")
    monkeypatch.setattr("data_scripts.mining.films.mine_scene_pairs", None)
    main(flags(catalog, "pairs"))
    assert tree(catalog / "pairs") == whole


@pytest.mark.slow
def test_two_processes_give_the_same(catalog):
    main(flags(catalog, "whole", space="features"))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "data_scripts.mine_scene_pairs", *flags(catalog, "shared", space="features")]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    assert tree(catalog / "shared") == tree(catalog / "whole")


def test_films_that_cannot_be_mined_are_counted_and_said(catalog, films, capsys):
    films["tt0000002"] = films["tt0000002"][:8]
    films["tt0000004"][::5] = 0
    write_features(catalog / "shot_features", films)
    (catalog / "listed.txt").write_text("".join(f"{name}\n" for name in films if name != "tt0000007"))
    main(flags(catalog, "pairs", "--films", str(catalog / "listed.txt")))
    mined = {(row["movie_id_a"], row["movie_id_b"]) for row in rows(catalog, "pairs")}
    assert mined == PAIRS.keys() - {
        ("tt0000001", "tt0000002"),
        ("tt0000003", "tt0000004"),
        ("tt0000007", "tt0000008"),
    }
    record = json.loads((catalog / "pairs/m2s.json").read_text())
    assert record["failed"] == {
        "tt0000002": "fewer than 9 shots",
        "tt0000004": "no 9 neighboring shots with keyframes",
        "tt0000007": "not listed in --films",
    }
    assert (record["film_pairs"], record["film_pairs_mined"]) == (6, 3)
    said = capsys.readouterr().out
    assert "of 3 of 6 film pairs" in said and "1 films (fewer than 9 shots)" in said


def test_the_guard_of_the_similar_films_is_recorded(catalog):
    main(flags(catalog, "pairs"))
    assert json.loads((catalog / "pairs/m2s.json").read_text())["leak_guard"]["lists"] == {}
    guard = {"lists": {"test.csv": 2}, "exclude": "2 films, 0123456789ab", "excluded": {"by id": 1}}
    write_similar(catalog / "similar_movies", SIMILAR, leak_guard=guard)
    main(flags(catalog, "guarded"))
    record = json.loads((catalog / "guarded/m2s.json").read_text())
    assert record["leak_guard"] == guard and record["settings"]["exclude"] == guard["exclude"]
    assert rows(catalog, "guarded") == rows(catalog, "pairs")


def test_pairs_whose_statistics_may_hold_excluded_films_need_another_folder(catalog):
    def exclude(**guard: object) -> None:
        write_similar(catalog / "similar_movies", SIMILAR, leak_guard={"lists": {}, **guard})

    exclude()
    main(flags(catalog, "pairs", space="whitened"))
    exclude(exclude="2 films, 0123456789ab")
    with pytest.raises(SystemExit, match="pairs was made with other settings: exclude is None there, '2 films, 01"):
        main(flags(catalog, "pairs", space="whitened"))
    exclude(require_imdb_id=True)
    with pytest.raises(SystemExit, match="require_imdb_id is None there, True now"):
        main(flags(catalog, "pairs", space="whitened"))
    exclude(require_imdb_id=False)
    main(flags(catalog, "pairs", space="whitened"))


def test_films_without_features_are_refused_or_skipped(catalog, films):
    del films["tt0000008"]
    write_features(catalog / "shot_features", films)
    with pytest.raises(SystemExit, match=r"lacks 1 films of .*similar_movies, tt0000008 for one; .*--allow-missing"):
        main(flags(catalog, "pairs"))
    main(flags(catalog, "pairs", "--allow_missing", "true"))
    assert json.loads((catalog / "pairs/m2s.json").read_text())["failed"] == {"tt0000008": "no shot features"}
    assert len({(row["movie_id_a"], row["movie_id_b"]) for row in rows(catalog, "pairs")}) == 4


def test_features_of_another_encoder_are_refused(catalog, films):
    write_features(catalog / "other", films, encoder="clip-large")
    with pytest.raises(
        SystemExit, match="other was made with other settings: encoder is 'clip-large' there, 'clip' now"
    ):
        main([*flags(catalog, "pairs"), "--features", str(catalog / "other")])


def test_features_of_another_vector_of_the_encoder_are_refused(catalog, films):
    write_features(catalog / "other", films, vector="pooler_output")
    with pytest.raises(SystemExit, match="other was made with other settings: vector is 'pooler_output' there, None"):
        main([*flags(catalog, "pairs"), "--features", str(catalog / "other")])
    assert not (catalog / "pairs").exists()


def test_the_numbers_of_shots_are_recorded(catalog, films):
    main(flags(catalog, "pairs"))
    stored = FilmDataset(catalog / "pairs", "scene_pairs").films()
    assert stored and all(film.facts["num_shots"] == len(films[movie_id]) for movie_id, film in stored.items())


def test_features_that_are_no_numbers_are_refused(catalog, films):
    films["tt0000003"][11, 4] = np.nan
    write_features(catalog / "shot_features", films)
    with pytest.raises(SystemExit, match="film tt0000003, shot 11: a feature is infinite or not a number"):
        main(flags(catalog, "pairs"))


@pytest.mark.parametrize(
    ("similar", "more", "words"),
    [
        ([], [], "has no pairs of similar films"),
        (SIMILAR, ["--sources", "genre", "co_rating"], "has no pairs of source co_rating, only of co_watch, genre"),
        ([("tt0000001", "tt0000001", "genre")], [], "film tt0000001 is similar to itself"),
        (SIMILAR, ["--batch_pairs", "0"], "batch_pairs=0 must be at least 1"),
        (SIMILAR, ["--space", "features"], "uses no model: leave out --model"),
        (SIMILAR, ["--films", "none.txt"], "none.txt"),
        (SIMILAR[-1:], ["--films", "listed.txt"], "none of 1 film pairs can be mined: 1 films .not listed in --films"),
    ],
)
def test_what_cannot_be_mined_is_refused(similar, more, words, catalog, monkeypatch):
    monkeypatch.chdir(catalog)
    Path("listed.txt").write_text("tt0000007\n")
    write_similar(catalog / "similar_movies", similar)
    with pytest.raises(SystemExit, match=f"data_scripts.mine_scene_pairs: error: .*{words}"):
        main(flags(catalog, "pairs", *more))
    assert not (catalog / "pairs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there_is_refused(catalog):
    with pytest.raises(SystemExit, match="device=cuda: torch finds no GPU"):
        main(flags(catalog, "pairs", "--device", "cuda"))


@pytest.mark.parametrize("change", ["a film replaced", "a film more", "a film less"])
def test_only_what_changed_is_mined_again(change, catalog, films, monkeypatch):
    similar, mined = SIMILAR, []
    if change == "a film more":
        write_similar(catalog / "similar_movies", [row for row in SIMILAR if "tt0000008" not in row])
    main(flags(catalog, "pairs"))
    if change == "a film replaced":
        films["tt0000002"] = films["tt0000002"][:-1]
        write_features(catalog / "shot_features", films)
    if change == "a film less":
        similar = [row for row in SIMILAR if "tt0000008" not in row]
    write_similar(catalog / "similar_movies", similar)
    write_film = FilmDataset.write_film

    def write(self: FilmDataset, movie_id: str, *rest) -> None:
        mined.append(movie_id)
        write_film(self, movie_id, *rest)

    monkeypatch.setattr(FilmDataset, "write_film", write)
    main(flags(catalog, "pairs"))
    first = {"a film replaced": "tt0000002", "a film more": "tt0000008", "a film less": "tt0000008"}[change]
    again = {a for a, b in PAIRS if first in (a, b)}
    if change == "a film less":
        again -= {a for a in again if all(first in pair for pair in PAIRS if pair[0] == a)}
    assert set(mined) == again and len(mined) < len({a for a, _ in PAIRS})
    main(flags(catalog, "fresh"))
    assert tree(catalog / "pairs") == tree(catalog / "fresh")


def test_pairs_of_an_earlier_release_go_on(catalog):
    """Earlier records name all film pairs as a setting, and films say nothing of what they were paired with."""
    main(flags(catalog, "pairs"))
    main(flags(catalog, "fresh"))
    path = catalog / "pairs/m2s.json"
    record = json.loads(path.read_text())
    record["settings"]["film_pairs"] = "5 pairs, 0123456789ab"
    path.write_text(json.dumps(record))
    main(flags(catalog, "pairs"))
    assert rows(catalog, "pairs") == rows(catalog, "fresh")


def test_processes_that_do_not_know_each_other_are_refused(catalog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="WORLD_SIZE=2, but this is one of num_processes=1"):
        main(flags(catalog, "pairs"))


def test_other_pairs_or_another_model_need_another_folder(catalog):
    main(flags(catalog, "pairs"))
    with pytest.raises(SystemExit, match=r"sources is \[\] there, \['co_watch', 'synopsis'\] now"):
        main(flags(catalog, "pairs", "--sources", "co_watch", "synopsis"))
    with pytest.raises(SystemExit, match="space is 'model' there, 'features' now"):
        main(flags(catalog, "pairs", space="features"))
    torch.manual_seed(1)
    config = M2SMovieSimilarityConfig(feature_dim=DIM, hidden_size=DIM, features=SETTINGS)
    M2SMovieSimilarityModel(config).save_pretrained(catalog / "model")
    with pytest.raises(SystemExit, match=r"model is '\w+' there, '\w+' now"):
        main(flags(catalog, "pairs"))


def test_as_many_scenes_as_the_shorter_film_gives(catalog):
    main(flags(catalog, "pairs"))
    counts: dict[tuple[str, str], int] = {}
    for row in rows(catalog, "pairs"):
        films = (row["movie_id_a"], row["movie_id_b"])
        counts[films] = counts.get(films, 0) + 1
    assert counts == {(a, b): num_scene_pairs(LENGTHS[a], LENGTHS[b]) for a, b in PAIRS}
