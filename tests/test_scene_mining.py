"""Scene pairs of two films against all windows written out in Python's integers; the same in every batch and order."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from data_scripts.mining import scenes as scene_mining
from data_scripts.mining.scenes import (
    LARGEST,
    WINDOW,
    exact_embedder,
    film_windows,
    mine_scene_pairs,
    num_scene_pairs,
    random_scene_pairs,
)
from modeling_m2s.configuration_m2s import M2SMovieSimilarityConfig
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel

DIM = 12


def similarity_model(dim: int = DIM, **options) -> M2SMovieSimilarityModel:
    torch.manual_seed(0)
    return M2SMovieSimilarityModel(M2SMovieSimilarityConfig(feature_dim=dim, hidden_size=dim, **options))


def film(num_shots: int, seed: int, kind: str = "random") -> np.ndarray:
    """Shot features as stored; `tiled` films repeat a few shots, so that almost every score is a tie."""
    generator = np.random.default_rng(seed)
    features = generator.normal(1, 1, (num_shots, DIM)).astype(np.float16)
    if kind == "tiled":
        features = features[np.arange(num_shots) % 5]
    if kind == "gaps":
        features[generator.random(num_shots) < 0.1] = 0
    if kind == "equal":
        features[:] = features[0]
    return features


def written_out(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int, float]]:
    """Every window in turn, scores as integers, the best by sorting: highest, then smallest row, then column."""
    integers, units = [], []
    for features in (a, b):
        largest = max(abs(float(value)) for value in features.flat)
        integers.append([[round(float(value) * (LARGEST / largest)) for value in shot] for shot in features])
        units.append(largest / LARGEST)
    shots = [[sum(x * y for x, y in zip(p, q, strict=True)) for q in integers[1]] for p in integers[0]]
    whole = [[any(shot) for shot in features.tolist()] for features in (a, b)]
    scores = {
        (i, j): sum(shots[i + x][j + y] for x in range(9) for y in range(9))
        for i in range(len(a) - 8)
        for j in range(len(b) - 8)
        if all(whole[0][i : i + 9]) and all(whole[1][j : j + 9])
    }
    kept: list[tuple[int, int, float]] = []
    wanted = max(1, min(len(a) // 9, len(b) // 9) // 2)
    for i, j in sorted(scores, key=lambda window: (-scores[window], window)):
        if len(kept) < wanted and all(abs(i - row) >= 9 and abs(j - column) >= 9 for row, column, _ in kept):
            kept.append((i, j, scores[i, j] * units[0] * units[1] / 81))
    return kept


def windows(features: np.ndarray, **options) -> scene_mining.FilmWindows:
    return film_windows(torch.from_numpy(features), **options)


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ((9, 9), "random"),
        ((9, 40), "random"),
        ((17, 18), "random"),
        ((61, 37), "random"),
        ((53, 80), "tiled"),
        ((55, 55), "equal"),
        ((90, 71), "gaps"),
        ((48, 45), "gaps"),
    ],
)
def test_the_pairs_are_those_of_all_windows_written_out(lengths, kind):
    a, b = (film(num_shots, seed, kind) for seed, num_shots in enumerate(lengths))
    (found,) = mine_scene_pairs([(windows(a), windows(b))])
    assert found == written_out(a, b)
    assert len(found) <= num_scene_pairs(*lengths)
    if kind != "gaps":
        assert len(found) == num_scene_pairs(*lengths)


@pytest.mark.parametrize("highest", [1, 3, 1000])
def test_of_equal_scores_the_smallest_row_and_column_is_taken(highest):
    """Also where a row that lost its maximum has another, equal one further on."""
    scores = np.random.default_rng(highest).integers(highest, size=(4, 90, 120)).astype(float)
    found = scene_mining.take_best(torch.from_numpy(scores.copy()), 5)
    for matrix, taken in zip(scores, found, strict=True):
        for taken_score, taken_row, taken_column in taken:
            row, column = np.unravel_index(matrix.argmax(), matrix.shape)
            assert (taken_score, taken_row, taken_column) == (matrix[row, column], row, column)
            matrix[max(0, row - 8) : row + 9] = matrix[:, max(0, column - 8) : column + 9] = -1


def test_a_film_against_itself():
    a = film(64, 3)
    (found,) = mine_scene_pairs([(windows(a), windows(a))])
    assert found == written_out(a, a)


@pytest.mark.parametrize(
    ("lengths", "count"), [((9, 9), 1), ((35, 999), 1), ((36, 36), 2), ((1088, 1088), 60), ((1024, 300), 16)]
)
def test_how_many_pairs_are_kept(lengths, count):
    assert num_scene_pairs(*lengths) == num_scene_pairs(*lengths[::-1]) == count


@pytest.mark.parametrize("kind", ["random", "tiled", "gaps"])
def test_no_two_pairs_overlap_in_either_film(kind):
    for seed in range(5):
        (found,) = mine_scene_pairs([(windows(film(200, seed, kind)), windows(film(170, seed + 50, kind)))])
        assert len(found) > 4
        for firsts in ([pair.first_shot_a for pair in found], [pair.first_shot_b for pair in found]):
            assert min(np.diff(sorted(firsts))) >= WINDOW
        scores = [pair.score for pair in found]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("kind", ["random", "tiled", "gaps", "equal"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_batch_gives_the_same_pairs(kind, batch):
    pairs = [(windows(film(20 + 11 * k, k, kind)), windows(film(90 - 9 * k, k + 9, kind))) for k in range(7)]
    alone = [mine_scene_pairs([pair])[0] for pair in pairs]
    batched = [found for k in range(0, 7, batch) for found in mine_scene_pairs(pairs[k : k + batch])]
    assert batched == alone


@pytest.mark.parametrize("kind", ["random", "tiled"])
def test_every_number_format_and_number_of_threads_gives_the_same_pairs(kind):
    """In the model's space. Repeated shots stand at different rows, where libraries add in different orders."""
    a, b = film(150, 0, kind), film(120, 1, kind)
    threads, found = torch.get_num_threads(), []
    try:
        for number, dtype in ((1, np.float16), (2, np.float32), (3, np.float64)):
            torch.set_num_threads(number)
            embed = exact_embedder(similarity_model())
            found.append(mine_scene_pairs([tuple(windows(x.astype(dtype), embed=embed) for x in (a, b))]))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["random", "tiled", "gaps", "equal"])
def test_a_gpu_gives_the_same_pairs(kind):
    found = []
    for device in ("cpu", "cuda"):
        embed = exact_embedder(similarity_model().to(device))
        films = [film_windows(torch.from_numpy(film(90 + 7 * k, k, kind)).to(device), embed) for k in range(6)]
        found.append(mine_scene_pairs(list(zip(films[::2], films[1::2], strict=True))))
    assert found[0] == found[1]


def test_embeddings_are_exact():
    """Each equals the sum written out in fractions, with weights and features as they were rounded."""
    model = similarity_model()
    weight, bias = model.shot_projection.weight.detach().clone(), model.shot_projection.bias.detach().clone()
    features = film(20, 5).astype(np.float64) * 3.7
    seen: list[torch.Tensor] = []
    model.shot_projection.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    found = exact_embedder(model)(torch.from_numpy(features)).tolist()
    rounded = seen[0]
    assert abs(rounded - torch.from_numpy(features)).max() <= 2.0**-20 * 16
    assert abs(model.shot_projection.weight - weight).max() <= 2.0**-28
    for shot, embedding in zip(rounded.tolist(), found, strict=True):
        for row, offset, value in zip(
            model.shot_projection.weight.tolist(), model.shot_projection.bias.tolist(), embedding, strict=True
        ):
            exact = sum(map(lambda w, x: Fraction(w) * Fraction(x), row, shot), Fraction(offset))
            assert Fraction(value) == max(exact, Fraction(0))
    assert np.allclose(found, np.maximum(features @ weight.double().numpy().T + bias.double().numpy(), 0), atol=1e-4)


@pytest.mark.parametrize("dim", [1, 512, 768, 1024])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_the_largest_sums_are_exact(dim, size):
    """Every product at its bound and of one sign: the sum is the same in every order only if none is rounded."""
    model = similarity_model(dim)
    with torch.no_grad():
        model.shot_projection.weight.uniform_(0.9, 1).copy_(model.shot_projection.weight[:1].clone())
        model.shot_projection.bias.fill_(0.95 / 3)
    seen: list[torch.Tensor] = []
    model.shot_projection.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    features = torch.linspace(size * 0.9, size * 1.1, dim, dtype=torch.float64).repeat(3, 1)
    found = exact_embedder(model)(features)
    weight, bias = model.shot_projection.weight[0].tolist(), Fraction(model.shot_projection.bias[0].item())
    exact = sum((Fraction(w) * Fraction(x) for w, x in zip(weight, seen[0][0].tolist(), strict=True)), bias)
    assert {Fraction(value) for value in found.flatten().tolist()} == {exact}


def test_sums_of_the_largest_windows_are_exact():
    """512 columns of nine shots at the bound, and one unit less: the scores differ by just that."""
    features = np.full((18, 512), 1.0, np.float32)
    features[17, 511] = (LARGEST - 1) / LARGEST
    whole, less = windows(features[:9]), windows(features[9:])
    highest = [mine_scene_pairs([pair])[0][0].score * 81 * LARGEST**2 for pair in ((whole, whole), (whole, less))]
    assert highest[0] - highest[1] == pytest.approx(9 * LARGEST, rel=1e-3)
    assert int(whole.sums_PD.max()) == 9 * LARGEST and int(less.sums_PD.min()) == 9 * LARGEST - 1


def test_rounding_costs_nothing_that_matters():
    """Against float64 without any rounding, on films with places that come back."""
    generator = np.random.default_rng(0)
    places, films = generator.normal(0.5, 0.4, (12, DIM)), []
    for _ in range(2):
        shots = np.repeat(places[generator.integers(12, size=30)], 7, axis=0)
        films.append((shots + generator.normal(0, 0.2, shots.shape)).astype(np.float16))
    model = similarity_model()
    with torch.no_grad():
        a, b = (model.double().shot_embeddings(torch.from_numpy(x).double()).numpy() for x in films)
    sums = [np.lib.stride_tricks.sliding_window_view(x, 9, axis=0).sum(-1) for x in (a, b)]
    unrounded = sums[0] @ sums[1].T / 81
    (found,) = mine_scene_pairs([tuple(windows(x, embed=exact_embedder(similarity_model())) for x in films)])
    for pair in found:
        assert pair.score == pytest.approx(unrounded[pair.first_shot_a, pair.first_shot_b], rel=1e-4)
    expected = scene_mining.take_best(torch.from_numpy(unrounded)[None], len(found))[0]
    same = {(i, j) for _, i, j in expected} & {pair[:2] for pair in found}
    assert len(same) >= 0.9 * len(found) == 0.9 * 11


def test_windows_over_a_shot_without_a_keyframe_are_not_usable():
    features = film(30, 0)
    features[20] = 0
    usable = windows(features, embed=exact_embedder(similarity_model())).usable_P
    assert usable.tolist() == [first + 8 < 20 or first > 20 for first in range(22)]
    features[7] = features[15] = features[23] = 0
    assert not windows(features).usable_P.any()
    assert mine_scene_pairs([(windows(features), windows(film(30, 1)))]) == [[]]


def test_embeddings_of_nothing_but_zeros_are_mined_by_place():
    """A model whose ReLU lets nothing through: all scores are equal."""
    model = similarity_model()
    with torch.no_grad():
        model.shot_projection.bias.fill_(-1e4)
    embed = exact_embedder(model)
    (found,) = mine_scene_pairs([(windows(film(40, 0), embed=embed), windows(film(40, 1), embed=embed))])
    assert found == [(0, 0, 0.0), (9, 9, 0.0)]


def test_random_pairs_are_disjoint_usable_and_spread_evenly():
    a, b = windows(film(60, 0)), windows(film(80, 1, "gaps"))
    counts = np.zeros(52)
    for seed in range(300):
        drawn = random_scene_pairs(a, b, str(seed))
        assert len(drawn) == 3
        assert drawn == random_scene_pairs(a, b, str(seed))
        for firsts in ([pair.first_shot_a for pair in drawn], [pair.first_shot_b for pair in drawn]):
            assert min(np.diff(sorted(firsts))) >= WINDOW
        assert all(b.usable_P[pair.first_shot_b] for pair in drawn)
        counts[[pair.first_shot_a for pair in drawn]] += 1
    assert counts.sum() == 900 and counts.min() > 0 and counts.max() < 60
    shots = [film(60, 0).astype(float)[drawn[0].first_shot_a :][:9], film(80, 1, "gaps")[drawn[0].first_shot_b :][:9]]
    assert drawn[0].score == pytest.approx((shots[0] @ shots[1].T).mean(), rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_are_no_numbers_are_refused(name, value):
    model = similarity_model()
    with torch.no_grad():
        getattr(model.shot_projection, name)[0] = value
    with pytest.raises(ValueError, match="model holds weights that are not finite"):
        exact_embedder(model)


def test_an_activation_that_rounds_is_refused():
    with pytest.raises(ValueError, match="activation='gelu' rounds"):
        exact_embedder(similarity_model(activation="gelu"))
