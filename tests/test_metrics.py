"""Retrieval metrics against loops written out and scikit-learn; ties, one film only, embeddings that are no numbers."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from eval.metrics import neighbors
from eval.metrics.neighbors import (
    class_means,
    gallery_chance,
    gallery_precision_at_k,
    nearest_neighbors,
)
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
            with pytest.raises(RetrievalError, match=r"2 embeddings hold NaN, infinite or huge values, .* 11 first"):
                measure(broken, places, films)
        zero = embeddings.copy()
        zero[8] = 0
        with pytest.raises(RetrievalError, match="8 is zero"):
            measure(zero, places, films)
        with pytest.raises(RetrievalError, match="52 labels, but 53 groups"):
            measure(embeddings, places[1:], films)
        with pytest.raises(RetrievalError, match="53 embeddings, but 52 groups"):
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


def nearest_by_loop(queries, gallery, k, metric, query_groups=None, gallery_groups=None) -> list[list[int]]:
    """Gallery scenes of other groups by distance, then in their order: written out in float64."""
    found = []
    for number, query in enumerate(queries.astype(float)):
        distances = {}
        for place, scene in enumerate(gallery.astype(float)):
            if query_groups is None or query_groups[number] != gallery_groups[place]:
                if metric == "euclidean":
                    distances[place] = np.float32(sum((query - scene) ** 2) ** 0.5)
                else:
                    distances[place] = np.float32(-(query @ scene) / (query @ query * (scene @ scene)) ** 0.5)
        nearest = sorted(distances, key=lambda place: (distances[place], place))[:k]
        found.append(nearest + [-1] * (k - len(nearest)))
    return found


def embeddings_of(kind: str, count: int, random: np.random.Generator) -> np.ndarray:
    normal = random.normal(size=(count, 5))
    if kind == "ties":
        return random.integers(1, 4, size=(count, 5)).astype(np.float32)
    if kind == "far from zero":  # single precision cannot tell these squared lengths apart
        return 3e3 + normal * 1e-3
    if kind == "half precision":
        return normal.astype(np.float16)
    return normal * {"usual": 1, "tiny": 1e-25, "large": 1e15}[kind]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["usual", "ties", "far from zero", "half precision", "tiny", "large"])
@pytest.mark.parametrize("grouped", [False, True])
def test_search_equals_the_loop(metric, kind, grouped, monkeypatch):
    # Blocks so small that floors rise from block to block; few pairs, so that exact distances decide early.
    for name, value in {"FIRST_BLOCK": 3, "BLOCK": 5, "MOST_PAIRS": 300}.items():
        monkeypatch.setattr(neighbors, name, value)
    random = np.random.default_rng(5)
    queries, gallery = embeddings_of(kind, 23, random), embeddings_of(kind, 61, random)
    films = [np.array([f"tt{n}" for n in random.integers(4, size=len(each))]) for each in (queries, gallery)]
    films[1][:20] = "tt0"  # queries of this film find nothing in the first blocks
    groups = films if grouped else ()
    for k in (1, 7, 50, 70):
        found = nearest_neighbors(queries, gallery, k, metric, *groups, block_size=9)
        assert found.tolist() == nearest_by_loop(queries, gallery, k, metric, *groups)


def test_search_equals_scikit_learn_over_many_blocks():
    random = np.random.default_rng(6)
    queries, gallery = (random.normal(size=(count, 16)).astype(np.float32) for count in (30, 7001))
    expected = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(gallery).kneighbors(queries)[1]
    assert (nearest_neighbors(queries, gallery, 10) == expected).all()


def test_a_collapsed_encoder_finds_the_first_scenes(monkeypatch):
    monkeypatch.setattr(neighbors, "MOST_PAIRS", 1000)
    found = nearest_neighbors(np.full((4, 3), 0.1), np.full((9000, 3), 0.1), 5)
    assert (found == np.arange(5)).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gallery_precision_and_chance_equal_the_loop(metric):
    embeddings, places, films = scenes(90, films=9)
    # Queries and gallery share films, and a place that the gallery lacks.
    places = np.where(np.arange(90) == 3, "seen once", places)
    query, gallery = slice(0, 31), slice(31, 90)
    for groups in ((), (films[query], films[gallery])):
        found = gallery_precision_at_k(
            embeddings[query], places[query], embeddings[gallery], places[gallery], (1, 5, 58), metric, *groups
        )
        chances = gallery_chance(places[query], places[gallery], *groups)
        orders = nearest_by_loop(embeddings[query], embeddings[gallery], 59, metric, *groups)
        for number, order in enumerate(orders):
            hits = [places[gallery][place] == places[query][number] for place in order if place >= 0]
            for k in (1, 5, 58):
                assert found[k][number] == pytest.approx(np.mean(hits[:k]))
            assert chances[number] == pytest.approx(np.mean(hits))
        assert found[1][3] == chances[3] == 0
        means = class_means(found[5], places[query])
        assert means.keys() == set(places[query])
        for place, mean in means.items():
            assert mean == pytest.approx(np.mean([found[5][n] for n in range(31) if places[query][n] == place]))
    assert max(means.values()) > np.mean(chances)


def test_the_papers_means_are_over_queries():
    # Table 2, CLIP, P@1: 40 of 114 queries, whatever their class.
    hits, places = np.zeros(114), np.repeat([0, 1], [100, 14])
    hits[80:] = hits[:6] = 1
    assert hits.mean() == pytest.approx(0.35087, abs=1e-5)
    assert np.mean(list(class_means(hits, places).values())) == pytest.approx((26 / 100 + 14 / 14) / 2)


def test_galleries_that_cannot_be_searched():
    queries, gallery = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(RetrievalError, match="3 dimensions, but the gallery 2"):
        nearest_neighbors(queries, gallery[:, :2], 1)
    with pytest.raises(RetrievalError, match="query 1: all 4 gallery scenes are of its own film"):
        nearest_neighbors(queries, gallery, 1, "euclidean", ["a", "b"], ["b"] * 4)
    with pytest.raises(RetrievalError, match="for both queries and gallery"):
        nearest_neighbors(queries, gallery, 1, "euclidean", ["a", "b"])
    with pytest.raises(RetrievalError, match="4 gallery scenes, but 3 groups"):
        nearest_neighbors(queries, gallery, 1, "euclidean", ["a", "b"], ["a"] * 3)
    with pytest.raises(RetrievalError, match="2 queries and 0 gallery scenes"):
        nearest_neighbors(queries, gallery[:0], 1)
    with pytest.raises(RetrievalError, match="2 queries, but 1 labels"):
        gallery_precision_at_k(queries, [0], gallery, [0] * 4)
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbors(queries, gallery, 0)
    gallery[2, 1] = np.inf
    with pytest.raises(RetrievalError, match="1 embeddings hold NaN, infinite or huge values, that of gallery scene 2"):
        nearest_neighbors(queries, gallery, 1)
    gallery[2] = 0
    with pytest.raises(RetrievalError, match="gallery scene 2 is zero"):
        nearest_neighbors(queries, gallery, 1, "cosine")
    with pytest.raises(RetrievalError, match="infinite or huge"):
        nearest_neighbors(queries * 1e30, queries, 1)
