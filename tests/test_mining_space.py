"""The spaces that scenes are compared in, against numpy loops; the same on every device and in every order."""

import json
import signal
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from forked_runs import ForkedRuns
from mining_catalog import (
    LENGTHS,
    PAIRS,
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
from data_scripts.mining.scenes import (
    WINDOW,
    exact_embedder,
    exact_whitener,
    film_windows,
    mine_scene_pairs,
    num_scene_pairs,
    window_scores,
)
from data_scripts.mining.spaces import (
    SHRINKAGE,
    MiningSpace,
    digest,
    dissimilar_films,
    mean_window,
    read_statistics,
    score_factor,
    shot_statistics,
    write_statistics,
)
from modeling_m2s.configuration_m2s import M2SMovieSimilarityConfig
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset, StorageError

DIM = 12
SPACES = [("whitened", False), ("model", True), ("both", True)]


def similarity_model(dim: int = DIM) -> M2SMovieSimilarityModel:
    torch.manual_seed(0)
    return M2SMovieSimilarityModel(M2SMovieSimilarityConfig(feature_dim=dim, hidden_size=dim))


def film(num_shots: int, seed: int, gaps: tuple[int, ...] = ()) -> torch.Tensor:
    """Features of shots with a large common part; `gaps` are shots without a keyframe."""
    features = np.random.default_rng(seed).normal(3, 1, (num_shots, DIM)) * np.geomspace(1, 0.1, DIM)
    features[list(gaps)] = 0
    return torch.from_numpy(features.astype(np.float16))


FILMS = {"a": film(40, 0), "b": film(65, 1, gaps=(0, 20, 21)), "c": film(9, 2), "d": film(30, 3, gaps=(4, 12, 20, 28))}


def space_of(name: str, center: bool, films: dict[str, torch.Tensor] = FILMS, device: str = "cpu") -> MiningSpace:
    """With its statistics; the films a to d are scaled by the scores of a and b, and of a and c."""
    learned = None if name == "whitened" else exact_embedder(similarity_model().to(device))
    space = MiningSpace(name, center, learned, torch.device(device))
    read = {movie_id: features.to(device) for movie_id, features in films.items()}.__getitem__
    space.use(space.measure(sorted(films), read, [("a", "b"), ("a", "c")]))
    return space


def learned_of(features: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return similarity_model().double().shot_embeddings(features.double()).numpy()


def windows_of(embeddings: np.ndarray, features: torch.Tensor) -> np.ndarray:
    """Mean embeddings of windows, NaN where a shot has no keyframe."""
    keyframes = features.numpy().any(1)
    return np.array(
        [
            embeddings[first : first + 9].mean(0) if keyframes[first : first + 9].all() else embeddings[0] * np.nan
            for first in range(len(embeddings) - 8)
        ]
    )


def written_out(name: str) -> dict[str, np.ndarray]:
    """Every film's window means in a space, by numpy without rounding."""
    shots = np.concatenate([features.double().numpy() for features in FILMS.values()])
    shots = shots[shots.any(1)]
    variances, axes = np.linalg.eigh(np.cov(shots.T))
    axes = axes / np.sqrt(variances + SHRINKAGE * variances.mean())
    whitened = {
        name: windows_of((features.double().numpy() - shots.mean(0)) @ axes, features)
        for name, features in FILMS.items()
    }
    learned = {name: windows_of(learned_of(features), features) for name, features in FILMS.items()}
    center = np.nanmean(np.concatenate(list(learned.values())), axis=0)
    learned = {name: windows - center for name, windows in learned.items()}
    if name == "both":
        parts = []
        for windows in (learned, whitened):
            scores = np.concatenate([(windows["a"] @ windows[other].T).ravel() for other in "bc"])
            parts.append({name: each / np.nanstd(scores) ** 0.5 for name, each in windows.items()})
        return {name: np.concatenate([part[name] for part in parts], 1) for name in FILMS}
    return whitened if name == "whitened" else learned


@pytest.mark.parametrize(("name", "center"), SPACES)
def test_scores_are_those_of_numpy(name, center):
    space, expected = space_of(name, center), written_out(name)
    assert np.isnan(expected["d"]).all()  # it has no usable window, so it counts in statistics of shots only
    for first, second in (("a", "b"), ("a", "a"), ("c", "b")):
        windows = [film_windows(FILMS[movie_id], space.embed) for movie_id in (first, second)]
        scores = (expected[first] @ expected[second].T)[np.ix_(*(each.usable_P.numpy() for each in windows))]
        assert np.abs(window_scores(*windows).numpy() - scores).max() < 1e-3 * np.abs(scores).max()


@pytest.mark.parametrize(("name", "center"), SPACES)
def test_threads_number_format_and_batch_do_not_show(name, center):
    threads, found = torch.get_num_threads(), []
    try:
        for number, dtype in ((1, torch.float16), (2, torch.float32), (3, torch.float64)):
            torch.set_num_threads(number)
            films = {movie_id: features.to(dtype) for movie_id, features in FILMS.items()}
            space = space_of(name, center, films)
            windows = {movie_id: film_windows(features, space.embed) for movie_id, features in films.items()}
            pairs = [(windows[a], windows[b]) for a, b in ("ab", "bc", "aa", "ad")]
            alone = [mine_scene_pairs([pair])[0] for pair in pairs]
            assert mine_scene_pairs(pairs) == alone
            found.append(alone)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2] and found[0][3] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "center"), SPACES)
def test_a_gpu_gives_the_same_windows(name, center):
    spaces = [space_of(name, center, device=device) for device in ("cpu", "cuda")]
    for features in FILMS.values():
        on_cpu, on_gpu = (film_windows(features.to(space.device), space.embed) for space in spaces)
        assert (on_cpu.sums_PD == on_gpu.sums_PD.cpu()).all() and on_cpu.scale == on_gpu.scale


@pytest.mark.parametrize("dim", [1, 7, 512])
def test_whitened_features_are_exact(dim):
    """Each equals the sum written out in fractions, with products all of one sign and at their bound."""
    generator = np.random.default_rng(dim)
    films = [torch.from_numpy(generator.normal(1, 0.5, (dim + 9, dim)))]
    statistics = {name: torch.from_numpy(values) for name, values in shot_statistics(films, 3).items()}
    axes = statistics["axes"].abs()
    features = statistics["mean"] + torch.linspace(0.9, 1, dim, dtype=torch.float64) * 100
    found = exact_whitener(statistics["mean"], axes)(features[None])
    rounded = ((features - statistics["mean"]) * 2.0**13).round() * 2.0**-13  # 100 is below 2**7; 20 bits are kept
    for column, value in zip(axes.T.tolist(), found[0].tolist(), strict=True):
        assert Fraction(value) == sum(Fraction(w) * Fraction(x) for w, x in zip(column, rounded.tolist(), strict=True))


def test_at_most_as_many_directions_as_asked_for():
    assert shot_statistics([FILMS["a"], FILMS["b"]], 5)["axes"].shape == (DIM, 5)
    assert shot_statistics([FILMS["a"], FILMS["b"]], 256)["axes"].shape == (DIM, DIM)
    assert shot_statistics([FILMS["c"]])["axes"].shape == (DIM, 8)  # nine shots


def test_shots_without_keyframes_are_not_in_the_statistics():
    without = [features[features.any(1)] for features in FILMS.values()]
    assert digest(shot_statistics(FILMS.values())) == digest(shot_statistics(without))
    embed = exact_embedder(similarity_model())
    sums = np.concatenate([windows_of(learned_of(features), features) for features in FILMS.values()])
    np.testing.assert_allclose(mean_window(FILMS.values(), embed), np.nanmean(sums, axis=0), atol=1e-4)
    assert not mean_window([FILMS["d"]], embed).any()


def test_shots_without_keyframes_are_zeros_in_every_space():
    for name, center in SPACES:
        embedded = space_of(name, center).embed(FILMS["b"].double())
        assert (embedded == 0).all(1).tolist() == [shot in (0, 20, 21) for shot in range(65)]


def test_a_space_without_spread_keeps_its_size():
    assert score_factor(lambda features: features * 0, [("a", "b")], FILMS.__getitem__) == 1
    assert score_factor(lambda features: features * 0 + 0.3, [("a", "b")], FILMS.__getitem__) == 1
    assert score_factor(lambda features: features, [("a", "d")], FILMS.__getitem__) == 1  # no usable window
    assert score_factor(lambda features: features, [], FILMS.__getitem__) == 1


def test_scores_of_the_sample_have_standard_deviation_one():
    factor = score_factor(lambda features: features, [("a", "b"), ("a", "c")], FILMS.__getitem__)
    scores = [window_scores(*(film_windows(FILMS[name].double() * factor) for name in pair)) for pair in ("ab", "ac")]
    assert torch.cat([each.flatten() for each in scores]).std(correction=0) == pytest.approx(1, abs=1e-3)


def test_a_small_spread_beside_a_large_mean_is_scaled():
    """However many scores there are: 1,504 here."""

    def embed(features):
        return torch.cat([torch.full_like(features, 100.0), features], 1)

    factor = score_factor(embed, [("a", "b"), ("a", "c")], FILMS.__getitem__)
    scores = [window_scores(*(film_windows(FILMS[name], embed) for name in pair)) for pair in ("ab", "ac")]
    spread = torch.cat([each.flatten() for each in scores]).std(correction=0)
    assert spread * factor**2 == pytest.approx(1, abs=1e-3) and factor < 0.9


def test_dissimilar_films_follow_from_the_seed_and_are_never_similar():
    films = [f"tt{number:07d}" for number in range(40)]
    similar = [(a, b) for a in films for b in films if a < b and int(b[2:]) - int(a[2:]) < 5]
    drawn = dissimilar_films(films, similar, seed=0, count=30)
    assert len(set(drawn)) == len(drawn) == 30 and not set(drawn) & set(similar)
    assert all(a < b for a, b in drawn)
    assert drawn == dissimilar_films(films[::-1], similar[::-1], seed=0, count=30)
    assert drawn != dissimilar_films(films, similar, seed=1, count=30)
    few = dissimilar_films(films[:6], similar, seed=0)
    assert few == [(films[0], films[5])]
    assert dissimilar_films(films[:5], similar, seed=0) == []


def test_statistics_come_back_as_they_were(tmp_path):
    statistics = {"axes": np.asfortranarray(np.random.default_rng(0).normal(size=(5, 3))), "mean": np.arange(5.0)}
    write_statistics(tmp_path / "statistics.safetensors", statistics)
    found = read_statistics(tmp_path / "statistics.safetensors")
    assert found.keys() == statistics.keys()
    assert all((found[name] == statistics[name]).all() for name in found)
    assert digest(found) == digest(statistics) != digest({**statistics, "mean": np.arange(5.0) + 1e-15})


def test_statistics_that_are_cut_are_refused(tmp_path):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, {"mean": np.arange(5.0)})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError, match=r"statistics.safetensors: cannot be read .*; remove .* and mine again"):
        read_statistics(path)


def test_equal_shots_cannot_be_whitened():
    with pytest.raises(ValueError, match="all 30 samples are equal"):
        shot_statistics([torch.ones(30, DIM)])
    with pytest.raises(ValueError, match="no films"):
        shot_statistics([])


# The command in these spaces, from here on.

MEASURED = [("whitened", []), ("model", ["--center"]), ("both", [])]
SAVED = {"data/train-00000.parquet", "m2s.json", "statistics.safetensors"}


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


def unrounded_windows(catalog: Path, films: dict[str, np.ndarray], space: str) -> dict[str, np.ndarray]:
    """Every film's window means, by numpy, in a space that needs statistics."""
    shots = np.concatenate(list(films.values())).astype(float)
    variances, axes = np.linalg.eigh(np.cov(shots.T))
    axes = axes / np.sqrt(variances + 0.02 * variances.mean())
    model = M2SMovieSimilarityModel.from_pretrained(catalog / "model").double()

    def means(shots: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(shots, 9, axis=0).mean(-1)

    whitened = {name: means((features.astype(float) - shots.mean(0)) @ axes) for name, features in films.items()}
    with torch.no_grad():
        learned = {
            name: means(model.shot_embeddings(torch.from_numpy(features).double()).numpy())
            for name, features in films.items()
        }
    center = np.concatenate(list(learned.values())).mean(0)
    learned = {name: windows - center for name, windows in learned.items()}
    if space == "both":
        pairs = [(a, b) for a in films for b in films if a < b and (a, b) not in PAIRS]
        parts = []
        for part in (learned, whitened):
            spread = np.concatenate([(part[a] @ part[b].T).ravel() for a, b in pairs]).std()
            parts.append({name: windows / spread**0.5 for name, windows in part.items()})
        return {name: np.concatenate([part[name] for part in parts], 1) for name in films}
    return whitened if space == "whitened" else learned


@pytest.mark.parametrize(("space", "more"), MEASURED)
def test_spaces_that_need_statistics_are_those_of_numpy(space, more, catalog, films):
    main(flags(catalog, "pairs", *more, space=space))
    windows, expected = unrounded_windows(catalog, films, space), []
    for (a, b), source in PAIRS.items():
        scores, found = windows[a] @ windows[b].T, []
        for _ in range(num_scene_pairs(LENGTHS[a], LENGTHS[b])):
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            found.append((a, row, b, column, WINDOW, pytest.approx(scores[row, column], rel=1e-3, abs=1e-3), source))
            scores[max(0, row - 8) : row + 9] = scores[:, max(0, column - 8) : column + 9] = -np.inf
        expected += sorted(found, key=lambda pair: pair[1])
    assert [tuple(row.values()) for row in rows(catalog, "pairs")] == expected


@pytest.mark.parametrize(("space", "more"), MEASURED)
def test_batch_and_memory_do_not_show(space, more, catalog):
    main(flags(catalog, "whole", *more, space=space))
    main(flags(catalog, "single", *more, "--batch_pairs", "1", "--cached_films", "1", space=space))
    assert tree(catalog / "single") == tree(catalog / "whole")
    assert tree(catalog / "whole").keys() == SAVED


def test_ranks_and_kills_do_not_show(catalog):
    """In the space that needs all statistics: killed before its record is there, and twice between films."""
    main(flags(catalog, "whole", space="both"))
    whole = tree(catalog / "whole")
    runs = ForkedRuns.start(
        "data_scripts.mine_scene_pairs",
        "data_scripts.mining.films",
        catalog,
        HF_DATASETS_CACHE=str(catalog / "cache"),
    )
    shared = runs.run(flags(catalog, "shared", space="both"), ranks=2)
    assert shared.status == 0, shared.err
    assert tree(catalog / "shared") == whole
    argv = flags(catalog, "killed", "--batch_pairs", "1", space="both")
    begin, write = (f"modeling_m2s.storage_m2s:FilmDataset.{name}" for name in ("begin", "write_film"))
    for die_at in ((begin, 1), (write, 3), (write, 2)):
        assert runs.run(argv, die_at=die_at).status == -signal.SIGKILL
    assert len(FilmDataset(catalog / "killed", "scene_pairs").films()) == 3
    ended = runs.run(argv)
    assert ended.status == 0 and "measuring" not in ended.out, ended.err
    assert tree(catalog / "killed") == whole
    runs.stop()


def test_the_record_tells_the_space(catalog):
    common = {"window", "sources", "features", "film_pairs"}
    records = {}
    for name, (space, more) in {
        "model": ("model", []),
        "features": ("features", []),
        "random": ("random", []),
        "centered": ("model", ["--center"]),
        "whitened": ("whitened", []),
        "both": ("both", []),
    }.items():
        main(flags(catalog, name, *more, space=space))
        settings = json.loads((catalog / name / "m2s.json").read_text())["settings"]
        assert settings["space"] == space
        records[name] = {key: value for key, value in settings.items() if key not in common | {"space"}}
    model, whitened = records["model"].pop("model"), {"num_directions": 256, "shrinkage": 0.02}
    assert (records["model"], records["features"], records["random"]) == ({}, {}, {"seed": 0})
    digests = {records[name].pop("statistics") for name in ("centered", "whitened", "both")}
    assert len(digests) == 3
    assert records["centered"] == {"center": True, "model": model}
    assert records["whitened"] == whitened
    assert records["both"] == {**whitened, "center": True, "model": model, "seed": 0}


@pytest.mark.parametrize(("space", "more"), MEASURED)
def test_only_listed_films_give_pairs_and_statistics(space, more, catalog, films):
    """As if the catalog held no others. A listed film without similar ones counts for nothing."""
    listed = ["tt0000001", "tt0000002", "tt0000003", "tt0000005", "tt0000006", "tt0000007"]
    (catalog / "listed.txt").write_text("\n".join(["# films to train on", *listed[:5], "", listed[5] + "  # alone"]))
    main(flags(catalog, "listed", *more, "--films", str(catalog / "listed.txt"), space=space))
    record = json.loads((catalog / "listed/m2s.json").read_text())
    assert record["failed"] == dict.fromkeys(("tt0000004", "tt0000008"), "not listed in --films")
    assert record["film_pairs_mined"] == 3
    write_similar(catalog / "similar_movies", [row for row in SIMILAR if {*row[:2]} <= {*listed}])
    write_features(catalog / "shot_features", {name: films[name] for name in listed})
    main(flags(catalog, "alone", *more, space=space))
    assert rows(catalog, "listed") == rows(catalog, "alone")
    assert tree(catalog / "listed")["statistics.safetensors"] == tree(catalog / "alone")["statistics.safetensors"]


def test_listed_films_need_no_features_of_others(catalog, films):
    del films["tt0000008"]
    write_features(catalog / "shot_features", films)
    (catalog / "listed.txt").write_text("\n".join(films))
    main(flags(catalog, "pairs", "--films", str(catalog / "listed.txt")))
    assert json.loads((catalog / "pairs/m2s.json").read_text())["failed"] == {"tt0000008": "not listed in --films"}


@pytest.mark.parametrize(("space", "more"), MEASURED)
def test_a_single_film_pair_is_enough(space, more, catalog):
    """No two films are dissimilar, and there are fewer shots than directions."""
    write_similar(catalog / "similar_movies", [("tt0000005", "tt0000001", "genre")])
    main(flags(catalog, "pairs", *more, space=space))
    assert len(rows(catalog, "pairs")) == num_scene_pairs(LENGTHS["tt0000001"], LENGTHS["tt0000005"])


def test_films_of_equal_shots_cannot_be_whitened(catalog, films):
    write_features(catalog / "shot_features", {name: np.ones_like(features) for name, features in films.items()})
    with pytest.raises(SystemExit, match="error: all 368 samples are equal"):
        main(flags(catalog, "pairs", space="whitened"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--space", "whitened", "--model", "model"], "--space whitened uses no model: leave out --model"),
        (["--space", "both"], "--space both needs a movie-similarity model: give --model"),
        (["--space", "whitened", "--center"], "center with space=whitened: only a learned space is centered"),
        (["--space", "random", "--center"], "center with space=random: only a learned space is centered"),
    ],
)
def test_spaces_and_models_that_do_not_go_together_are_refused(more, words, catalog):
    with pytest.raises(SystemExit, match=words):
        main([*flags(catalog, "pairs", space="features"), *more])
    assert not (catalog / "pairs").exists()


def test_another_space_needs_another_folder_and_is_refused_before_it_is_measured(catalog, capsys):
    main(flags(catalog, "pairs"))
    with pytest.raises(SystemExit, match="center is None there, True now"):
        main(flags(catalog, "pairs", "--center"))
    with pytest.raises(SystemExit, match="space is 'model' there, 'whitened' now"):
        main(flags(catalog, "pairs", space="whitened"))
    assert "measuring" not in capsys.readouterr().out
    assert tree(catalog / "pairs").keys() == SAVED - {"statistics.safetensors"}


def test_statistics_that_are_lost_are_taken_again_and_others_are_refused(catalog):
    main(flags(catalog, "pairs", space="whitened"))
    whole, path = tree(catalog / "pairs"), catalog / "pairs/statistics.safetensors"
    path.unlink()
    main(flags(catalog, "pairs", space="whitened"))
    assert tree(catalog / "pairs") == whole
    main(flags(catalog, "other", "--sources", "genre", space="whitened"))
    path.write_bytes((catalog / "other/statistics.safetensors").read_bytes())
    with pytest.raises(SystemExit, match=r"statistics is '\w+' there, '\w+' now"):
        main(flags(catalog, "pairs", space="whitened"))
    path.write_bytes(whole["statistics.safetensors"][:-8])
    with pytest.raises(SystemExit, match=r"statistics.safetensors: cannot be read"):
        main(flags(catalog, "pairs", space="whitened"))


def test_the_dataset_loads_beside_its_statistics(catalog):
    main(flags(catalog, "pairs", space="whitened"))
    loaded = datasets.load_dataset(str(catalog / "pairs"), split="train")
    assert loaded.to_list() == rows(catalog, "pairs")
