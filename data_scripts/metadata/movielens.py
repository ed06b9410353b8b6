"""MovieLens in all its layouts: 100K (`u.item`), 1M and 10M (`movies.dat`), later ones (`movies.csv`, `links.csv`).

The ids of one folder belong together: its ratings name the films of its films' file, and of its links if there are any.
"""

from collections.abc import Iterator
from pathlib import Path

from data_scripts.catalog.film_names import split_title, split_year
from data_scripts.metadata.facts import FilmFacts, Row
from data_scripts.metadata.rows import Rows, TableRows, column_name
from data_scripts.stages.text_files import Problems, text_lines

LINKS = "links.csv"
FILMS = ("movies.csv", "movies.dat", "u.item")
# Columns of `u.item`: 1 if the film is of the genre.
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
COLUMNS_100K = ("movieid", "title", "date", "video_date", "url", *map(column_name, GENRES_100K))


def read_movielens(rows: Rows) -> Iterator[FilmFacts]:
    """The films of a folder, with the ids of the `links.csv` there."""
    for _, facts in numbered_films(rows):
        yield facts


def numbered_films(rows: Rows) -> Iterator[tuple[str, FilmFacts]]:
    """Each film with its number at MovieLens."""
    links_path = rows.path.with_name(LINKS)
    links: dict[str, FilmFacts] = {}
    for number, link in _numbered_links(links_path, rows.problems) if links_path.exists() else ():
        if number in links:
            rows.problems.add("movieIds repeated in links.csv", links_path, link.line)
        links.setdefault(number, link)
    films = set()
    for row in rows:
        number = row.text(("movieid",))
        films.add(number)
        link = links.get(number, FilmFacts(source_id=(f"MovieLens in {rows.path.resolve().parent}", number)))
        if links and number not in links:
            rows.problems.add("films without a row in links.csv", rows.path, row.place)
        whole, year = split_year(row.text(("title",)))
        title, others = split_title(whole)
        yield (
            number,
            FilmFacts(link.movie_id, link.source_id, title, year, _genres(row), other_titles=others, line=row.place),
        )
    for link in (link for number, link in links.items() if number not in films):
        rows.problems.add("rows of links.csv of no film in movies.csv", links_path, link.line)


def read_links(rows: Rows) -> Iterator[FilmFacts]:
    """`links.csv` alone: pairs of IMDb id and TMDB id."""
    for _, facts in _numbered_links(rows.path, rows.problems):
        yield facts


def _numbered_links(path: Path, problems: Problems) -> Iterator[tuple[str, FilmFacts]]:
    rows = TableRows.open(path, next(text_lines(path), ""))
    rows.problems = problems
    for row in rows:
        tmdb_id = row.text(("tmdbid",)).removesuffix(".0")
        facts = FilmFacts(row.imdb_id(("imdbid",)), ("TMDB", tmdb_id) if tmdb_id else None, line=row.place)
        yield row.text(("movieid",)), facts


def _genres(row: Row) -> tuple[str, ...]:
    if "genres" in row.cells:
        return row.genres(("genres",))
    return tuple(name for name in GENRES_100K[1:] if row.cells[column_name(name)] == "1")
