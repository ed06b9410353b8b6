"""Ratings find the catalog's films by MovieLens' films beside them, in every layout; wrong numbers are refused."""

import re
from pathlib import Path

import pytest

from data_scripts.catalog.building import make_catalog
from data_scripts.make_catalog import CatalogArguments
from data_scripts.similar_movies import main
from data_scripts.similarity.rated_films import RatedFilms
from modeling_m2s.storage_m2s import FilmDataset

FILMS = {"1": "Toy Story (1995)", "2": "Matrix, The (1999)", "3": "Heat (1995)", "4": "Alien (1979)", "5": "Ran (1985)"}
# Persons who watch films in this order.
WATCHED = {"7": "123", "8": "1235", "9": "45"}
LAYOUTS = ("100K", "1M", "latest", "latest with links")


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def movielens(folder: Path, layout: str) -> Path:
    """A miniature of a release; its ratings."""
    rows = [(p, m, "4", str(10 * n)) for p, movies in WATCHED.items() for n, m in enumerate(movies)]
    if layout == "100K":
        write(folder / "u.item", "".join(f"{n}|{t}|01-Jan-1995||http://x{'|0' * 18}|1\n" for n, t in FILMS.items()))
        return write(folder / "u.data", "".join("\t".join(row) + "\n" for row in rows))
    if layout == "1M":
        write(folder / "movies.dat", "".join(f"{n}::{t}::Drama\n" for n, t in FILMS.items()))
        return write(folder / "ratings.dat", "".join("::".join(row) + "\n" for row in rows))
    write(folder / "movies.csv", "movieId,title,genres\n" + "".join(f'{n},"{t}",Drama\n' for n, t in FILMS.items()))
    if layout == "latest with links":
        lines = [f"{number},{1000 + int(number)},\n" for number in FILMS]
        write(folder / "links.csv", "movieId,imdbId,tmdbId\n" + "".join(lines))
    return write(
        folder / "ratings.csv", "userId,movieId,rating,timestamp\n" + "".join(",".join(r) + "\n" for r in rows)
    )


def similar(folder: Path, ratings: Path, *flags: str) -> set[tuple[str, str]]:
    """Titles of films and of those that were watched next."""
    output = folder / "similar_movies"
    flags = ("--ratings", str(ratings), "--output", str(output), *flags)
    main(["--movies", str(folder / "movies"), "--sources", "co_watch", *flags])
    titles = {row["movie_id"]: row["title"] for row in FilmDataset(folder / "movies", "movies").read().to_pylist()}
    pairs = FilmDataset(output, "similar_movies").read().to_pylist()
    return {(titles[pair["movie_id"]], titles[pair["similar_movie_id"]]) for pair in pairs}


NEXT = {
    ("Toy Story", "The Matrix"),
    ("The Matrix", "Heat"),
    ("Heat", "Ran"),
    ("Alien", "Ran"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_of_one_folder_belong_together(layout, tmp_path):
    ratings = movielens(tmp_path / "ml", layout)
    make_catalog(CatalogArguments(output=tmp_path / "movies", metadata=[tmp_path / "ml"]))
    assert similar(tmp_path, ratings) == NEXT


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_films_of_another_catalog_are_found_by_title_and_year(layout, tmp_path):
    """Its own numbers are others; a film of two that share title and year is left out."""
    ratings = movielens(tmp_path / "ml", layout)
    own = "imdb_id,title,year\n5,Ran,1985\n4,Toy story,1995\n3,The Matrix,1999\n2,Heat,1995\n"
    own += "1,Alien,1979\n6,Alien,1979\n"
    make_catalog(CatalogArguments(output=tmp_path / "movies", metadata=[write(tmp_path / "own.csv", own)]))
    found = {(a.casefold(), b.casefold()) for a, b in similar(tmp_path, ratings)}
    assert found == {(a.casefold(), b.casefold()) for a, b in NEXT if a != "Alien"}


def log(folder: Path, films: range, copies: int = 1) -> Path:
    rows = [f"p{n % 5},{film},{n}\n" for n, film in enumerate([*films] * copies)]
    return write(folder / "log.csv", "userId,movieId,timestamp\n" + "".join(rows))


def numbered_catalog(folder: Path, count: int, column: str = "movie_id") -> None:
    rows = "".join(f"{n},Film {n},1990\n" for n in range(1, count + 1))
    path = write(folder / "own.csv", f"{column},title,year\n{rows}")
    make_catalog(CatalogArguments(output=folder / "movies", metadata=[path]))


@pytest.mark.parametrize(
    ("count", "rated", "message"),
    [
        (20, range(12, 40), r"its ids match 9 of the catalog's 20 films, less than half"),
        (20, range(1, 100), r"79 of its 99 films are not in the catalog"),
        (20, range(19, 2000), r"its ids match 2 of the catalog's 20 films, less than half"),
    ],
)
def test_another_catalogs_numbers_are_refused_unless_told_otherwise(count, rated, message, tmp_path, capsys):
    numbered_catalog(tmp_path, count)
    ratings = log(tmp_path, rated)
    with pytest.raises(SystemExit) as ended:
        similar(tmp_path, ratings)
    told = str(ended.value.code) + capsys.readouterr().err
    assert re.search(message, told) and "--allow-few-matches" in told and "links.csv" in told
    assert not (tmp_path / "similar_movies/m2s.json").exists()
    similar(tmp_path, ratings, "--allow-few-matches")
    assert (tmp_path / "similar_movies/m2s.json").exists()


def test_a_log_of_ones_own_needs_no_flag(tmp_path):
    """It may know films that the catalog lacks, and lack some that it has."""
    numbered_catalog(tmp_path, 20)
    assert similar(tmp_path, log(tmp_path, range(6, 30)))


def test_imdb_ids_match_or_do_not(tmp_path):
    """Ratings of a world of films suit a small catalog: ids of IMDb are nobody else's numbers."""
    numbered_catalog(tmp_path, 6, "imdb_id")
    rows = "".join(f"p,tt{n:07d},{n}\n" for n in range(1, 60))
    assert similar(tmp_path, write(tmp_path / "log.csv", "userId,movieId,timestamp\n" + rows))


def test_links_win_over_films_beside(tmp_path):
    ratings = movielens(tmp_path / "ml", "latest")
    links = write(tmp_path / "links.csv", "movieId,imdbId,tmdbId\n1,0000009,\n")
    found = RatedFilms.read(ratings, links, ["tt0000009", "tt0000010"], ["Toy Story", "Heat"], [1995, 1995])
    assert dict(found.places) == {"1": 0} and not found.are_own
    found = RatedFilms.read(ratings, None, ["tt0000009", "tt0000010"], ["Toy Story", "Heat"], [1995, 1995])
    assert dict(found.places) == {"1": 0, "3": 1} and not found.are_own
