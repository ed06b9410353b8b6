"""Retrieval metrics against loops written out and scikit-learn; ties, one film only, embeddings that are no numbers."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from eval.metrics.retrieval import (
    RetrievalError,
    average_precision,
    chance,
    clustered_standard_error,
    precision_at_k,
)


def scenes(
    count: int = 53, films: int = 7, places: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings that tell places a little, places as words, films as ids."""
    random = np.random.default_rng(seed)
    place = random.integers(places, size=count)
    film = random.integers(films, size=count)
    embeddings = random.normal(size=(count, 6)) + 1.5 * np.eye(places, 6)[place] + random.normal(size=(films, 6))[film]
    return embeddings, np.array(["mill", "cave", "shore", "arena"])[place], np.array([f"tt{n}" for n in film])


def ranking(embeddings: np.ndarray, films: np.ndarray, query: int, metric: str) -> list[int]:
    """Scenes of other films, the nearest first: written out."""

    def distance(other: int) -> float:
        a, b = embeddings[query], embeddings[other]
        if metric == "cosine":
            return -float(a @ b / np.sqrt((a @ a) * (b @ b)))
        return float(((a - b) ** 2).sum())

    others = [scene for scene in range(len(films)) if films[scene] != films[query]]
    return sorted(others, key=lambda other: (np.float32(distance(other)), other))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_size", [1, 7, 53, 1000])
def test_equals_the_loop_written_out(metric, block_size):
    embeddings, places, films = scenes()
    options = {"metric": metric, "block_size": block_size}
    found = precision_at_k(embeddings, places, films, (1, 3, 10), **options)
    averages = average_precision(embeddings, places, films, **options)
    for query in range(len(films)):
        order = ranking(embeddings, films, query, metric)
        hits = [places[scene] == places[query] for scene in order]
        for k in (1, 3, 10):
            assert found[k][query] == pytest.approx(sum(hits[:k]) / k)
        precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits)) if hits[rank]]
        assert averages[query] == pytest.approx(sum(precisions) / len(precisions))
    assert found.keys() == {1, 3, 10} and 0 < found[3].mean() < 1


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_scikit_learn(metric):
    embeddings, places, films = scenes(40, films=5, seed=1)
    found = precision_at_k(embeddings, places, films, (1, 5), metric=metric)
    averages = average_precision(embeddings, places, films, metric=metric)
    for query in range(len(films)):
        other = films != films[query]
        neighbors = NearestNeighbors(n_neighbors=other.sum(), metric=metric).fit(embeddings[other])
        distances, order = (each[0] for each in neighbors.kneighbors(embeddings[[query]]))
        match = places[other][order] == places[query]
        for k in (1, 5):
            assert found[k][query] == pytest.approx(match[:k].mean())
        assert averages[query] == pytest.approx(average_precision_score(match, -distances))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_size", [3, 100])
def test_equally_near_scenes_count_in_their_order(metric, block_size):
    # Lengths that no rounding divides alike: a scene is repeated in every film, with another place each.
    vector = np.random.default_rng(2).normal(size=37) * 1e3 + 0.1
    embeddings = np.stack([vector, *([vector * 1.1] * 30)])
    films = np.arange(31)
    places = np.array(["a", *(["b", "a"] * 15)])
    found = precision_at_k(embeddings, places, films, (1, 2, 3), metric=metric, block_size=block_size)
    # The query 0 sees 1 (b), 2 (a), 3 (b) first.
    assert [found[k][0] for k in (1, 2, 3)] == pytest.approx([0, 1 / 2, 1 / 3])
    if metric == "cosine":  # all are alike, and every query sees scene 0 (a) first
        assert found[1].tolist()[1:] == [float(place == "a") for place in places[1:]]


def test_fewer_other_scenes_than_neighbors():
    embeddings = np.array([[1.0, 0], [1, 0.1], [1, 0.3]])
    found = precision_at_k(embeddings, ["x", "x", "y"], ["f", "g", "g"], (1, 5))
    assert found[1].tolist() == [1, 1, 0]
    assert found[5].tolist() == [0.5, 1, 0]


def test_a_place_of_one_film_only_is_never_found():
    embeddings, places, films = scenes()
    places = places.copy()
    places[:1] = "seen once"
    assert average_precision(embeddings, places, films)[0] == 0
    assert precision_at_k(embeddings, places, films, [5])[5][0] == 0
    match = [0, 0, 0]
    with pytest.warns(UserWarning, match="No positive class"):
        assert average_precision_score(match, [3, 2, 1]) == 0


def test_chance_is_the_share_in_other_films():
    _, places, films = scenes()
    expected = [
        np.mean([places[other] == places[query] for other in range(len(films)) if films[other] != films[query]])
        for query in range(len(films))
    ]
    assert chance(places, films) == pytest.approx(expected)


def test_standard_error_by_film():
    random = np.random.default_rng(3)
    values = random.normal(size=31)
    one_each = clustered_standard_error(values, np.arange(31))
    assert one_each == pytest.approx(values.std(ddof=1) / np.sqrt(31))
    # The same values three times are not three times as many observations.
    assert clustered_standard_error(np.repeat(values, 3), np.repeat(np.arange(31), 3)) == pytest.approx(one_each)
    films = random.integers(6, size=31)
    total = 0.0
    for film in range(6):
        total += sum(values[i] - values.mean() for i in range(31) if films[i] == film) ** 2
    assert clustered_standard_error(values, films) == pytest.approx((6 / 5 * total) ** 0.5 / 31)


def test_standard_error_by_film_is_that_of_many_draws():
    random = np.random.default_rng(4)
    films = np.repeat(np.arange(40), random.integers(1, 9, size=40))

    def draw() -> np.ndarray:
        return random.normal(size=40)[films] + random.normal(size=len(films))

    means, errors = zip(
        *((each.mean(), clustered_standard_error(each, films)) for each in (draw() for _ in range(2000))), strict=True
    )
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.std(draw()) / np.sqrt(len(films)) < 0.8 * np.std(means)  # as if all scenes were independent


def test_what_cannot_be_measured_is_refused():
    embeddings, places, films = scenes()
    for measure in (precision_at_k, average_precision):
        with pytest.raises(RetrievalError, match="all 53 scenes are of one film"):
            measure(embeddings, places, ["tt1"] * 53)
        for value in (np.nan, np.inf):
            broken = embeddings.copy()
            broken[11, 2] = broken[30, 0] = value
            with pytest.raises(RetrievalError, match="2 embeddings hold NaN or infinite values, that of scene 11"):
                measure(broken, places, films)
        zero = embeddings.copy()
        zero[8] = 0
        with pytest.raises(RetrievalError, match="scene 8 is zero"):
            measure(zero, places, films)
        with pytest.raises(RetrievalError, match="53 embeddings, but 52 labels"):
            measure(embeddings, places[1:], films)
        with pytest.raises(RetrievalError, match="53 labels or values, but 52 groups"):
            measure(embeddings, places, films[1:])
        with pytest.raises(RetrievalError, match=r"shape \(53,\)"):
            measure(embeddings[:, 0], places, films)
        with pytest.raises(ValueError, match="metric='manhattan'"):
            measure(embeddings, places, films, metric="manhattan")
    assert len(precision_at_k(zero, places, films, metric="euclidean")[1]) == 53
    with pytest.raises(ValueError, match="at least 1"):
        precision_at_k(embeddings, places, films, (0, 1))
    with pytest.raises(RetrievalError, match="one film"):
        chance(places, ["tt1"] * 53)
    with pytest.raises(RetrievalError, match="one film"):
        clustered_standard_error(np.ones(3), [1, 1, 1])
    with pytest.raises(RetrievalError, match="all 0 scenes"):
        precision_at_k(np.zeros((0, 4)), [], [])
