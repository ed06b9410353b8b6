"""What was watched next, and by the same persons: against loops over persons and orders, from good and bad files."""

import gzip
import itertools

import numpy as np
import pytest
from scipy import sparse

from data_scripts.similarity import co_watch
from data_scripts.similarity.co_watch import Watches, read_watches, watched_both, watched_next
from data_scripts.stages.text_files import MetadataError

HEADER = "userId,movieId,rating,timestamp\n"


def dense(blocks):
    return sparse.vstack(list(blocks)).toarray()


def people(seed: int, num_movies: int = 7) -> list[list[list[int]]]:
    """Of some persons, the bursts in the order of time; of each burst, the films."""
    random, persons = np.random.default_rng(seed), []
    for _ in range(12):
        films = random.permutation(num_movies)[: random.integers(1, num_movies + 1)].tolist()
        cuts = sorted(random.choice(len(films), random.integers(min(4, len(films))), replace=False).tolist())
        bursts = [films[a:b] for a, b in itertools.pairwise([0, *cuts, len(films)]) if a < b]
        persons.append(bursts)
    return persons


def as_watches(persons: list[list[list[int]]], num_movies: int = 7) -> Watches:
    rows = [(p, film, n) for p, bursts in enumerate(persons) for n, burst in enumerate(bursts) for film in burst]
    person, movie, seconds = np.array(rows).T
    return Watches(person.astype(np.int32), movie.astype(np.int32), seconds, num_movies, {})


def mean_over_all_orders(bursts: list[list[int]], num_movies: int = 7) -> np.ndarray:
    """How often a person watched b next after a, on average over every order that the times allow."""
    orders = [list(itertools.chain(*order)) for order in itertools.product(*map(itertools.permutations, bursts))]
    counts = np.zeros((num_movies, num_movies))
    for order in orders:
        for a, b in itertools.pairwise(order):
            counts[a, b] += 1
    return counts / len(orders)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("pairs_at_once", "films_at_once"), [(2**22, 512), (3, 2)])
def test_watched_next_is_the_mean_over_all_orders_of_a_burst(seed, pairs_at_once, films_at_once, monkeypatch):
    monkeypatch.setattr(co_watch, "PAIRS_AT_ONCE", pairs_at_once)
    monkeypatch.setattr(co_watch, "FILMS_AT_ONCE", films_at_once)
    persons = people(seed)
    blocks, left_out = watched_next(as_watches(persons), max_burst=7)
    found = dense(blocks)
    assert found == pytest.approx(sum(map(mean_over_all_orders, persons)), abs=1e-6)
    assert found.sum() == pytest.approx(sum(sum(map(len, bursts)) - 1 for bursts in persons))
    assert max(len(burst) for bursts in persons for burst in bursts) > 2
    assert left_out == {"long_bursts": 0, "ratings_in_long_bursts": 0}


def test_a_long_burst_is_left_out_with_the_steps_to_and_from_it():
    blocks, left_out = watched_next(as_watches([[[0], [1, 2, 3], [4], [5, 6]]]), max_burst=2)
    expected = mean_over_all_orders([[4], [5, 6]])
    assert dense(blocks) == pytest.approx(expected)
    assert left_out == {"long_bursts": 1, "ratings_in_long_bursts": 3}


def test_one_film_a_person_makes_no_pairs():
    watches = as_watches([[[0]], [[1]], [[0]]])
    assert dense(watched_next(watches, 20)[0]).sum() == 0
    assert dense(watched_both(watches, 20)[0]).sum() == 0


@pytest.mark.parametrize("max_films", [7, 4])
@pytest.mark.parametrize("films_at_once", [512, 3])
def test_watched_both_counts_the_persons_of_both_films(max_films, films_at_once, monkeypatch):
    monkeypatch.setattr(co_watch, "FILMS_AT_ONCE", films_at_once)
    persons = people(0)
    films = [set(itertools.chain(*bursts)) for bursts in persons]
    expected = np.zeros((7, 7))
    for a, b in itertools.permutations(range(7), 2):
        expected[a, b] = sum({a, b} <= each for each in films if len(each) <= max_films)
    heavy = [each for each in films if len(each) > max_films]
    blocks, left_out = watched_both(as_watches(persons), max_films)
    assert np.array_equal(dense(blocks), expected) and expected.any()
    assert left_out == {"heavy_persons": len(heavy), "ratings_of_heavy_persons": sum(map(len, heavy))}
    assert bool(heavy) == (max_films == 4)


RATINGS = [("ann", "a", 30), ("bob", "b", 10), ("ann", "b", 10), ("ann", "a", 5), ("bob", "x", 20), ("ann", "c", 10)]
LINES = [f"{person},{movie},3.5,{seconds}" for person, movie, seconds in RATINGS]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "\n".join(LINES),
        "\ufeff" + HEADER + "\r\n".join([*LINES, ""]),
        HEADER + "\n\n".join(LINES) + "\n\n\n",
        "timestamp,userId,movieId\n" + "\n".join(f'{s},"{p}",{m}' for p, m, s in RATINGS),
        HEADER + "\n".join(f"{p},{m},4,{s}.0" for p, m, s in RATINGS),
        HEADER + "\n".join(f"{p},{m},4,1970-01-01 00:00:{s:02}" for p, m, s in RATINGS),
        HEADER + "\n".join(f"{p},{m},4,1970-01-01T00:00:{s:02}Z" for p, m, s in RATINGS),
    ],
    ids=["plain", "BOM and CRLF", "blank lines", "other order, quotes", "decimals", "dates", "dates with zone"],
)
@pytest.mark.parametrize("block_bytes", [2**24, 80])
def test_files_are_read_in_the_order_of_time_and_each_film_once(content, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(co_watch, "BLOCK_BYTES", block_bytes)
    (tmp_path / "ratings.csv").write_bytes(content.encode())
    (tmp_path / "ratings.csv.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("ratings.csv", "ratings.csv.gz"):
        watches = read_watches(tmp_path / name, {"a": 0, "b": 1, "c": 2}, 3)
        assert list(zip(watches.person.tolist(), watches.movie.tolist(), strict=True)) == [
            (0, 0),
            (0, 1),
            (0, 2),
            (1, 1),
        ]
        assert (watches.seconds[1] == watches.seconds[2]) and (watches.seconds[0] < watches.seconds[1])
        assert watches.watchers.tolist() == [1, 2, 1]
        assert watches.counts == {
            "ratings": 6,
            "persons": 2,
            "ratings_of_unknown_films": 1,
            "known_films": 3,
            "unknown_films": 1,
            "repeated_ratings": 1,
        }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        (HEADER, "a header and no ratings"),
        ("1,a,3.5,10\n2,b,3,11\n", r"line 1: no column userId, movieId, timestamp"),
        ("<!DOCTYPE html>\n<html></html>\n", r"line 1: a web page"),
        (HEADER.replace(",", ";") + "1;a;3;10\n", r"line 1: columns are separated by ';'"),
        (HEADER + "1,a,3,10\n1,b,3,soon\n", r"line 3: .*'soon'"),
        (HEADER + "1,a,3,10\n\n\n1,b,3,soon\n", r"line 5: .*'soon'"),
        (HEADER + "1,a,3,soon\n", r"line 2: .*'soon'"),
        (HEADER + "1,a,3,10\n" * 9 + "1,b,3\n", r"line 11: .*Expected 4 columns, got 3"),
        (HEADER + "1,a,3,10\n1,b,3,\n", r"line 3: no timestamp"),
        (HEADER + "1,a,3,10\n" * 9 + ",b,3,10\n", r"line 11: no userId"),
        (HEADER + "1,a,3,10\n1,,3,10\n", r"line 3: no movieId"),
        (HEADER + "1,x,3,10\n1,y,3,11\n", r"none of its 2 ratings is of a film of the catalog.*'x'.*links\.csv"),
    ],
)
@pytest.mark.parametrize("block_bytes", [2**24, 80])
def test_a_bad_file_is_refused_with_its_line(content, words, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(co_watch, "BLOCK_BYTES", block_bytes)
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(MetadataError, match=rf"ratings\.csv.*{words}"):
        read_watches(tmp_path / "ratings.csv", {"a": 0, "b": 1}, 2)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(HEADER.encode() + b"1,a,3,10\n1,\xe9,3,10\n")
    with pytest.raises(MetadataError, match=r"line 3.*UTF"):
        read_watches(tmp_path / "ratings.csv", {"a": 0}, 1)


@pytest.mark.parametrize(("name", "separator"), [("ratings.dat", "::"), ("u.data", "\t")])
@pytest.mark.parametrize("block_bytes", [2**24, 80])
def test_older_layouts_of_movielens_have_no_header(name, separator, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(co_watch, "BLOCK_BYTES", block_bytes)
    rows = [("1", "11", "5", "30"), ("2", "12", "3.5", "10"), ("1", "12", "1", "10"), ("2", "99", "1", "11")] * 3
    path = tmp_path / name
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    watches = read_watches(path, {"11": 0, "12": 1}, 2)
    assert (watches.person.tolist(), watches.movie.tolist()) == ([0, 0, 1], [1, 0, 1])
    assert (watches.counts["ratings"], watches.counts["known_films"], watches.counts["unknown_films"]) == (12, 2, 1)
    path.write_text("".join(separator.join(row) + "\n" for row in [*rows, ("1", "11", "5", "soon"), *rows]))
    with pytest.raises(MetadataError, match=r"line 13: .*'soon'"):
        read_watches(path, {"11": 0}, 1)
    path.write_text("".join(separator.join(row) + "\n" for row in [*rows, ("1", "", "5", "7"), *rows]))
    with pytest.raises(MetadataError, match=r"line 13: no movieId"):
        read_watches(path, {"11": 0}, 1)
