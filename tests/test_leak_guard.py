"""Films on benchmarks' lists, found by id, or by title and year where they have no id."""

import json
import tarfile
from pathlib import Path

import pytest

from data_scripts.catalog.leak_guard import LeakGuard
from data_scripts.metadata.facts import FilmFacts
from data_scripts.stages.text_files import MetadataError

LVU_CSV = "class_id class_name youtube_id imdb_id\n0 office 3D2hC2C_Wpw tt0000001\n1 \\N -ddWKqI1 tt0000002\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_lvu_excludes_val_and_test_of_every_task(tmp_path):
    root = tmp_path / "lvu_1.0"
    write(root / "scene/val.csv", LVU_CSV)
    write(root / "scene/train.csv", LVU_CSV.replace("tt000000", "tt000009"))
    write(root / "like_ratio/test.csv", "like_count dislike_count youtube_id imdb_id\n12 3 abc tt0000003\n")
    write(root / "lvu_durations.csv", "videoid,duration\nx,1.0\n")
    assert LeakGuard.read([root]).ids == {"tt0000001", "tt0000002", "tt0000003"}
    assert LeakGuard.read([root / "scene"]).ids == {"tt0000001", "tt0000002"}
    assert LeakGuard.read([root / "scene/train.csv"]).ids == {"tt0000091", "tt0000092"}


def test_movienet_excludes_val_and_test(tmp_path):
    split = {"train": ["tt0000001"], "val": ["tt0000002"], "test": ["tt0000003"], "full": ["tt0000001"]}
    path = write(tmp_path / "movie1K.split.v1.json", json.dumps(split))
    assert LeakGuard.read([path]).ids == LeakGuard.read([tmp_path]).ids == {"tt0000002", "tt0000003"}


def test_a_file_of_ids(tmp_path):
    path = write(tmp_path / "ids.txt", "# ours\ntt0000001\n2\n\n0000003  # third\r\ntt10000004\n")
    assert LeakGuard.read([path]).ids == {"tt0000001", "tt0000002", "tt0000003", "tt10000004"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tt0000001\nThe Big Film\n", r"line 2: 'The Big Film' is no IMDb id"),
        (LVU_CSV + "1 hotel abc nm0000229\n", r"line 4: 'nm0000229' is no IMDb id"),
        ("# none\n", r"excludes no film"),
        ("<html>\n", r"line 1: a web page"),
        ('{"train": ["tt0000001"]}', r"expected lists of IMDb ids under val and test"),
        ('{"val": ["tt0000001"], "test": [7]}', r"expected lists of IMDb ids under val and test"),
        ('{"val": {"tt0000001": 3}, "test": []}', r"expected lists of IMDb ids under val and test"),
        ('{"val":\n [}', r"line 2: no JSON"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, content, message):
    with pytest.raises(MetadataError, match=rf"list(, |: ){message}"):
        LeakGuard.read([write(tmp_path / "list", content)])


def test_folders_without_lists_and_absent_files_are_refused(tmp_path):
    write(tmp_path / "train.csv", LVU_CSV)
    with pytest.raises(MetadataError, match=r"holds none of val\.csv, test\.csv"):
        LeakGuard.read([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        LeakGuard.read([tmp_path / "absent.csv"])


@pytest.fixture
def guard(tmp_path) -> LeakGuard:
    """Two listed films, of which the sources know one under two titles, and a film that is not listed."""
    guard = LeakGuard.read([write(tmp_path / "ids.txt", "tt0000001\ntt0000009\n")])
    big = FilmFacts(title="The Big Film", year=1999)
    guard.learn("tt0000001", [big, FilmFacts(title="Big, The", other_titles=("Grande & Co",))])
    guard.learn("tt0000005", [FilmFacts(title="Other", year=1999)])
    return guard


@pytest.mark.parametrize(
    ("movie_id", "title", "year", "reason"),
    [
        ("tt0000001", "Anything", 1950, "by id"),
        ("tt0000009", "", None, "by id"),
        ("tt0000005", "The Big Film", 1999, ""),  # another film of that name, as its id says
        ("big-film-1998", "Big Film, The", 1998, "by title and year"),
        ("big-film-2000", "THE BIG FILM!", 2000, "by title and year"),
        ("big-film-2001", "The Big Film", 2001, ""),
        ("big-film", "the big film", None, "by title and year"),
        ("grande", "Grande and Co.", 1999, "by title and year"),
        ("big", "The Big", 1998, "by title and year"),
        ("other-1999", "Other", 1999, ""),  # not on the list
        ("nameless", "", 1999, ""),
    ],
)
def test_films_without_id_are_known_by_title_and_year(guard, movie_id, title, year, reason):
    assert guard.reason(movie_id, [FilmFacts(title=title, year=year)]) == reason


def test_all_titles_and_years_of_a_film_count(guard):
    told = [FilmFacts(title="Kite", year=1990), FilmFacts(other_titles=("The Big Film",)), FilmFacts(year=2000)]
    assert guard.reason("kite", told) == "by title and year"
    assert guard.reason("kite", told[:2]) == ""


def test_a_listed_film_of_unknown_year_is_known_by_its_title(guard):
    guard.learn("tt0000009", iter([FilmFacts(title="Ageless")]))
    assert guard.reason("ageless-1920", [FilmFacts(title="Ageless", year=1920)]) == "by title and year"


def test_the_record_counts_films_by_reason(guard, tmp_path):
    assert guard.record(["", "by title and year", "by id", "", "by title and year"]) == {
        "lists": {str(tmp_path / "ids.txt"): 2},
        "num_listed": 2,
        "num_listed_with_title": 1,
        "require_imdb_id": False,
        "exclude": guard.digest,
        "excluded": {"by id": 1, "by title and year": 2},
    }


def test_the_digest_tells_lists_apart(tmp_path):
    lists = [write(tmp_path / str(n), content) for n, content in enumerate(("1\n2\n", "2\n1\n1\n", "1\n3\n"))]
    first, same, other = (LeakGuard.read([path]).digest for path in lists)
    assert first == same != other and first.startswith("2 films, ")
    assert LeakGuard.read([]).digest is None


def test_films_without_id_can_all_be_excluded(tmp_path):
    guard = LeakGuard.read([write(tmp_path / "ids.txt", "1\n")], require_imdb_id=True)
    assert [guard.reason(movie_id, []) for movie_id in ("other-1999", "tt0000005", "tt0000001")] == [
        "without IMDb id",
        "",
        "by id",
    ]


def test_no_list_excludes_nothing():
    guard = LeakGuard.read([])
    guard.learn("tt0000001", [FilmFacts(title="The Big Film")])
    assert [guard.reason(movie_id, [FilmFacts(title="The Big Film")]) for movie_id in ("tt0000001", "big-film")] == [
        "",
        "",
    ]


def test_the_benchmarks_own_files(assets, tmp_path):
    labels = assets / "labels"
    assert len(LeakGuard.read([labels / "lvu_1.0"]).ids) == 1412
    assert len(LeakGuard.read([labels / "movienet_splits/movie1K.split.v1.json"]).ids) == 440
    with tarfile.open(labels / "movienet_scene318.tar.gz") as archive:
        file = archive.extractfile("movienet_scene318/meta/split318.json")
        (tmp_path / "split318.json").write_bytes(file.read())
    split = LeakGuard.read([tmp_path])
    assert len(split.ids) == 128
    assert split.ids < LeakGuard.read([labels / "movienet_splits/movie1K.split.v1.json"]).ids
