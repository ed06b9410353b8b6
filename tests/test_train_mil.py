"""Movie-similarity training: pairs, features and scores against loops written out; the real command, killed anywhere.

Whatever happened to a run, its network's bytes and its log are those of one run that nothing disturbed, on one process
and on two.
"""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from forked_runs import ROOT, ForkedRuns
from hub_server import Hub
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import AutoModel

from data_scripts.features.shot_features import ShotFeatures
from m2s.commands import parse
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from train.arguments import RunArguments
from train.mil.loop import PairLoss, is_over, plan_steps, step_loss
from train.mil.pairs import FilmReader, LabeledPairs, SimilarFilms
from train.mil.recipe import MILData, MILRecipe
from train.mil.scores import network_scores, scores, trivial_scores
from train.mil.whitening import inverse_root, unwhiten, whiten

DIM = 12
SIZES = {"max_shots": 20, "average_kernel": 4, "average_stride": 2, "max_kernel": 4, "max_stride": 2, "hidden_dim": 8}


def movie_ids(count: int) -> list[str]:
    return [f"tt{1_000_000 + number}" for number in range(count)]


def theme_features(count: int = 30, themes: int = 3) -> dict[str, np.ndarray]:
    """Films of one to 30 shots, some without keyframe; those of one theme, every third, have a direction in common."""
    random = np.random.default_rng(0)
    directions = 6 * np.eye(themes, DIM)
    films = {}
    for number, movie_id in enumerate(movie_ids(count)):
        shots = random.normal(0, 1, (1 + 7 * number % 30, DIM)) + directions[number % themes]
        shots[3::9] = 0
        films[movie_id] = shots.astype("<f2")
    return films


def write_features(folder: Path, films: dict[str, np.ndarray], encoder: str = "clip") -> None:
    dataset = FilmDataset(folder, "shot_features")
    dataset.begin({"encoder": encoder, "revision": "r1"})
    dataset.write_all(
        [
            {
                "movie_id": movie_id,
                "num_shots": len(shots),
                "dim": shots.shape[1],
                "dtype": "float16",
                "features": shots.tobytes(),
            }
            for movie_id, shots in sorted(films.items())
        ]
    )


def write_similar(folder: Path, pairs: list[tuple[str, str, str]], **facts: object) -> None:
    """Directed pairs of films with their source; `facts` go into the record."""
    ranks: Counter[tuple[str, str]] = Counter()
    rows = []
    for movie_id, other, source in sorted(pairs, key=lambda pair: (pair[0], pair[2])):
        ranks[movie_id, source] += 1
        place = {"rank": ranks[movie_id, source], "score": 1.0, "source": source}
        rows.append({"movie_id": movie_id, "similar_movie_id": other, **place})
    dataset = FilmDataset(folder, "similar_movies")
    dataset.begin({})
    dataset.write_all(rows, **facts)


def same_theme(count: int = 30, themes: int = 3) -> list[tuple[str, str, str]]:
    """Each film with the next two of its theme."""
    ids = movie_ids(count)
    return [(ids[n], ids[(n + step * themes) % count], "genre") for n in range(count) for step in (1, 2)]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    """Features of 30 films of 3 themes, and which are similar."""
    folder = tmp_path_factory.mktemp("mil")
    write_features(folder / "shot_features", theme_features())
    write_similar(folder / "similar_movies", [*same_theme(), (movie_ids(2)[1], movie_ids(1)[0], "co_watch")])
    return folder


@pytest.fixture(scope="module")
def features(catalog) -> ShotFeatures:
    return ShotFeatures(catalog / "shot_features", catalog / "cache")


def similar_films(num_films: int, pairs: list[tuple[int, int]]) -> SimilarFilms:
    return SimilarFilms(movie_ids(num_films), np.array(sorted(pairs), np.int64).reshape(-1, 2))


# Pairs.


def test_similar_pairs_are_read_once_whichever_film_names_the_other(tmp_path, features):
    ids = movie_ids(5)
    named = [(0, 1, "genre"), (1, 0, "genre"), (1, 0, "co_watch"), (3, 2, "co_watch"), (2, 4, "synopsis")]
    rows = [(ids[a], ids[b], source) for a, b, source in named]
    write_similar(tmp_path / "similar", rows, candidates=features.movie_ids)
    films = SimilarFilms.read(tmp_path / "similar", features)
    assert films.pairs.tolist() == [[0, 1], [2, 3], [2, 4]] and films.movie_ids == features.movie_ids
    films = SimilarFilms.read(tmp_path / "similar", features, ["co_watch"])
    assert films.pairs.tolist() == [[0, 1], [2, 3]]


def test_only_films_that_similar_ones_were_drawn_from_take_part(tmp_path, features):
    """Others are not dissimilar films either. A film may be drawn from and have no features, such as the last."""
    ids = features.movie_ids
    allowed = [*ids[:2], *ids[3:17], "tt7654321"]
    write_similar(tmp_path / "similar", [(ids[0], ids[16], "genre")], candidates=allowed)
    films = SimilarFilms.read(tmp_path / "similar", features)
    assert films.movie_ids == allowed[:-1] and films.pairs.tolist() == [[0, 15]]
    assert films.counts == {"films": 16, "films_left_out": 14, "films_without_features": 0, "similar_pairs": 1}
    drawn = [films.draw(np.random.default_rng(seed), 9).films for seed in range(20)]
    assert np.unique(drawn).tolist() == [*range(16)]


def test_a_pair_of_a_film_that_may_not_be_drawn_does_not_count(tmp_path, features):
    ids = features.movie_ids
    write_similar(tmp_path / "similar", [(ids[0], ids[1], "a"), (ids[0], ids[2], "a")], candidates=ids[:2])
    assert SimilarFilms.read(tmp_path / "similar", features).pairs.tolist() == [[0, 1]]


def test_similar_films_of_an_earlier_release_allow_the_films_of_their_pairs(tmp_path, features):
    ids = features.movie_ids
    write_similar(tmp_path / "similar", [(ids[4], ids[1], "genre"), (ids[4], ids[20], "genre")])
    films = SimilarFilms.read(tmp_path / "similar", features)
    assert films.movie_ids == [ids[1], ids[4], ids[20]] and films.counts["films_left_out"] == 27


def test_similar_films_without_features_are_an_error_or_counted(tmp_path, features):
    ids, strangers = movie_ids(3), ["tt7654321", "tt7654322"]
    pairs = [(ids[0], ids[1]), (ids[0], strangers[1]), (strangers[0], ids[2])]
    write_similar(tmp_path / "similar", [(*pair, "genre") for pair in pairs])
    with pytest.raises(StorageError, match=r"names 2 films .* the first is tt7654321; .*--allow-missing"):
        SimilarFilms.read(tmp_path / "similar", features)
    films = SimilarFilms.read(tmp_path / "similar", features, allow_missing=True)
    assert films.pairs.tolist() == [[0, 1]] and films.counts["films_without_features"] == 2


@pytest.mark.parametrize("negatives", [1, 3])
def test_every_similar_pair_is_followed_by_its_dissimilar_ones(negatives):
    films = similar_films(12, [(0, 1), (0, 2), (1, 2), (3, 4), (5, 11), (2, 9)])
    similar = {frozenset(pair) for pair in films.pairs.tolist()}
    seen = Counter()
    for seed in range(300):
        drawn = films.draw(np.random.default_rng(seed), negatives)
        groups = drawn.films.reshape(6, 1 + negatives, 2)
        assert drawn.labels.reshape(6, -1).tolist() == [[1] + [0] * negatives] * 6
        assert {frozenset(group[0]) for group in groups.tolist()} == similar
        for group in groups.tolist():
            for pair in group[1:]:
                assert len(set(pair)) == 2 and frozenset(pair) not in similar
                (anchor,) = set(pair) & set(group[0]) or {None}
                assert anchor is not None
                seen[anchor, *(set(pair) - {anchor})] += 1
        assert {tuple(pair) for pair in films.draw(np.random.default_rng(seed), negatives).films.tolist()} == {
            tuple(pair) for pair in drawn.films.tolist()
        }
    # Every dissimilar film of the film with the fewest, equally often.
    others = [seen[2, film] for film in (3, 4, 5, 6, 7, 8, 10, 11)]
    assert min(others) > 0.6 * max(others) > 0
    assert sum(count for (anchor, other), count in seen.items() if anchor == 2) == sum(others)


def test_the_order_of_pairs_and_of_their_films_is_drawn():
    films = similar_films(8, [(0, 1), (2, 3), (4, 5)])
    draws = [films.draw(np.random.default_rng(seed), 1).films.tolist() for seed in range(40)]
    assert {frozenset(draw[0]) for draw in draws} == {frozenset(pair) for pair in ((0, 1), (2, 3), (4, 5))}
    assert 40 < sum(pair in ([0, 1], [2, 3], [4, 5]) for draw in draws for pair in draw) < 80


def test_a_film_that_all_are_similar_to_leaves_the_choice_to_the_other():
    films = similar_films(4, [(0, 1), (0, 2), (0, 3)])
    negatives = films.draw(np.random.default_rng(0), 2)
    assert 0 not in negatives.films[negatives.labels == 0]


def test_films_that_are_all_similar_are_refused():
    with pytest.raises(ValueError, match=r"all films are similar to tt100000\d and to tt100000\d: none is left"):
        similar_films(3, [(0, 1), (0, 2), (1, 2)]).draw(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="no two of 3 films are similar"):
        similar_films(3, []).draw(np.random.default_rng(0), 1)


def test_films_are_held_out_by_their_id_alone():
    many = similar_films(2000, [(n, n + 1) for n in range(1999)])
    trained, held_out = many.split(0.3, 7)
    assert len(held_out.movie_ids) == pytest.approx(600, abs=60)
    assert sorted(trained.movie_ids + held_out.movie_ids) == many.movie_ids
    few = similar_films(500, [])
    assert few.split(0.3, 7)[1].movie_ids == [name for name in held_out.movie_ids if name in few.movie_ids]
    assert few.split(0.3, 8)[1].movie_ids != few.split(0.3, 7)[1].movie_ids
    assert few.split(0.0, 7)[1].movie_ids == []
    for part in (trained, held_out):
        named = [(part.movie_ids[a], part.movie_ids[b]) for a, b in part.pairs]
        expected = [(a, b) for a, b in zip(many.movie_ids, many.movie_ids[1:], strict=False)]
        assert named == [pair for pair in expected if set(pair) <= set(part.movie_ids)]


# Features.


def reader(features, resident=False, long_films="window", max_shots=20) -> FilmReader:
    names = [name for name in features.movie_ids if name != features.movie_ids[4]]
    return FilmReader(names, features, max_shots, long_films, torch.device("cpu"), resident)


@pytest.mark.parametrize("long_films", ["window", "uniform"])
@pytest.mark.parametrize("resident", [False, True])
def test_films_are_read_as_they_are_and_long_ones_in_part(features, resident, long_films):
    read = reader(features, resident, long_films)
    wanted = np.array([7, 0, 20, 28, 3])
    for random in (None, np.random.default_rng(5)):
        batch = read.read(wanted, random)
        for row, number in zip(batch.numpy(), wanted, strict=True):
            film = features[read.movie_ids[number]]
            if len(film) <= 20:
                assert np.array_equal(row[: len(film)], film) and not row[len(film) :].any()
            elif long_films == "uniform":
                assert np.array_equal(row, film[[math.floor((n + 0.5) * len(film) / 20) for n in range(20)]])
            else:
                starts = [n for n in range(len(film) - 19) if np.array_equal(film[n : n + 20], row)]
                assert len(starts) == 1 and (random is not None or abs(starts[0] - (len(film) - 20) / 2) <= 0.5)
    assert batch.dtype == torch.float16 and len(set(features.num_shots[wanted] > 20)) == 2


def test_a_window_depends_on_its_film_and_not_on_the_batch(features):
    read, long = reader(features), 28
    starts = set()
    for seed in range(30):
        alone = read.read(np.array([long]), np.random.default_rng(seed))[0]
        among = read.read(np.array([3, 12, long]), np.random.default_rng(seed))[2]
        assert torch.equal(alone, among)
        starts.add(alone.numpy().tobytes())
    assert len(starts) == len(features[read.movie_ids[long]]) - 19  # every one there is


def test_the_longest_of_a_batch_says_how_long_it_is(features):
    assert reader(features).read(np.array([0])).shape == (1, 1, DIM)
    with pytest.raises(ValueError, match="long_films='middle' is neither window nor uniform"):
        reader(features, long_films="middle")


# Scores.


def network(seed: int = 0, **changes) -> M2SMovieSimilarityModel:
    torch.manual_seed(seed)
    model = M2SMovieSimilarityModel(M2SMovieSimilarityConfig(feature_dim=DIM, **{**SIZES, **changes}))
    model.classifier.weight.data *= 3  # answers that are far from even, and not certain
    return model


def labeled(films: SimilarFilms, seed: int = 0) -> LabeledPairs:
    return films.draw(np.random.default_rng(seed), 1)


def test_scores_of_the_network_are_those_of_each_pair_in_both_orders(features, catalog, monkeypatch):
    monkeypatch.setattr("train.mil.scores.PAIRS_AT_ONCE", 7)
    films = SimilarFilms.read(catalog / "similar_movies", features)
    read = FilmReader(films.movie_ids, features, 20, "window", torch.device("cpu"), False)
    model, pairs = network(), labeled(films)
    found = network_scores(model.train(), read, pairs)
    assert model.training
    model.eval()
    probabilities = []
    for a, b in pairs.films:
        one, other = (read.read(np.array([film])).float() for film in (a, b))
        orders = [torch.softmax(model(*both).logits[0], 0)[1].item() for both in ((one, other), (other, one))]
        probabilities.append(sum(orders) / 2)
    loss = -np.mean([math.log(p if label else 1 - p) for p, label in zip(probabilities, pairs.labels, strict=True)])
    hits = [(p > 0.5) == bool(label) for p, label in zip(probabilities, pairs.labels, strict=True)]
    assert found == pytest.approx(
        {
            "accuracy": np.mean(hits),
            "auc": roc_auc_score(pairs.labels, probabilities),
            "average_precision": average_precision_score(pairs.labels, probabilities),
            "loss": loss,
        },
        abs=1e-4,
    )
    assert 0 < found["accuracy"] < 1


def test_trivial_scores_know_mean_features_and_the_majority(features, catalog):
    films = SimilarFilms.read(catalog / "similar_movies", features)
    trained, held_out = films.split(0.4, 0)
    sides = [(side.movie_ids, labeled(side)) for side in (trained, held_out)]
    found = trivial_scores(features, *sides)
    names, (pairs, labels) = sides[1]
    means = []
    for name in names:
        shots = [shot for shot in features[name].astype(float) if any(shot)]
        means.append(sum(shots) / len(shots))
    products = [means[a] @ means[b] for a, b in pairs]
    cosines = [
        product / math.sqrt(means[a] @ means[a] * (means[b] @ means[b]))
        for product, (a, b) in zip(products, pairs, strict=True)
    ]
    assert found["majority"] == {"accuracy": 0.5}
    for name, values in (("mean_features_product", products), ("mean_features_cosine", cosines)):
        assert found[name]["auc"] == pytest.approx(roc_auc_score(labels, values), abs=1e-4)
        assert found[name]["accuracy"] > 0.7  # as easy as themes are here


def test_answers_that_are_no_numbers_are_refused(features):
    model = network()
    model.classifier.weight.data.fill_(float("nan"))
    pairs = LabeledPairs(np.array([[0, 1], [1, 2]]), np.array([0, 1]))
    with pytest.raises(ValueError, match="not numbers: training diverged; use a lower learning_rate"):
        network_scores(model, reader(features), pairs)


def test_scores_are_rounded_and_complete():
    found = scores(np.array([0, 1, 1]), np.array([0.2, 0.9, 0.4]))
    assert found == {"accuracy": 0.6667, "auc": 1.0, "average_precision": 1.0, "loss": pytest.approx(0.415, abs=1e-3)}


# Steps.


def fake_process(rank: int, size: int) -> SimpleNamespace:
    return SimpleNamespace(process_index=rank, num_processes=size, device=torch.device("cpu"))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_the_pairs_of_a_batch(features, size):
    """Without dropout the mean of their losses is the loss of each pair alone, long films in the same windows."""
    read, model = reader(features), network(dropout=0.0)
    pairs = np.array([(0, 28), (28, 3), (20, 0), (7, 8), (28, 28), (12, 20)])
    batch = LabeledPairs(pairs, np.array([1, 0, 1, 1, 0, 1]))

    def windows() -> np.random.Generator:
        return np.random.default_rng(9)

    losses = [step_loss(PairLoss(model), read, batch, windows(), fake_process(rank, size)) for rank in range(size)]
    expected = []
    for (a, b), label in zip(pairs, batch.labels, strict=True):
        first, second = (read.read(np.array([film]), windows()).float() for film in (a, b))
        expected.append(model(first, second, labels=torch.tensor([label])).loss)
    torch.testing.assert_close(sum(losses) / size, sum(expected) / len(expected))


@pytest.mark.parametrize(
    ("pairs", "batch", "processes", "expected"),
    [(100, 32, 1, (32, 6)), (100, 32, 2, (32, 6)), (5, 32, 1, (10, 1)), (5, 32, 4, (8, 1)), (1, 2, 2, (2, 1))],
)
def test_steps_are_planned_for_whole_batches(pairs, batch, processes, expected):
    recipe = MILRecipe(batch_size=batch)
    assert plan_steps(pairs, recipe, processes) == expected


def test_batches_that_cannot_be_shared_are_refused():
    recipe = MILRecipe(batch_size=32)
    with pytest.raises(ValueError, match="batch_size 32 is not a multiple of the 3 processes"):
        plan_steps(100, recipe, 3)
    with pytest.raises(ValueError, match="2 pairs of films to train on are too few for 4 processes"):
        plan_steps(1, recipe, 4)


def test_training_ends_when_the_loss_has_not_fallen_for_long():
    recipe = MILRecipe(patience_steps=30, measure_steps=10)
    measured = SimpleNamespace(measured=LabeledPairs(np.zeros((2, 2)), np.zeros(2)))

    def over(step: int, best: int, material=measured, loss: float | None = 0.6) -> bool:
        return is_over({"step": step, "best_step": best, "best_loss": loss}, 100, material, recipe)

    assert [over(99, 70), over(100, 99), over(60, 30), over(59, 30)] == [False, True, True, False]
    assert [over(30, 0, loss=None), over(100, 0, loss=None)] == [False, True]  # nothing is measured yet
    assert not over(60, 0, SimpleNamespace(measured=None))
    recipe.patience_steps = 0
    assert not over(99, 0)


KINDS = (MILRecipe, MILData, RunArguments)
PLACES = ["--features", "f", "--similar", "s", "--output", "o"]


@pytest.mark.parametrize("name", ["mil.yaml", "mil_film_world.yaml"])
def test_recipes_that_ship_are_read_whole(name):
    path = ROOT / "train/configs" / name
    recipe, data, run = parse(KINDS, [str(path), *PLACES])
    assert (data.features, data.similar, run.output) == (Path("f"), Path("s"), Path("o"))
    written = yaml.safe_load(path.read_text())
    assert {field: getattr(recipe, field) for field in written} == written


def test_the_papers_recipe_is_the_default():
    recipe, *_ = parse(KINDS, [str(ROOT / "train/configs/mil.yaml"), *PLACES])
    assert recipe == MILRecipe()
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs, recipe.optimizer) == (0.1, 256, 20, "sgd")


# Whitening.


def test_whitening_is_by_the_root_of_the_pseudoinverse_and_keeps_lengths():
    shots = np.random.default_rng(0).normal(3, [1, 1, 5, 2, 1, 0, 0], (40, 7))
    shots *= [1, 1, 1, 1, 1e-4, 0, 0]  # two columns of zeros and one of next to nothing
    moments = shots.T @ shots
    root = inverse_root(torch.from_numpy(moments)).numpy()
    largest = np.zeros((7, 7))
    largest[:4, :4] = moments[:4, :4]
    np.testing.assert_allclose(root @ root, np.linalg.pinv(largest) * np.trace(moments) / 4, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(np.trace(root @ moments @ root), np.trace(moments), rtol=1e-6)
    with pytest.raises(ValueError, match="whiten: no shot has features, so their statistics are unknown"):
        inverse_root(torch.zeros(7, 7))


def test_a_whitened_layer_steps_along_the_inverse_moments(features):
    """One step, written out; then the layer is an ordinary one again."""
    read = FilmReader(features.movie_ids, features, 20, "window", torch.device("cpu"), False)
    shots = torch.cat([read.read(np.array([film]))[0] for film in range(30)]).double()
    root = inverse_root(shots.T @ shots)
    torch.manual_seed(0)
    layer = torch.nn.Linear(DIM, 5).double()
    weight, bias = layer.weight.detach().clone() @ root, layer.bias.detach().clone()
    whiten(layer, read, [0])
    torch.testing.assert_close(layer.weight.detach(), weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(shots).tanh().sum().backward()
    optimizer.step()
    unwhiten(layer)
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.linear(shots, weight, bias).tanh().sum(), weight)
    torch.testing.assert_close(layer.weight.detach(), (weight - 0.1 * gradient @ root @ root).detach())
    assert layer.state_dict().keys() == {"weight", "bias"} and isinstance(layer.weight, torch.nn.Parameter)


# Whole runs, from here on.

RECIPE = {
    **SIZES,
    "held_out": 0.4,
    "epochs": 6,
    "batch_size": 8,
    "measure_steps": 3,
    "log_steps": 1,
    "checkpoint_steps": 4,
    "patience_steps": 0,
}
LOSS = "train.mil.loop:step_loss"


class Bench:
    """Runs on the catalog, by a recipe; flags win over it."""

    def __init__(self, folder: Path, hub: Hub):
        self.folder, self.hub = folder, hub
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        environment = {**hub.environment(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "cache")}
        self.forked = ForkedRuns.start("train.train_mil", "train.mil.training", folder, **environment)

    def argv(self, output: str, *flags: object) -> list[str]:
        places = {"features": "shot_features", "similar": "similar_movies", "output": output}
        named = [word for name, place in places.items() for word in (f"--{name}", self.folder / place)]
        return [str(word) for word in (self.folder / "recipe.yaml", *named, *flags)]

    def run(self, output: str, *flags: object, **how):
        return self.forked.run(self.argv(output, *flags), **how)

    def refused(self, output: str, *flags: object, **how) -> str:
        """The message of a run that must end with exit status 1 and this one line."""
        status, out, err = self.run(output, *flags, **how)
        lines = [line for line in err.splitlines() if line.startswith("train.train_mil: error: ")]
        assert (status, len(lines), "next:" in out) == (1, 1, False) and "Traceback" not in err, err
        return lines[0].removeprefix("train.train_mil: error: ")

    def log(self, output: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / output / "log.jsonl").read_text().splitlines()]

    def results(self, output: str) -> dict:
        return json.loads((self.folder / output / "results.json").read_text())

    def assert_like(self, output: str, other: str) -> None:
        """Two runs came to the same, in every byte that does not measure time."""
        for name in ("model/model.safetensors", "model/config.json", "log.jsonl", "recipe.json", "curves.png"):
            assert (self.folder / output / name).read_bytes() == (self.folder / other / name).read_bytes(), name
        results = [self.results(name) for name in (output, other)]
        for result in results:
            del result["training_minutes"], result["command"]
        assert results[0] == results[1]


@pytest.fixture(scope="module")
def bench(catalog) -> Iterator[Bench]:
    with Hub() as hub:
        bench = Bench(catalog, hub)
        yield bench
        bench.forked.stop()


@pytest.fixture(scope="module")
def finished(bench) -> str:
    """The summary of a run that nothing disturbs."""
    status, out, err = bench.run("run")
    assert status == 0, err
    return out


@pytest.fixture(scope="module")
def finished_on_two(bench) -> None:
    status, _, err = bench.run("two", ranks=2)
    assert status == 0, err


@pytest.fixture(scope="module")
def alone(bench) -> None:
    """A run on one process that draws nothing at random in its steps."""
    status, _, err = bench.run("alone_whitened", "--dropout", "0", "--whiten")
    assert status == 0, err


def test_a_run_leaves_a_network_a_log_results_and_curves(bench, finished):
    results, log = bench.results("run"), bench.log("run")
    steps = results["steps"]
    assert [line["step"] for line in log if "loss" in line] == [*range(1, steps + 1)]
    measured = [line for line in log if "held_out_loss" in line]
    assert [line["step"] for line in measured] == sorted({*range(3, steps + 1, 3), steps})
    best = min(measured, key=lambda line: line["held_out_loss"])
    assert results["best_step"] == best["step"]
    assert results["held_out"] == {name.removeprefix("held_out_"): best[name] for name in best if name != "step"}
    counts = results["counts"]
    assert counts["trained_films"] + counts["held_out_films"] == counts["films"] == 30
    assert counts["trained_pairs"] + counts["held_out_pairs"] + counts["pairs_across"] == counts["similar_pairs"] == 61
    assert f"step {best['step']} on pairs of {counts['held_out_films']} held-out films" in finished
    assert "mean_features_cosine" in finished and "next: python -m data_scripts.mine_scene_pairs" in finished
    lists = [(bench.folder / f"run/{name}_films.txt").read_text().split() for name in ("training", "held_out")]
    assert sorted(results["held_out_films"]) == lists[1] and len(lists[0]) == counts["trained_films"]
    assert sorted(lists[0] + lists[1]) == sorted(movie_ids(30))
    with Image.open(bench.folder / "run/curves.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    assert {(0x0B, 0x6E, 0x99), (0xD9, 0x73, 0x0D)} <= colors
    names = sorted(path.name for path in (bench.folder / "run/checkpoints").iterdir())
    assert names == [f"step-{steps - 4:08d}", f"step-{steps:08d}"]


def test_the_network_has_the_best_weights_and_knows_its_features(bench, finished, features):
    model = AutoModel.from_pretrained(bench.folder / "run/model")
    assert model.config.features == {"encoder": "clip", "revision": "r1"}
    features.require_encoder(model.config.features)
    films = SimilarFilms.read(bench.folder / "similar_movies", features)
    held_out = films.split(0.4, 0)[1]
    assert held_out.movie_ids == bench.results("run")["held_out_films"]
    read = FilmReader(held_out.movie_ids, features, 20, "window", torch.device("cpu"), False)
    measured = held_out.draw(np.random.default_rng([0, 2]), 1)
    assert network_scores(model, read, measured) == bench.results("run")["held_out"]


KILLS = {
    "before its first step": [(LOSS, 1)],
    "before its first checkpoint": [(LOSS, 4)],
    "within a checkpoint": [("accelerate:Accelerator.save_state", 2)],
    "before a checkpoint counts": [("train.runs:write_json", 3)],
    "before it measures": [("train.mil.loop:network_scores", 3)],
    "after the best weights so far": [(LOSS, 7), (LOSS, 4)],
    "three times": [(LOSS, 6), (LOSS, 6), (LOSS, 3)],
    "after its last checkpoint": [("train.mil.finish:final_scores", 1)],
    "before the curves": [("train.mil.finish:draw_run", 1)],
    "before the results": [("train.mil.finish:write_json", 1)],
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_comes_to_the_same(moment, bench, finished):
    output = moment.replace(" ", "_")
    for die_at in KILLS[moment]:
        status, _, err = bench.run(output, die_at=die_at)
        assert status == -signal.SIGKILL, err
        assert not (bench.folder / output / "results.json").exists()
    status, _, err = bench.run(output)
    assert status == 0, err
    bench.assert_like(output, "run")


def test_a_run_goes_on_elsewhere_from_its_pushed_checkpoint(bench, finished):
    status, _, err = bench.run("away", "--push-to-hub", "someone/mil", "--push-checkpoints", die_at=(LOSS, 9))
    assert status == -signal.SIGKILL, err
    left = bench.results("run")["steps"] - 8
    assert left > 0 and bench.hub.repos["someone/mil"] == {}
    status, _, err = bench.run(
        "home", "--push-to-hub", "someone/mil", "--resume", "someone/mil", die_at=(LOSS, left + 1)
    )
    assert status == 0, err
    bench.assert_like("home", "run")
    pushed = bench.hub.repos["someone/mil"]
    for name in ("model.safetensors", "README.md"):
        assert pushed[name] == (bench.folder / "home/model" / name).read_bytes()
    assert "movie_similarity_m2s.py" in pushed


def test_a_killed_run_with_whitening_and_adamw_comes_to_the_same(bench, finished):
    """And not to what plain SGD comes to; what it leaves is an ordinary network."""
    flags = ["--whiten", "--optimizer", "adamw", "--learning_rate", "0.01"]
    for output, kills in (("whitened", []), ("whitened_killed", [(LOSS, 2), (LOSS, 7), (LOSS, 4)])):
        for die_at in kills:
            assert bench.run(output, *flags, die_at=die_at)[0] == -signal.SIGKILL
        status, _, err = bench.run(output, *flags)
        assert status == 0, err
    bench.assert_like("whitened_killed", "whitened")
    assert bench.results("whitened")["held_out"] != bench.results("run")["held_out"]
    names = AutoModel.from_pretrained(bench.folder / "whitened/model").state_dict().keys()
    assert names == AutoModel.from_pretrained(bench.folder / "run/model").state_dict().keys()


@pytest.mark.parametrize("die_at", [(LOSS, 6), ("accelerate:Accelerator.save_state", 2)])
def test_a_killed_run_on_two_processes_comes_to_the_same(die_at, bench, finished_on_two):
    output = f"two_{die_at[1]}"
    status, _, err = bench.run(output, ranks=2, die_at=die_at)
    assert status == -signal.SIGKILL, err
    status, _, err = bench.run(output, ranks=2)
    assert status == 0, err
    bench.assert_like(output, "two")


def test_two_processes_take_the_steps_of_one(bench, finished, finished_on_two):
    assert bench.results("two")["made_with"]["processes"] == 2
    assert [line["step"] for line in bench.log("two")] == [line["step"] for line in bench.log("run")]


def test_without_dropout_two_processes_come_to_what_one_comes_to(bench):
    """The same pairs in the same steps, the same windows of long films."""
    for output, ranks in (("alone", 1), ("together", 2)):
        status, _, err = bench.run(output, "--dropout", "0", ranks=ranks)
        assert status == 0, err
    for one, two in zip(bench.log("alone"), bench.log("together"), strict=True):
        assert one == pytest.approx(two, abs=2e-4)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_processes(first, then, bench, alone):
    """In the same order, which it says; killed after its first checkpoint."""
    output, flags = f"from_{first}_to_{then}", ["--dropout", "0", "--whiten"]
    assert bench.run(output, *flags, ranks=first, die_at=(LOSS, 7))[0] == -signal.SIGKILL
    status, out, err = bench.run(output, *flags, ranks=then)
    assert status == 0, err
    assert f"this run goes on with {then} processes instead of {first}: the same batches in the same order" in out
    for one, other in zip(bench.log("alone_whitened"), bench.log(output), strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_checkpoints_residence_and_logging_change_nothing(bench, finished):
    flags = ["--checkpoint_steps", "1", "--log_steps", "1", "--resident"]
    for _ in range(2):
        status, _, err = bench.run("free", *flags)
        assert status == 0, err
        bench.assert_like("free", "run")
    status, _, err = bench.run("free", "--log_steps", "5")
    assert status == 0, err
    bench.assert_like("free", "run")


def test_training_stops_early_and_keeps_the_best(bench, finished):
    status, _, err = bench.run("early", "--learning_rate", "3", "--epochs", "60", "--patience_steps", "9")
    assert status == 0, err
    results = bench.results("early")
    assert results["steps"] == results["best_step"] + 9 or results["steps"] == bench.results("run")["steps"] * 10
    losses = [line["held_out_loss"] for line in bench.log("early") if "held_out_loss" in line]
    assert results["held_out"]["loss"] == min(losses) < losses[-1]


def test_nothing_need_be_held_out(bench):
    status, out, err = bench.run("all", "--held_out", "0", "--epochs", "1", "--patience_steps", "1")
    assert status == 0, err
    results = bench.results("all")
    assert (results["held_out"], results["baselines"], results["counts"]["held_out_films"]) == (None, None, 0)
    assert results["steps"] == 61 * 2 // 8 and "held-out films:" not in out
    AutoModel.from_pretrained(bench.folder / "all/model")


def test_it_learns_what_films_have_in_common(bench):
    names = movie_ids(30)
    theme = [(a, b, "genre") for n, a in enumerate(names) for b in names[n + 3 :: 3]]
    write_similar(bench.folder / "whole_themes", theme)
    flags = ["--similar", bench.folder / "whole_themes", "--epochs", "15", "--hidden_dim", "32"]
    status, _, err = bench.run("learned", *flags)
    assert status == 0, err
    results = bench.results("learned")
    assert results["held_out"]["accuracy"] > 0.8 > results["baselines"]["majority"]["accuracy"] + 0.2


def test_another_recipe_or_other_features_are_refused(bench, finished):
    others = {
        "epochs is 6 there, 7 now": ["--epochs", "7"],
        "seed is 0 there, 5 now": ["--seed", "5"],
        "data.films_and_pairs is": ["--sources", "genre"],
    }
    write_features(bench.folder / "of_another_encoder", theme_features(), encoder="other")
    others["data.features.encoder is 'clip' there, 'other' now"] = ["--features", bench.folder / "of_another_encoder"]
    allowed = [movie_id for movie_id in movie_ids(30) if movie_id != "tt1000003"]
    write_similar(bench.folder / "fewer", same_theme(), candidates=allowed)
    others["data.films_and_pairs is '"] = ["--similar", bench.folder / "fewer"]
    replaced = {**theme_features(), "tt1000003": theme_features()["tt1000003"] + np.float16(1)}
    write_features(bench.folder / "of_a_replaced_film", replaced)
    others["data.feature_shards is '"] = ["--features", bench.folder / "of_a_replaced_film"]
    for message, change in others.items():
        told = bench.refused("run", *change)
        assert told.startswith(f"{bench.folder}/run was made with other settings: ") and message in told


def test_films_that_may_not_be_drawn_are_never_read(bench):
    """Features of such a film are no numbers: read once, for a pair or for whitening, they would end the run."""
    films = theme_features()
    films["tt1000006"][:] = np.nan
    write_features(bench.folder / "nan", films)
    flags = ["--features", bench.folder / "nan", "--epochs", "3", "--whiten"]
    assert "film tt1000006, shot 0: a feature is infinite or not a number" in bench.refused("nan_run", *flags)
    allowed = [movie_id for movie_id in movie_ids(30) if movie_id != "tt1000006"]
    guard = {"lists": {"test.csv": 1}, "num_listed": 1, "excluded": {"by id": 1}}
    write_similar(bench.folder / "guarded", same_theme(), candidates=allowed, leak_guard=guard)
    status, out, err = bench.run("guarded_run", *flags, "--similar", bench.folder / "guarded")
    assert status == 0, err
    assert bench.results("guarded_run")["counts"]["films_left_out"] == 1
    assert bench.results("guarded_run")["leak_guard"] == guard
    assert "1 films left out: the catalog excludes or lacks them" in out


MISTAKES = {
    "an unknown film": (["--similar", "FOLDER/stranger"], "names 1 films .* the first is tt7654321"),
    "no pairs": (["--similar", "FOLDER/none"], "FOLDER/none: holds no similar films"),
    "all alike": (["--similar", "FOLDER/all", "--held_out", "0"], "all films are similar to tt1.* and to"),
    "no such source": (["--sources", "genre", "taste"], "no pairs of source taste; it has co_watch, genre"),
    "no features": (["--features", "FOLDER/nowhere"], "FOLDER/nowhere: no finished shot_features dataset"),
    "no similar films": (["--similar", "FOLDER/nowhere"], "FOLDER/nowhere: no finished similar_movies dataset"),
    "two widths": (["--features", "FOLDER/widths"], "film tt1000001: dim is 5; expected 12"),
    "few films held out": (["--held_out", "0.01"], "lies within the 1 held-out films: hold out more than"),
    "held-out films all alike": (
        ["--similar", "FOLDER/held_out", "--held_out", "0.2", "--seed", "0"],
        r"of the \d+ held-out films, all films are similar to tt1.*: hold out more than held_out=0.2, or 0 to measure",
    ),
    "few films to train on": (["--held_out", "0.99"], "lies within the .* films to train on: hold out fewer than"),
    "a share of one": (["--held_out", "1"], "held_out is 1.0; it must be a share of the films, below 1"),
    "no epochs": (["--epochs", "0"], "epochs is 0; it must be at least 1"),
    "no number": (["--learning-rate", "nan"], "learning_rate is nan; it must be a number from 0 on"),
    "less patience than steps to a measurement": (
        ["--patience_steps", "2"],
        "patience_steps is 2, less than measure_steps, 3: .*use at least measure_steps, or 0 for never",
    ),
    "no negatives": (["--negatives", "0"], "negatives is 0; it must be at least 1"),
    "no pooling": (["--max_shots", "8"], "max_shots=8 are too few for the two poolings"),
    "no part": (["--long_films", "end"], "argument --long-films: invalid choice: 'end'"),
    "whitening in bfloat16": (["--whiten", "--bf16"], "are lost in bfloat16"),
    "divergence": (["--learning_rate", "1e30"], "training diverged; use a l"),
}


@pytest.fixture(scope="module")
def mistaken(bench) -> Path:
    """Datasets that a run cannot use."""
    folder, ids = bench.folder / "mistaken", movie_ids(3)
    write_similar(folder / "stranger", [*same_theme(), (ids[0], "tt7654321", "genre")])
    write_similar(folder / "none", [])
    names = movie_ids(30)
    write_similar(folder / "all", [(a, b, "genre") for a in names for b in names if a < b])
    _, held_out = similar_films(30, []).split(0.2, 0)
    alike = [(a, b, "genre") for a in held_out.movie_ids for b in held_out.movie_ids if a < b]
    write_similar(folder / "held_out", [*same_theme(), *alike])
    write_features(folder / "widths", {ids[0]: np.ones((3, 12), "<f2"), ids[1]: np.ones((3, 5), "<f2")})
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_one_line(mistake, bench, mistaken):
    flags, message = MISTAKES[mistake]
    flags = [flag.replace("FOLDER", str(mistaken)) for flag in flags]
    told = bench.refused(f"mistake_{mistake}", *flags)
    assert re.search(message.replace("FOLDER", str(mistaken)), told), told


def test_processes_that_do_not_know_of_each_other_are_refused(bench):
    told = bench.refused("strangers", environment={"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_CPU": "false"})
    assert "WORLD_SIZE=2" in told and "accelerate launch" in told


@pytest.mark.slow
def test_the_real_command_on_two_processes(bench, finished_on_two):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    command = [sys.executable, "-m", *launch, "-m", "train.train_mil", *bench.argv("launched")]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **environment, "HF_DATASETS_CACHE": str(bench.folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    bench.assert_like("launched", "two")
