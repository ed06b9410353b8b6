"""Films on benchmarks' lists, found by id, or by title and year where they have no id."""

import json
import tarfile
from pathlib import Path

import pytest

from data_scripts.leak_guard import LeakGuard
from data_scripts.metadata_files import MetadataError
from modeling_m2s.storage_m2s import FilmDataset, StorageError

LVU_CSV = "class_id class_name youtube_id imdb_id\n0 office 3D2hC2C_Wpw tt0000001\n1 \\N -ddWKqI1 tt0000002\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def movies(tmp_path) -> Path:
    """A catalog with films that are on the list, are not, and have no id."""
    films = [
        ("big-film-1998", "Big Film, The", 1998),
        ("big-film-2005", "The Big Film", 2005),
        ("other-1999", "Other", 1999),
        ("the-big-film", "the big film!", 0),
        ("tt0000001", "The Big Film", 1999),
        ("tt0000005", "The Big Film", 1999),
    ]
    rows = [
        {"movie_id": movie_id, "title": title, "year": year, "genres": [], "synopsis": "", "video": ""}
        for movie_id, title, year in films
    ]
    dataset = FilmDataset(tmp_path / "movies", "movies")
    dataset.begin({})
    dataset.write_all(rows)
    return tmp_path / "movies"


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


def test_folders_without_lists_or_a_catalog_are_refused(tmp_path):
    write(tmp_path / "train.csv", LVU_CSV)
    with pytest.raises(MetadataError, match=r"holds none of val\.csv, test\.csv"):
        LeakGuard.read([tmp_path])
    with pytest.raises(StorageError, match=r"no finished movies dataset"):
        LeakGuard.read([tmp_path / "train.csv"], movies=tmp_path / "absent")


def test_films_without_id_are_known_by_title_and_year(tmp_path, movies):
    path = write(tmp_path / "ids.txt", "tt0000001\ntt0000009\n")
    guard = LeakGuard.read([path], movies=movies)
    names = FilmDataset(movies, "movies").read(["movie_id"])["movie_id"].to_pylist()
    assert guard.split(names) == (
        ["big-film-2005", "other-1999", "tt0000005"],
        ["big-film-1998", "the-big-film", "tt0000001"],
    )
    assert guard.split(["tt0000001"]) == ([], ["tt0000001"])
    assert guard.record() == {
        "lists": {str(path): 2},
        "num_listed": 2,
        "num_listed_with_title": 1,
        "require_imdb_id": False,
        "excluded": {"by id": 1, "by title and year": 2},
    }
    without_catalog = LeakGuard.read([path])
    assert without_catalog.split(names)[1] == ["tt0000001"]


def test_metadata_tells_titles_of_films_that_the_catalog_lacks(tmp_path):
    ids = write(tmp_path / "ids.txt", "tt0000007\n")
    titles = write(tmp_path / "movies.csv", "imdbid,title,year\ntt0000007,Big & Small,1990.0\ntt0000008,Else,1990.0\n")
    write(tmp_path / "ml/movies.csv", "movieId,title,genres\n1,Large (a.k.a. Grande) (1990),Drama\n")
    write(tmp_path / "ml/links.csv", "movieId,imdbId,tmdbId\n1,0000007,\n")
    guard = LeakGuard.read([ids], metadata=[titles, tmp_path / "ml"])
    assert guard.excludes("grande-1990", "Grande", 1990)
    assert guard.excludes("big-and-small", "Big and Small", 1991)
    assert not guard.excludes("big-and-small-1992", "Big and Small", 1992)
    assert not guard.excludes("else-1990", "Else", 1990)
    assert not guard.excludes("tt0000077", "Big and Small", 1990)


def test_films_without_id_can_all_be_excluded(tmp_path, movies):
    guard = LeakGuard.read([write(tmp_path / "ids.txt", "1\n")], movies=movies, require_imdb_id=True)
    assert guard.split(["other-1999", "tt0000005", "unheard-of"]) == (["tt0000005"], ["other-1999", "unheard-of"])
    assert guard.record()["excluded"] == {"without IMDb id": 2}


def test_no_list_excludes_nothing(movies):
    guard = LeakGuard.read([], movies=movies)
    assert guard.split(["tt0000001", "other-1999"]) == (["tt0000001", "other-1999"], [])


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
