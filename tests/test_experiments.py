"""The experiments in film worlds: scenes, pairs and measurements counted by hand; the whole chain on a tiny world."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm, sem, spearmanr, t, ttest_1samp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from data_scripts.check import main as check_dataset
from data_scripts.features.shot_features import ShotFeatures
from data_scripts.make_film_world import main as make_film_world
from data_scripts.readers.scene_frames import SceneFrames
from eval.experiments import ExperimentsArguments, main
from eval.film_worlds.pair_sets import write_random_films, write_surest, write_true_pairs
from eval.film_worlds.pixels import shot_pixels
from eval.film_worlds.results import add_earlier, best_spaces, combine, hits_by_film, judge_claims
from eval.film_worlds.retrieval import (
    SPACES,
    draw_scenes,
    find_boundaries,
    judge,
    measure,
    places_and_groups,
    shot_means,
)
from eval.film_worlds.rows import CLAIMS, CORE, MINED, READ_BY_SHOT, TRAINED, UNTRAINED, Claim, rounds_before
from eval.film_worlds.steps import is_finished, run_once
from eval.film_worlds.tables import percent, tables
from eval.film_worlds.truth import TrueScene, read_truth, shares, true_scenes
from eval.film_worlds.worlds import ExperimentWorld, surest_shares
from eval.images.comparison import pixel_encoder
from eval.metrics.retrieval import chance, clustered_standard_error, precision_at_k, standard_error_of_sums
from eval.pixel_features import main as write_pixels
from eval.scene_retrieval import SceneRetrievalArguments
from eval.scene_retrieval import main as measure_scenes
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.pipeline_m2s import open_image
from modeling_m2s.pretrained_m2s import load_encoder
from modeling_m2s.shot_store_m2s import read_shots
from modeling_m2s.storage_m2s import FilmDataset, StorageError, write_json

RESULTS = Path(__file__).parent.parent / "eval/results"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Ten films of twenty seconds."""
    folder = tmp_path_factory.mktemp("world")
    sizes = ["--num_films", "10", "--film_seconds", "20", "--width", "64", "--height", "36", "--num_places", "6"]
    make_film_world(["--output", str(folder), "--keyframes_only", *sizes])
    return folder


@pytest.fixture(scope="module")
def held_out(world) -> Path:
    path = world.parent / "held_out.txt"
    path.write_text("".join(f"{movie_id}\n" for movie_id in sorted(read_truth(world / "truth/shots.csv"))[:6]))
    return path


def write_features(folder: Path, truth: dict, dim: int = 7, missing: tuple[str, int] | None = None) -> None:
    random = np.random.default_rng(0)
    dataset = FilmDataset(folder, "shot_features")
    dataset.begin({"encoder": "random"})
    rows = []
    for movie_id, shots in sorted(truth.items()):
        features = random.normal(loc=3, size=(len(shots), dim)).astype("<f2")
        if missing and missing[0] == movie_id:
            features[missing[1]] = 0
        row = {"movie_id": movie_id, "num_shots": len(shots), "dim": dim, "dtype": "float16"}
        rows.append({**row, "features": features.tobytes()})
    dataset.write_all(rows)


def shots_of(*scenes: tuple[str, int]) -> list[dict[str, str]]:
    """Shots of scenes, each a place and a number of shots."""
    return [
        {"scene": str(number), "place": place, "event": f"event {number}", "light": "day", "theme": "war"}
        for number, (place, count) in enumerate(scenes)
        for _ in range(count)
    ]


TRUTH = {
    "a": shots_of(("mill", 6), ("mill", 12), ("cave", 9)),
    "b": shots_of(("mill", 10), ("cave", 6)),
    "c": shots_of(("cave", 2), ("shore", 5)),  # too short for a window
    "d": shots_of(("shore", 9), ("cave", 4), ("mill", 5)),  # its cave is less than half a window
}


def test_scenes_are_runs_of_shots_of_one_scene():
    assert true_scenes(TRUTH, ["b", "a"]) == [
        TrueScene("b", 0, 10, "mill", "event 0"),
        TrueScene("b", 10, 6, "cave", "event 1"),
        TrueScene("a", 0, 6, "mill", "event 0"),
        TrueScene("a", 6, 12, "mill", "event 1"),
        TrueScene("a", 18, 9, "cave", "event 2"),
    ]


def test_true_pairs_are_windows_of_scenes_of_one_place(tmp_path):
    write_true_pairs(tmp_path / "pairs", TRUTH, list("dbca"), 1000, seed=0)
    dataset = FilmDataset(tmp_path / "pairs", "scene_pairs")
    assert dataset.check() == []
    rows = dataset.read().to_pylist()
    windows = {
        TrueScene("a", 0, 6, "mill"): range(1),  # around the scene, from the film's first shot on
        TrueScene("a", 6, 12, "mill"): range(6, 10),  # inside the scene
        TrueScene("a", 18, 9, "cave"): range(18, 19),
        TrueScene("b", 0, 10, "mill"): range(2),
        TrueScene("b", 10, 6, "cave"): range(7, 8),  # around the scene, to the film's last shot
        TrueScene("d", 0, 9, "shore"): range(1),
        TrueScene("d", 13, 5, "mill"): range(9, 10),
    }
    possible = {
        (one.movie_id, other.movie_id, first, second)
        for one, firsts in windows.items()
        for other, seconds in windows.items()
        for first in firsts
        for second in seconds
        if one.movie_id < other.movie_id and one.place == other.place
    }
    found = {(row["movie_id_a"], row["movie_id_b"], row["first_shot_a"], row["first_shot_b"]) for row in rows}
    assert found <= possible
    # Rows differ in the first three; each of these is drawn in so many draws.
    assert {pair[:3] for pair in found} == {pair[:3] for pair in possible}
    assert len(rows) == len(found) and {row["num_shots"] for row in rows} == {9}
    assert shares(rows, TRUTH)["place"] == 1
    assert surest_shares(tmp_path / "pairs", TRUTH).keys() == {"all"}  # true pairs are all equally sure


def test_true_pairs_follow_from_the_seed(tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_true_pairs(tmp_path / name, TRUTH, list("abd"), 5, seed)
    one, again, other = (FilmDataset(tmp_path / name, "scene_pairs").read() for name in ("one", "again", "other"))
    assert one == again and one != other and len(one) == 5
    write_true_pairs(tmp_path / "one", TRUTH, list("abd"), 5, 1)
    with pytest.raises(StorageError, match="seed is 1 there, 2 now"):
        write_true_pairs(tmp_path / "one", TRUTH, list("abd"), 5, 2)
    with pytest.raises(ValueError, match="no two of 1 films"):
        write_true_pairs(tmp_path / "none", TRUTH, list("ac"), 5, 2)


def write_similar(folder: Path, pairs: list[tuple[str, str]]) -> None:
    ranks, rows = Counter(), []
    for film, similar in sorted(pairs):
        ranks[film] += 1
        row = {"movie_id": film, "similar_movie_id": similar, "rank": ranks[film], "score": 1.0, "source": "synopsis"}
        rows.append(row)
    dataset = FilmDataset(folder, "similar_movies")
    dataset.begin({"sources": ["synopsis"]})
    dataset.write_all(rows)


def test_random_films_are_as_many_and_not_similar(tmp_path):
    films = [f"f{number:02d}" for number in range(12)]
    similar = [(films[n], films[(n + step) % 12]) for n in range(12) for step in (1, 2, 11)]  # 24 pairs, some twice
    write_similar(tmp_path / "similar", similar)
    write_random_films(tmp_path / "random", tmp_path / "similar", films[:10], seed=3)
    dataset = FilmDataset(tmp_path / "random", "similar_movies")
    assert dataset.check() == []
    drawn = [(row["movie_id"], row["similar_movie_id"]) for row in dataset.read().to_pylist()]
    known = {tuple(sorted(pair)) for pair in similar}
    assert len(set(drawn)) == len(drawn) == sum(set(pair) <= set(films[:10]) for pair in known)
    assert not known & set(drawn) and {film for pair in drawn for film in pair} <= set(films[:10])
    assert all(one < other for one, other in drawn)
    with pytest.raises(ValueError, match="any two of 2 films are similar"):
        write_random_films(tmp_path / "none", tmp_path / "similar", films[:2], seed=3)


def test_a_step_is_not_done_twice(tmp_path, capfd):
    recipe = tmp_path / "list.txt"
    recipe.write_text("one")
    script = tmp_path / "step_of_a_test.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "output = pathlib.Path(sys.argv[-1])\n"
        "assert os.environ['OMP_NUM_THREADS'] == '1'\n"
        "if 'fail' in sys.argv: sys.exit('no such thing')\n"
        "output.write_text(str(len(output.parent.name)) + output.read_text() if output.exists() else 'x')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    output = tmp_path / "output"

    def step(*words) -> None:
        run_once("step_of_a_test", *words, output=output, environment=environment)

    with pytest.raises(ValueError, match=r"step_of_a_test fail .* ended with 1: no such thing"):
        step("fail")
    for _ in range(2):
        step(recipe, tmp_path / "folder", 3)
        assert output.read_text() == "x"
    assert json.loads((tmp_path / "output.done.json").read_text())["command"][2:] == ["folder", "3"]
    with pytest.raises(StorageError, match=r"was made by step_of_a_test .* 3, not by .* 4; remove it"):
        step(recipe, tmp_path / "folder", 4)
    recipe.write_text("two")
    with pytest.raises(StorageError, match=r"was made by step_of_a_test list.txt:"):
        step(recipe, tmp_path / "folder", 3)
    output.unlink()
    step(recipe, tmp_path / "folder", 3)
    settings = tmp_path / "recipe.yaml"
    settings.write_text("steps: 3\n")
    output.unlink()
    step(settings)
    settings.write_text("# a comment\nsteps: 3\n")
    step(settings)
    settings.write_text("steps: 4\n")
    with pytest.raises(StorageError, match=r"was made by step_of_a_test recipe\.yaml:"):
        step(settings)
    (tmp_path / "output.done.json").unlink()
    capfd.readouterr()
    step("someone else's")
    assert "is taken as it is" in capfd.readouterr().err and output.read_text() == "x"


def test_what_is_finished(tmp_path, world):
    assert not is_finished(tmp_path) and is_finished(world) and is_finished(world / "shots")
    dataset = FilmDataset(tmp_path / "similar", "similar_movies")
    dataset.begin({})
    assert not is_finished(tmp_path / "similar")
    dataset.write_all([])
    assert is_finished(tmp_path / "similar")
    (tmp_path / "results.json").write_text("{}")
    assert is_finished(tmp_path)


def test_scenes_of_held_out_and_of_training_films(world, held_out):
    truth, films = read_truth(world / "truth/shots.csv"), held_out.read_text().split()
    arguments = SceneRetrievalArguments(world, held_out, Path("unused"), model="m2s-clip-tiny")
    queries, training = draw_scenes(arguments)
    assert queries == true_scenes(truth, films) and training == true_scenes(truth, sorted(set(truth) - set(films)))
    arguments.num_films, arguments.num_training_scenes = 4, 3
    fewer, some = draw_scenes(arguments)
    chosen = {scene.movie_id for scene in fewer}
    assert len(chosen) == 4 and fewer == [scene for scene in queries if scene.movie_id in chosen]
    assert len(some) == 3 and some == [scene for scene in training if scene in some]
    assert draw_scenes(arguments) == (fewer, some)


def test_mean_of_single_shots(tmp_path):
    truth = {"a": shots_of(("mill", 20), ("cave", 4)), "b": shots_of(("mill", 5)), "c": shots_of(("mill", 30))}
    write_features(tmp_path / "features", truth, missing=("a", 21))
    scenes = [TrueScene("a", 0, 20, "mill"), TrueScene("a", 20, 4, "cave"), TrueScene("b", 0, 5, "mill")]
    table = FilmDataset(tmp_path / "features", "shot_features").read().to_pylist()
    shots = {row["movie_id"]: np.frombuffer(row["features"], "<f2").reshape(-1, 7).astype(float) for row in table}
    read = {0: [1, 3, 5, 7, 10, 12, 14, 16, 18], 1: [20, 22, 23], 2: [0, 1, 2, 3, 4]}  # shot 21 has no keyframe
    raw = shot_means(tmp_path / "features", {"a", "b"}, "raw")(scenes)
    whitened = shot_means(tmp_path / "features", {"a", "b"}, "whitened")(scenes)
    mean, covariance = shots["c"].mean(0), np.cov(shots["c"].T)
    variances, axes = np.linalg.eigh(covariance)
    scale = 1 / np.sqrt(variances + 0.02 * variances.mean())
    for number, scene in enumerate(scenes):
        chosen = shots[scene.movie_id][read[number]]
        assert raw[number] == pytest.approx(chosen.mean(0))
        expected = ((chosen - mean) @ axes * scale).mean(0)
        assert np.sort(np.abs(whitened[number])) == pytest.approx(np.sort(np.abs(expected)), abs=1e-6)
    around = shot_means(tmp_path / "features", {"a", "b"}, "raw", context_shots=3)([scenes[1]])  # the film ends at 24
    assert around[0] == pytest.approx(shots["a"][[17, 18, 19, 20, 22, 23]].mean(0))
    arguments = SceneRetrievalArguments(tmp_path, tmp_path, tmp_path, features=tmp_path, context_shots=3)
    of_scenes = shot_means(tmp_path / "features", {"a", "b"}, "raw")
    assert find_boundaries(of_scenes, whitened, truth, ["a"], arguments) == {}  # both sides of a cut would share shots
    arguments.context_shots = 0
    assert find_boundaries(of_scenes, whitened, truth, ["a"], arguments).keys() == {"boundaries"}
    with pytest.raises(ValueError, match="film a, shots from 21 on: none has a keyframe"):
        shot_means(tmp_path / "features", set(), "raw")([TrueScene("a", 21, 1, "cave")])


def test_pixels_as_features(world, tmp_path):
    """Those of the middle keyframes, of mean 0 and standard deviation 1, as the rival of image encoders has them."""
    write_pixels(["--shots", str(world / "shots"), "--output", str(tmp_path / "features")])
    features = ShotFeatures(tmp_path / "features", tmp_path / "cache")
    films = FilmDataset(world / "shots", "shots").films()
    assert features.movie_ids == sorted(films) and features.dim == 192
    for film in list(films.values())[:3]:
        shots = read_shots(FilmDataset(world / "shots", "shots"), film)
        expected = pixel_encoder([open_image(shot.keyframes[0]) for shot in shots])
        in_file_order = expected.reshape(-1, 8, 8, 3).transpose(0, 3, 1, 2).reshape(-1, 192)
        np.testing.assert_allclose(features[film.movie_id], in_file_order, rtol=1e-3, atol=1e-3)
    pixels_MCYX = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    assert not shot_pixels(pixels_MCYX, torch.tensor([True, False]))[1].any()  # a shot without a keyframe


def test_judging_with_statistics_of_training_scenes_alone():
    random = np.random.default_rng(5)
    centers, place = random.normal(size=(3, 5)), random.integers(3, size=90)
    points = centers[place] + random.normal(size=(90, 5)) * [1, 2, 3, 1, 5] + 10
    scenes = [
        TrueScene(f"f{n % 9}" if n < 50 else f"t{n % 4}", n, 3, f"place {place[n]}", f"event {n % 2}")
        for n in range(90)
    ]
    values = judge(points[:50], scenes[:50], points[50:], scenes[50:])
    films = [scene.movie_id for scene in scenes[:50]]
    mean = points[50:].mean(0)
    variances, axes = np.linalg.eigh(np.cov(points[50:].T))
    whitened = (points[:50] - mean) @ axes / np.sqrt(variances + 0.02 * variances.mean())
    for space, expected in (("raw", points[:50]), ("centered", points[:50] - mean), ("whitened", whitened)):
        for k, hits in precision_at_k(expected, place[:50], films).items():
            assert values[f"{space}/precision_at_{k}"] == pytest.approx(hits)
    scaler = StandardScaler().fit(points[50:])
    for name, label in (("probe", place), ("event_probe", np.arange(90) % 2)):
        probe = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(points[50:]), label[50:])
        assert values[name].tolist() == (probe.predict(scaler.transform(points[:50])) == label[:50]).tolist()
        assert 0 < values[name].mean() < 1


def test_neighbors_among_training_scenes_alone():
    random = np.random.default_rng(6)
    points, place = random.normal(size=(40, 4)), random.integers(3, size=40)
    scenes = [TrueScene(f"f{n % 5}", n, 3, f"place {place[n]}") for n in range(40)]
    queries, training = scenes[:15], scenes[15:]
    values = judge(points[:15], queries, points[15:], training, "training")
    for query in range(15):
        cosines = points[15:] @ points[query] / np.linalg.norm(points[15:], axis=1)
        hits = place[15:][np.argsort(-cosines)] == place[query]
        assert values["raw/precision_at_1"][query] == hits[0]
        assert values["raw/precision_at_5"][query] == pytest.approx(hits[:5].mean())
        at_hits = hits.cumsum()[hits] / (np.flatnonzero(hits) + 1)
        assert values["raw/average_precision"][query] == pytest.approx(at_hits.mean())
    found = chance(*places_and_groups(queries, training, "training"))[:15]
    assert found == pytest.approx([(place[15:] == place[query]).mean() for query in range(15)])


def test_measuring_an_encoder(world, held_out, tiny_folder, tmp_path):
    output = tmp_path / "measured.json"
    words = ["--world", str(world), "--held-out", str(held_out), "--model", str(tiny_folder), "--output", str(output)]
    measure_scenes([*words, "--bf16", "false"])
    measurement = json.loads(output.read_text())
    queries, training = draw_scenes(SceneRetrievalArguments(world, held_out, output, model="unused"))
    encoder, image_processor, _ = load_encoder(str(tiny_folder))
    frames = SceneFrames(world / "shots", image_processor)

    def embed(scene: TrueScene) -> np.ndarray:
        read = min(scene.num_shots, 9)
        shots = [scene.first_shot + int((place + 0.5) * scene.num_shots / read) for place in range(read)]
        pixels = torch.cat([frames.read(scene.movie_id, shot, 1).pixels_FCYX for shot in shots])
        with torch.inference_mode():
            return encoder(normalize(pixels, image_processor)[None]).pooler_output[0].numpy()

    points = np.stack([embed(scene) for scene in queries])
    films, places = [scene.movie_id for scene in queries], [scene.place for scene in queries]
    expected = precision_at_k(points, places, films)[1]
    assert measurement["queries"]["raw/precision_at_1"] == expected.tolist()
    assert measurement["queries"]["movie_id"] == films
    assert measurement["figures"]["raw/precision_at_1"] == {
        "mean": round(float(expected.mean()), 4),
        "standard_error": round(clustered_standard_error(expected, films), 4),
    }
    counts = measurement["counts"]
    assert (counts["queries"], counts["films"], counts["training_scenes"]) == (len(queries), 6, len(training))


def test_what_cannot_be_measured(world, held_out, tmp_path):
    def arguments(path: Path, **options) -> SceneRetrievalArguments:
        return SceneRetrievalArguments(world, path, tmp_path / "measured.json", **options)

    for options in ({}, {"model": "m2s-clip-tiny", "features": tmp_path}):
        with pytest.raises(ValueError, match="one of them"):
            arguments(held_out, **options)
    with pytest.raises(ValueError, match="--context-shots 2 is for --features"):
        arguments(held_out, model="m2s-clip-tiny", context_shots=2)
    with pytest.raises(ValueError, match="--shot-space whitened is for --features"):
        arguments(held_out, model="m2s-clip-tiny", shot_space="whitened")
    with pytest.raises(ValueError, match="--position-interpolation repeat is for --model"):
        arguments(held_out, features=tmp_path, position_interpolation="repeat")
    path = tmp_path / "films.txt"
    path.write_text("tt1\ntt2\n")
    with pytest.raises(ValueError, match=r"names film tt1, which .* does not have"):
        measure(arguments(path, model="m2s-clip-tiny"))
    films = sorted(read_truth(world / "truth/shots.csv"))
    path.write_text("\n".join(films))
    with pytest.raises(ValueError, match="names all films"):
        measure(arguments(path, model="m2s-clip-tiny"))
    for count in (0, 1):
        path.write_text("\n".join(films[:count]))
        with pytest.raises(ValueError, match=f"names {count} films; retrieval needs at least two"):
            measure(arguments(path, model="m2s-clip-tiny"))


def measurement(films: list[str], **values: list[float]) -> dict:
    """A measurement with precision at 1 by space, zero where it is not given."""
    columns = {f"{space}/precision_at_1": values.get(space, [0.0] * len(films)) for space in SPACES}
    figures = {name: {"mean": float(np.mean(each))} for name, each in columns.items()}
    return {"queries": {"movie_id": films, "first_shot": list(range(len(films))), **columns}, "figures": figures}


def seed_figures(measurements: dict, place_shares: dict[str, float] | None = None) -> dict:
    """A seed's figures, as far as results are made of them."""
    encoders = {
        name: {each: figure["mean"] for each, figure in found["figures"].items()}
        for name, found in measurements.items()
    }
    pairs = {name: {"all": {"place": share}} for name, share in (place_shares or {}).items()}
    return {"encoders": encoders, "scene_pairs": pairs, "films": hits_by_film(measurements)}


def test_claims_of_few_seeds_are_paired_and_clustered_by_film():
    films = ["x", "x", "y", "z", "z"]
    hits = [[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    rivals = [[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]]
    measurements = [
        {
            "mean_of_shots": measurement(films, raw=rivals[seed]),
            "both": measurement(films, whitened=hits[seed], raw=[1] * 5),
        }
        for seed in range(2)
    ]
    seeds = {str(seed): seed_figures(each) for seed, each in enumerate(measurements)}
    spaces = best_spaces(seeds)
    assert spaces == {"mean_of_shots": "raw", "both": "whitened"}  # a rival has the space in which it does best
    claim = Claim("training helps", "both", "mean_of_shots")
    (found,) = judge_claims([claim], seeds, spaces)
    differences = np.subtract(hits, rivals).ravel()
    numbered = [f"{place // 5} {films[place % 5]}" for place in range(10)]
    assert found == {
        "claim": "training helps",
        "better": "both",
        "worse": "mean_of_shots",
        "mean": round(differences.mean(), 4),
        "standard_error": round(clustered_standard_error(differences, numbered), 4),
        "standard_error_by": "film",
        "seeds_above_zero": 2,
        "seeds": 2,
        "verdict": "open",
    }
    sure = {"1": seed_figures({"mean_of_shots": measurement(films), "both": measurement(films, whitened=[1] * 5)})}
    (found_in_one,) = judge_claims([claim], sure, spaces)
    assert (found_in_one["mean"], found_in_one["verdict"]) == (1, "open")  # nothing tells how much seeds differ
    assert judge_claims([Claim("training helps", "learned", "both")], seeds, spaces) == []
    third = seed_figures({"mean_of_shots": measurement(films, raw=[1] * 5)})
    assert judge_claims([claim], {**seeds, "2": third}, spaces) == [found]  # a seed with one row does not count
    measurements[1]["both"]["queries"]["first_shot"] = [0, 1, 2, 3, 9]
    with pytest.raises(ValueError, match="mean_of_shots and both were measured on different scenes"):
        hits_by_film(measurements[1])


def test_claims_are_judged_by_the_spread_over_seeds():
    films = [str(film) for film in range(10)]
    hits = {"both": [7, 8, 6, 9], "learned": [2, 4, 3, 2], "frozen": [2, 3, 4, 2], "one_shot": [3], "grid": [0]}
    seeds = {
        str(seed): seed_figures(
            {
                name: measurement(films, whitened=[1] * found[seed] + [0] * (10 - found[seed]))
                for name, found in hits.items()
                if seed < len(found)
            }
        )
        for seed in range(4)
    }
    claims = [
        Claim("a", "both", "learned"),
        Claim("b", "frozen", "learned"),
        Claim("c", "learned", "both"),
        Claim("d", "both", "one_shot"),
        Claim("e", "both", "grid"),
    ]
    found = judge_claims(claims, seeds, best_spaces(seeds))
    both, learned, frozen = (np.array(hits[name]) / 10 for name in ("both", "learned", "frozen"))
    for judged, differences, verdict in (
        (found[0], both - learned, "holds"),
        (found[1], frozen - learned, "open"),
        (found[2], learned - both, "fails"),
    ):
        assert (judged["verdict"], judged["standard_error_by"], judged["seeds"]) == (verdict, "seed", 4)
        assert (judged["mean"], judged["standard_error"]) == pytest.approx(
            (differences.mean(), sem(differences)), abs=1e-4
        )
        assert (judged["verdict"] == "open") == (ttest_1samp(differences, 0).pvalue > 0.05)
    spread = np.sqrt(np.mean([np.var(each, ddof=1) for each in (both - learned, frozen - learned, learned - both)]))
    for judged, expected in ((found[3], 0.4), (found[4], 0.7)):  # of one seed: by film, or as the others vary
        by_film = clustered_standard_error(np.array([1.0] * int(10 * expected) + [0] * int(10 - 10 * expected)), films)
        assert judged["mean"] == pytest.approx(expected)
        assert judged["standard_error"] == pytest.approx(max(spread, by_film), abs=1e-4)
        assert judged["standard_error_by"] == ("film" if by_film > spread else "other claims")
    assert [each["verdict"] for each in found[3:]] == ["open", "holds"]
    assert norm.ppf(0.975) < found[3]["mean"] / found[3]["standard_error"] < t.ppf(0.975, 3)


def test_standard_error_of_sums_is_that_of_values():
    films, values = ["x", "y", "x", "z", "z", "x"], np.array([0.0, 1, 1, 1, 0, 0])
    sums = Counter()
    for film, value in zip(films, values - values.mean(), strict=True):
        sums[film] += value
    expected = (3 / 2 * sum(total**2 for total in sums.values())) ** 0.5 / 6
    assert clustered_standard_error(values, films) == pytest.approx(expected)
    assert standard_error_of_sums(np.array([1.0, 1, 1]), np.array([3, 1, 2])) == pytest.approx((0.5, expected))


def test_results_of_several_calls_are_put_together(tmp_path):
    films = ["x", "x", "y", "z"]
    settings, path = {"films": 4}, tmp_path / "results.json"

    def results(number: int, *names: str) -> dict:
        random = np.random.default_rng(number)
        hits = {name: random.integers(2, size=4).tolist() for name in ("frozen_encoder", *TRAINED)}
        rows = {name: {"row": name} for name in ("frozen_encoder", *names)}
        measurements = {name: measurement(films, whitened=hits[name]) for name in rows}
        shares = {name: hits[name][0] + 0.1 * place for place, name in enumerate(names)}
        return combine(settings, rows, {str(number): seed_figures(measurements, shares)})

    core = ("frozen", "whitened", "learned", "both", "true_places")
    write_json(path, results(10, *core))
    write_json(path, add_earlier(results(2, *core, "one_shot"), path))
    together = add_earlier(results(2, "both", "genre"), path)
    assert list(together["seeds"]) == ["2", "10"] and list(together["rows"]) == [
        "frozen_encoder", *core, "genre", "one_shot"
    ]  # fmt: skip
    assert together["seeds"]["10"] == results(10, *core)["seeds"]["10"]
    whole = results(2, *core, "genre", "one_shot")["seeds"]["2"]
    assert together["seeds"]["2"]["encoders"] == whole["encoders"]
    assert together["seeds"]["2"]["films"]["hits"] == whole["films"]["hits"]
    groups = together["over_seeds"]
    assert [group["seeds"] for group in groups] == [["2", "10"], ["2"]]
    assert groups[0]["encoders"].keys() == {"frozen_encoder", *core}
    assert groups[1]["encoders"].keys() == together["rows"].keys()
    spread = groups[0]["rank_correlation"]
    expected = []
    for figures in together["seeds"].values():
        names = [name for name in core if name != "true_places"]  # the sets that both seeds have
        shares = [figures["scene_pairs"][name]["all"]["place"] for name in names]
        found = [figures["encoders"][name]["whitened/precision_at_1"] for name in names]
        expected.append(spearmanr(shares, found).statistic)
    assert spread["mean"] == pytest.approx(np.mean(expected), abs=1e-4)
    for figures in together["seeds"].values():  # also of rows that were run without the row of true places
        found = {name: each["whitened/precision_at_1"] for name, each in figures["encoders"].items()}
        if (gap := found["true_places"] - found["frozen_encoder"]) > 0:
            for name in figures["encoders"].keys() - {"frozen_encoder"}:
                share = (found[name] - found["frozen_encoder"]) / gap
                assert figures["encoders"][name]["share_of_gap"] == pytest.approx(share, abs=1e-4)
    assert any("share_of_gap" in figures["encoders"]["both"] for figures in together["seeds"].values())
    counted = {claim["claim"]: claim["seeds"] for claim in together["claims"]}
    assert counted["both spaces beat whitening alone"] == 2 and counted["four shots beat one"] == 1

    other = results(3, *core)
    other["settings"] = {"films": 5}
    with pytest.raises(StorageError, match=r"results.json: films is 4 there, 5 now; write into another file"):
        add_earlier(other, path)
    moved = results(2, "both")
    moved["seeds"]["2"]["films"]["queries"] = "1 2 1"
    with pytest.raises(StorageError, match="seed 2 was measured on other scenes"):
        add_earlier(moved, path)
    old = results(10, *core)  # as an early release wrote it, without hits by film
    del old["seeds"]["10"]["films"]
    assert combine(settings, old["rows"], old["seeds"])["claims"] == []  # one such seed cannot tell
    write_json(path, old)
    together = add_earlier(results(2, *core), path)
    judged = next(each for each in together["claims"] if each["claim"] == "both spaces beat whitening alone")
    precision = [
        {name: seed["encoders"][name]["whitened/precision_at_1"] for name in ("both", "whitened")}
        for seed in together["seeds"].values()
    ]
    differences = [each["both"] - each["whitened"] for each in precision]
    assert (judged["seeds"], judged["standard_error_by"]) == (2, "seed")
    assert judged["mean"] == pytest.approx(np.mean(differences), abs=1e-4)
    assert judged["standard_error"] == pytest.approx(abs(differences[0] - differences[1]) / 2, abs=1e-4)


def test_the_surest_pairs_are_counted_apart(tmp_path):
    rows = [
        {"movie_id_a": "a", "movie_id_b": "b", "first_shot_a": 0, "first_shot_b": first, "num_shots": 5, "source": "x"}
        for first in (10, 0, 1, 2)
    ]
    dataset = FilmDataset(tmp_path / "pairs", "scene_pairs")
    dataset.begin({"space": "x"})
    rows = [{**row, "movie_id_a": f"a{n}", "score": float(n)} for n, row in enumerate(rows)]
    dataset.write_all(rows)
    truth = {**{f"a{n}": TRUTH["a"] for n in range(4)}, "b": TRUTH["b"]}
    found = surest_shares(tmp_path / "pairs", truth)
    assert {name: each["scene_pairs"] for name, each in found.items()} == {
        "all": 4,
        "surest_third": 1,
        "surest_tenth": 1,
    }
    assert found["all"]["place"] == 0.75 and found["surest_third"]["place"] == 1 and found["all"]["theme"] == 1
    write_surest(tmp_path / "surest", tmp_path / "pairs", 0.5)
    half = FilmDataset(tmp_path / "surest", "scene_pairs")
    assert half.check() == [] and half.record["settings"] == {"space": "x", "surest_share": 0.5}
    assert half.read().to_pylist() == dataset.read().to_pylist()[2:]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("experiments*.json")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_committed_results(path):
    assert path.with_suffix(".md").read_text() == tables(json.loads(path.read_text()))


def test_rows_name_one_another():
    assert {row.pairs for row in TRAINED.values()} <= MINED.keys() and set(CORE) <= TRAINED.keys()
    names = [*TRAINED, *UNTRAINED, *READ_BY_SHOT]
    assert len(set(names)) == len(names)
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} <= set(names)
    assert all(each.encoder in TRAINED and each.rival in UNTRAINED for each in READ_BY_SHOT.values())
    assert rounds_before("third_round") == ["second_round", "whitened"] and rounds_before("both") == []


def test_which_rows_are_trained(tmp_path):
    for options, message in (
        ({"rows": ["learnt"]}, "rows learnt must be among core, others, all, untrained, by_shot, random_films, "),
        ({"rows": []}, "at least one"),
        ({"seeds": []}, "at least one"),
        ({"workers": 0}, "workers is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ExperimentsArguments(tmp_path, **options)

    def rows(*names: str) -> list[str]:
        return ExperimentsArguments(tmp_path, rows=list(names)).trained_rows()

    assert rows("untrained") == [] and rows("untrained", "both") == ["both"]
    assert rows("by_shot") == ["whitened", "learned"]
    assert rows("core") == list(CORE) and set(rows("all")) == TRAINED.keys()
    assert set(rows("core", "others")) == TRAINED.keys() and rows("one_shot", "both") == ["both", "one_shot"]
    assert rows("third_round") == ["whitened", "second_round", "third_round"]  # what it needs comes first


def test_held_out_films_take_part_in_nothing(tmp_path, world):
    (tmp_path / "seed-3").mkdir()
    (tmp_path / "seed-3/world").symlink_to(world)
    experiment = ExperimentWorld(3, [], ExperimentsArguments(tmp_path))
    experiment.hold_out()
    held_out, training = experiment.held_out.read_text().split(), experiment.training.read_text().split()
    assert len(held_out) == 2 and sorted(held_out + training) == sorted(read_truth(world / "truth/shots.csv"))
    experiment.draw_films(0.5, tmp_path / "films/half.txt", tmp_path / "films/not_half.txt")
    half, rest = (set((tmp_path / f"films/{name}.txt").read_text().split()) for name in ("half", "not_half"))
    assert len(half) == 4 and half < set(training) and rest == {*held_out, *training} - half
    movies = experiment.catalog("movies_half", tmp_path / "films/not_half.txt")
    rows = FilmDataset(movies, "movies").read(["movie_id", "excluded"]).to_pylist()
    assert {row["movie_id"] for row in rows if not row["excluded"]} == half and len(rows) == 10


def photographs(folder: Path) -> Path:
    """Six pictures of two classes in either part, of noise around a color."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for number, kind in enumerate(("Coast", "Forest")):
            (folder / part / kind).mkdir(parents=True)
            for picture in range(6):
                pixels = random.integers(100, size=(40, 50, 3)) + 100 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / kind / f"{picture}.png")
    return folder


@pytest.mark.slow
def test_the_whole_experiment_runs_and_goes_on(tmp_path, capsys):
    mil, moco = tmp_path / "mil.yaml", tmp_path / "moco.yaml"
    mil.write_text("max_shots: 64\naverage_kernel: 8\naverage_stride: 4\nmax_kernel: 8\nmax_stride: 4\nepochs: 2\n")
    moco.write_text("max_steps: 2\nbatch_size: 4\nshots_per_scene: 2\npatch_dropout: 0.5\nqueue_size: 8\n")
    words = ["--output", str(tmp_path / "run"), "--results", str(tmp_path / "results.json"), "--seeds", "5"]
    words += ["--mil-recipe", str(mil), "--recipe", str(moco), "--momentum-recipe", str(moco)]
    words += ["--num-films", "40", "--film-seconds", "40", "--queried-films", "8", "--training-scenes", "40"]
    words += ["--boundary-films", "3", "--scratch", str(tmp_path / "copies")]
    rows = ["both", "surest_third", "true_places", "second_round", "momentum"]
    words += ["--pictures", str(photographs(tmp_path / "pictures"))]
    main([*words, "--rows", *rows, "three_keyframes", "by_shot"])
    results = json.loads((tmp_path / "results.json").read_text())
    found, folder = results["seeds"]["5"], tmp_path / "run/seed-5"
    # The second round needs `whitened`, and so do the rows by shot, which need `learned` as well.
    assert found["training"].keys() == {*rows, "three_keyframes", "whitened", "learned"}
    for name, row in READ_BY_SHOT.items():
        assert name in found["encoders"] and results["spaces"][name] == results["spaces"][row.rival]
        command = json.loads((folder / f"measured/{name}.json.done.json").read_text())["command"]
        flags = ["--shot-space", "whitened"] if row.rival == "mean_of_whitened_shots" else ["--world"]
        assert command[2 : 3 + len(flags)] == [f"../features_by/{row.encoder}", *flags]
    assert {each["steps"] for each in found["training"].values()} == {2}
    assert found["encoders"].keys() == set(results["rows"]) and "frozen_grid" not in found["encoders"]
    assert found["scene_pairs"]["true_places"]["all"]["place"] == 1
    assert found["pictures"].keys() == {"frozen_encoder", "both", "learned", "true_places"}
    assert all(set(each) == {"nearest", "linear"} for each in found["pictures"].values())
    held_out = set((folder / "held_out_films.txt").read_text().split())
    for mined in found["scene_pairs"]:
        table = FilmDataset(folder / f"pairs/{mined}", "scene_pairs").read().to_pydict()
        assert not {*table["movie_id_a"], *table["movie_id_b"]} & held_out, mined
        check_dataset([str(folder / f"pairs/{mined}")])
    recipe = json.loads((folder / "runs/three_keyframes/results.json").read_text())["recipe"]
    assert recipe["frames_per_shot"] == 3
    claims = {claim["claim"] for claim in results["claims"]}
    assert "a second round of mining helps" in claims and "more films beat a third of them" not in claims
    assert (tmp_path / "results.md").read_text() in capsys.readouterr().out and os.listdir(tmp_path / "copies")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    main([*words, "--rows", *rows])  # fewer rows of what is there
    again = json.loads((tmp_path / "results.json").read_text())
    assert again == results  # what this call did not run is kept
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before
    moco.write_text("max_steps: 3\n")
    with pytest.raises(SystemExit, match=r"eval.experiments: error: .*was made by train.train_moco moco.yaml:"):
        main([*words, "--rows", *rows])


def test_the_readmes_table_is_that_of_the_results():
    results = json.loads((RESULTS / "experiments.json").read_text())
    lines = (RESULTS.parent.parent / "README.md").read_text().splitlines()
    shown = {
        "encoder before training": "frozen_encoder",
        "free rival: mean of single shots": "mean_of_shots",
        "free rival: mean of whitened single shots": "mean_of_whitened_shots",
        "free rival without any encoder: 8×8 pixels": "mean_of_whitened_pixels",
        "trained on pairs mined in frozen features": "frozen",
        "trained on pairs mined by the paper's rule": "learned",
        "the same, frozen features whitened, no MIL (ours)": "whitened",
        "upper bound: trained on truly equal places": "true_places",
    }
    found = {}
    for line in lines:
        label, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        if label in shown:
            found[shown[label]] = cells
    encoders = results["over_seeds"][0]["encoders"]
    for name in shown.values():
        place = encoders[name][f"{results['spaces'][name]}/precision_at_1"]
        assert found[name] == [percent(place), percent(encoders[name]["probe"]), percent(encoders[name]["boundaries"])]
