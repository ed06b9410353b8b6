"""A miniature of every format in its real layout, and the ways in which its cells are written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_scripts.catalog.film_names import imdb_id, named_imdb_id, title_key
from data_scripts.metadata.facts import FilmFacts, genre_names, says_nothing, year_of
from data_scripts.metadata.files import read_metadata
from data_scripts.stages.text_files import MetadataError

U_ITEM = (
    b"1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)"
    b"|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    b"543|Mis\xe9rables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Mis%E9rables%2C%20Les%20%281995%29"
    b"|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\n"
    b"267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    b"7|broken\n"
)
MOVIES_DAT = (
    b"1::Toy Story (1995)::Animation|Children's|Comedy\n"
    b"73::Mis\xe9rables, Les (1995)::Drama|Musical\n"
    b"260::Star Wars: Episode IV - A New Hope (1977)::Action|Sci-Fi\n"
)
MOVIE_METADATA = (
    "975900\t/m/03vyhn\tGhosts of Mars\t2001-08-24\t14010832\t98.0\t{}\t{}\t"
    '{"/m/01jfsb": "Thriller", "/m/06n90": "Science Fiction"}\n'
    '3196793\t/m/08yl5d\tGetting Away "with" Murder\t2000-02-16\t\t95.0\t{}\t{}\t{"/m/02n4kr": "Mystery"}\n'
    "9363483\t/m/0285_cd\tWhite Of The Eye\t1987\t\t110.0\t{}\t{}\t{}\n"
)
NFO = """<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>
<movie><title>Am\u00e9lie</title><originaltitle>Le fabuleux destin</originaltitle><premiered>2001-04-25</premiered>
<plot>A girl &amp; a gnome.</plot><genre>Comedy / Romance</genre><genre>Drama</genre>
<uniqueid type="tmdb">194</uniqueid><uniqueid type="imdb" default="true">tt0211915</uniqueid></movie>
https://www.themoviedb.org/movie/194
"""
TMDB_FILM = {
    "id": 11658,
    "imdb_id": None,
    "title": "Solaris",
    "original_title": "Solyaris",
    "genres": [{"id": 18, "name": "Drama"}],
    "overview": "A psychologist &amp; a sea.",
    "release_date": "1972-03-20",
    "video": False,
}
TMDB_PAGE = {
    "page": 1,
    "results": [
        {"id": 841, "title": "Dune", "genre_ids": [878, 12], "overview": "Sand.", "release_date": "1984-12-14"},
        {"id": 1003596, "title": "Dune", "genre_ids": [], "overview": "", "release_date": ""},
    ],
}
TRAKT = [
    {
        "plays": 2,
        "movie": {"title": "Heat", "year": 1995, "ids": {"trakt": 605, "imdb": "tt0113277", "tmdb": 949}},
    },
    {"plays": 1, "movie": {"title": "Obscure", "year": 2001, "ids": {"trakt": 7, "imdb": None, "tmdb": None}}},
]
OMDB = [
    {"Title": "Heat", "Year": "1995", "Genre": "Crime, Drama", "Plot": "N/A", "imdbID": "tt0113277", "Type": "movie"},
    {"Title": "Lost", "Year": "2004\u20132010", "Genre": "N/A", "imdbID": "tt0411008", "Type": "series"},
    {"Response": "False", "Error": "Movie not found!"},
]
LETTERBOXD_LIST = (
    "Letterboxd list export v7\nDate,Name,Tags,URL,Description\n2024-01-01,Ours,,https://boxd.it/x,\n\n"
    "Position,Name,Year,URL,Description\n1,Heat,1995,https://boxd.it/29og,We liked it.\n"
)
IMDB_EXPORT = (
    "Position,Const,Created,Modified,Description,Title,Original Title,URL,Title Type,IMDb Rating,Runtime (mins),Year,"
    "Genres,Num Votes,Release Date,Directors\n"
    '1,tt0133093,,,Seen twice.,The Matrix,The Matrix,https://www.imdb.com/title/tt0133093,Movie,8.7,136,1999,"Action, '
    'Sci-Fi",1,1999-03-31,X\n'
    "2,tt0306414,,,,The Wire,The Wire,https://www.imdb.com/title/tt0306414,TV Series,9.3,60,2002,Crime,1,2002-06-02,\n"
)

# Name of the file, its content, the format, then of each film: id, id elsewhere, title, year, genres, synopsis.
MINIATURES = [
    (
        "u.item",
        U_ITEM,
        "MovieLens 100K",
        [
            (None, "1", "Toy Story", 1995, ("Animation", "Children's", "Comedy"), ""),
            (None, "543", "Les Misérables", 1995, ("Drama", "Musical"), ""),
            (None, "267", "unknown", None, (), ""),
        ],
        {"rows of too few or too many cells": 1},
    ),
    (
        "movies.dat",
        MOVIES_DAT,
        "MovieLens",
        [
            (None, "1", "Toy Story", 1995, ("Animation", "Children's", "Comedy"), ""),
            (None, "73", "Les Misérables", 1995, ("Drama", "Musical"), ""),
            (None, "260", "Star Wars: Episode IV - A New Hope", 1977, ("Action", "Sci-Fi"), ""),
        ],
        {},
    ),
    (
        "movies.dat",
        "122::Miserables &amp; Co, Les (1995)::Comedy|Romance\n9::Amélie (Fabuleux destin, Le) (2001)::Comedy\n",
        "MovieLens",
        [
            (None, "122", "Les Miserables & Co", 1995, ("Comedy", "Romance"), ""),
            (None, "9", "Amélie", 2001, ("Comedy",), ""),
        ],
        {},
    ),
    (
        "movies.csv",
        "movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n",
        "MovieLens",
        [(None, "1", "Toy Story", 1995, ("Animation", "Comedy"), "")],
        {},
    ),
    (
        "movie.metadata.tsv",
        MOVIE_METADATA,
        "CMU Movie Summary Corpus",
        [
            (None, "975900", "Ghosts of Mars", 2001, ("Thriller", "Science Fiction"), "Set on a planet."),
            (None, "3196793", 'Getting Away "with" Murder', 2000, ("Mystery",), ""),
            (None, "9363483", "White Of The Eye", 1987, (), ""),
        ],
        {},
    ),
    (
        "Amélie (2001).nfo",
        NFO,
        "Kodi",
        [("tt0211915", "194", "Amélie", 2001, ("Comedy", "Romance", "Drama"), "A girl & a gnome.")],
        {},
    ),
    (
        "movie.nfo",
        "https://www.imdb.com/title/tt0113277/\n",
        "Kodi",
        [("tt0113277", None, "", None, (), "")],
        {},
    ),
    (
        "videodb.xml",
        "<videodb><movie><title>Heat</title><year>1995</year><id>tt0113277</id></movie>"
        "<tvshow><title>Lost</title></tvshow><movie><title>Alien</title><year>1979</year></movie></videodb>",
        "Kodi",
        [("tt0113277", None, "Heat", 1995, (), ""), (None, None, "Alien", 1979, (), "")],
        {},
    ),
    ("notes.nfo", b"\xdb\xdb\xdb RELEASED BY \xdb\xdb", "Kodi", [], {"files that name no film": 1}),
    (
        "details.json",
        json.dumps([TMDB_FILM, {**TMDB_FILM, "id": 2103, "release_date": "2002-11-27", "imdb_id": "tt0307479"}]),
        "TMDB",
        [
            (None, "11658", "Solaris", 1972, ("Drama",), "A psychologist & a sea."),
            ("tt0307479", "2103", "Solaris", 2002, ("Drama",), "A psychologist & a sea."),
        ],
        {},
    ),
    (
        "discover.json",
        json.dumps(TMDB_PAGE),
        "TMDB",
        [
            (None, "841", "Dune", 1984, ("Science Fiction", "Adventure"), "Sand."),
            (None, "1003596", "Dune", None, (), ""),
        ],
        {},
    ),
    (
        "pages.jsonl",
        f"{json.dumps(TMDB_PAGE)}\n{json.dumps({**TMDB_PAGE, 'results': [TMDB_FILM]})}\n",
        "TMDB",
        [
            (None, "841", "Dune", 1984, ("Science Fiction", "Adventure"), "Sand."),
            (None, "1003596", "Dune", None, (), ""),
            (None, "11658", "Solaris", 1972, ("Drama",), "A psychologist & a sea."),
        ],
        {},
    ),
    (
        "movie_ids_05_15_2026.json",
        '{"adult":false,"id":3924,"original_title":"Blondie","popularity":2.4,"video":false}\n'
        '{"adult":false,"id":6124,"original_title":"Der Mann ohne Namen","popularity":0.6,"video":false}\n',
        "TMDB",
        [(None, "3924", "Blondie", None, (), ""), (None, "6124", "Der Mann ohne Namen", None, (), "")],
        {},
    ),
    (
        "excel.csv",
        "\ufeffid;title;release_date;genres;overview\n268;Batman;6/21/1989;Action;C.\n2661;Batman;30.07.1966;;x\n",
        "TMDB",
        [(None, "268", "Batman", 1989, ("Action",), "C."), (None, "2661", "Batman", 1966, (), "x")],
        {},
    ),
    (
        "watched_movies.json",
        json.dumps(TRAKT),
        "Trakt",
        [("tt0113277", "949", "Heat", 1995, (), ""), (None, "7", "Obscure", 2001, (), "")],
        {},
    ),
    (
        "omdb.json",
        json.dumps(OMDB),
        "OMDb",
        [("tt0113277", None, "Heat", 1995, ("Crime", "Drama"), "")],
        {
            "synopses that say nothing": 1,
            "titles that are no films": 1,
            "entries without a title or an id": 1,
        },
    ),
    (
        "omdb.csv",
        "Title,Year,Genre,Plot,imdbID,Type\nHeat,1995,Crime,A thief.,tt0113277,movie\n",
        "OMDb",
        [("tt0113277", None, "Heat", 1995, ("Crime",), "A thief.")],
        {},
    ),
    (
        "diary.csv",
        "Date,Name,Year,Letterboxd URI,Rating,Rewatch,Tags,Watched Date\n2024-02-03,Heat,1995,https://boxd.it/5Xa,5,,,\n",
        "Letterboxd diary or reviews",
        [(None, None, "Heat", 1995, (), "")],
        {},
    ),
    (
        "watched.csv",
        "Date,Name,Year,Letterboxd URI\n2024-02-03,Heat,1995,https://boxd.it/29og\n2024-02-03,Lost One,,https://boxd.it/1\n",
        "Letterboxd",
        [
            (None, "https://boxd.it/29og", "Heat", 1995, (), ""),
            (None, "https://boxd.it/1", "Lost One", None, (), ""),
        ],
        {},
    ),
    (
        "best.csv",
        LETTERBOXD_LIST,
        "Letterboxd list",
        [(None, "https://boxd.it/29og", "Heat", 1995, (), "")],
        {},
    ),
    (
        "WATCHLIST.csv",
        IMDB_EXPORT,
        "IMDb export",
        [("tt0133093", None, "The Matrix", 1999, ("Action", "Sci-Fi"), "")],
        {"titles that are no films": 1},
    ),
    (
        "imdb_top_1000.csv",
        "Poster_Link,Series_Title,Released_Year,Certificate,Runtime,Genre,IMDB_Rating,Overview\nx,Heat,1995,A,170 min,"
        '"Crime, Drama",8.2,A thief.\nx,Apollo 13,PG,U,140 min,Drama,7.6,They fly.\n',
        "IMDb top 1000",
        [
            (None, None, "Heat", 1995, ("Crime", "Drama"), "A thief."),
            (None, None, "Apollo 13", None, ("Drama",), "They fly."),
        ],
        {"years that cannot be read": 1},
    ),
    (
        "mpst_full_data.csv",
        'imdb_id,title,plot_synopsis,tags,split\ntt0113862,Opus,"Glenn, not\n\na person.",cult,train\n',
        "MPST",
        [("tt0113862", None, "Opus", None, (), "Glenn, not\n\na person.")],
        {},
    ),
    (
        "films.jsonl",
        '{"imdb_id":"tt0133093","title":"The Matrix"}\n\n{"imdb_id":"0113277","title":"Heat","year":"1995"}\n',
        "own table",
        [("tt0133093", None, "The Matrix", None, (), ""), ("tt0113277", None, "Heat", 1995, (), "")],
        {},
    ),
    (
        "by_id.json",
        '{"tt0133093": {"title": "The Matrix (1999)", "genres": ["Action"]}, "m7": {"title": "Seven", "year": 1995}}',
        "own table",
        [("tt0133093", None, "The Matrix", 1999, ("Action",), ""), (None, "m7", "Seven", 1995, (), "")],
        {},
    ),
    (
        "one.json",
        '{"title": "Heat", "year": 1995, "cast": [{"name": "X"}]}',
        "own table",
        [(None, None, "Heat", 1995, (), "")],
        {"columns that are not read: cast": 1},
    ),
    (
        "caps.tsv",
        "Title\tYear\tGenres\tSynopsis\nFast &amp;amp; Fun\t2009\tAction/Crime\t&quot;Brian&quot; &amp; Dom<br/>met.\n",
        "own table",
        [(None, None, "Fast & Fun", 2009, ("Action", "Crime"), '"Brian" & Dom met.')],
        {},
    ),
    (
        "urls.csv",
        "imdb_id|title\nhttps://www.imdb.com/de/title/tt0113277/?ref_=x|Heat\nTT0133093|The Matrix\n114709|Toy Story\n",
        "own table",
        [
            ("tt0113277", None, "Heat", None, (), ""),
            ("tt0133093", None, "The Matrix", None, (), ""),
            ("tt0114709", None, "Toy Story", None, (), ""),
        ],
        {},
    ),
]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def told(film: FilmFacts) -> tuple:
    source_id = film.source_id[1] if film.source_id else None
    return film.movie_id, source_id, film.title, film.year, film.genres, film.synopsis


@pytest.mark.parametrize(
    ("name", "content", "form", "films", "problems"), MINIATURES, ids=lambda value: str(value)[:24]
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_miniatures(name, content, form, films, problems, in_folder, tmp_path):
    path = write(tmp_path / name, content)
    if name == "movie.metadata.tsv":
        write(tmp_path / "plot_summaries.txt", "975900\tSet on a planet.\n1\tOf a film that is not there.\n")
    (file,) = read_metadata([tmp_path if in_folder else path])
    assert file.format == form
    assert [told(film) for film in file.films] == films
    assert dict(file.problems.counts) == problems


def test_ids_of_two_catalogs_are_apart(tmp_path):
    """The same number is another film in each catalog; one folder's files share theirs."""
    paths = [
        write(tmp_path / "100k/u.item", U_ITEM),
        write(tmp_path / "1m/movies.dat", MOVIES_DAT),
        write(tmp_path / "tmdb.json", json.dumps([{**TMDB_FILM, "id": 1}])),
        write(tmp_path / "cmu.tsv", MOVIE_METADATA.replace("975900", "1")),
    ]
    ids = {next(iter(file.films)).source_id for file in read_metadata(paths)}
    assert len(ids) == 4 and {number for _, number in ids} == {"1"}


@pytest.mark.parametrize("as_arrays", [True, False])
def test_parquet_as_pandas_writes_it(as_arrays, tmp_path):
    genres = [["Action", "Drama"], ["Science Fiction"], [], None]
    table = pd.DataFrame(
        {
            "imdb_id": ["tt0000001", None, "https://www.imdb.com/title/tt0000003/", "tt0000004"],
            "tmdb_id": [1.0, 1234567.0, np.nan, np.nan],
            "title": ["One", "Two", "Three (1992)", None],
            "release_date": pd.to_datetime(["1990-05-01", "1991-01-01", None, None]),
            "genres": [np.array(each) if as_arrays and each else each for each in genres],
            "overview": ["Told.", float("nan"), "No overview found.", None],
        }
    )
    table.to_parquet(tmp_path / "films.parquet")
    (file,) = read_metadata([tmp_path])
    assert [told(film) for film in file.films] == [
        ("tt0000001", "1", "One", 1990, ("Action", "Drama"), "Told."),
        (None, "1234567", "Two", 1991, ("Science Fiction",), ""),
        ("tt0000003", None, "Three", 1992, (), ""),
        ("tt0000004", None, "", None, (), ""),
    ]
    assert file.problems.counts == {"synopses that say nothing": 1}
    table.to_csv(tmp_path / "films.csv", index=False)
    (file,) = read_metadata([tmp_path / "films.csv"])
    assert [film.genres for film in file.films] == [tuple(each or ()) for each in genres]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['Action' 'Drama']", ("Action", "Drama")),
        ("['Action' 'Science Fiction'\n 'Drama']", ("Action", "Science Fiction", "Drama")),
        ("""["Children's" 'Drama']""", ("Children's", "Drama")),
        ("[Action, Science Fiction]", ("Action", "Science Fiction")),
        ('{Action,"Science Fiction"}', ("Action", "Science Fiction")),
        ('{"/m/1": "Action/Adventure", "/m/2": "Drama"}', ("Action/Adventure", "Drama")),
        ("Crime / Drama", ("Crime", "Drama")),
        ("Crime; Drama/War", ("Crime", "Drama", "War")),
        ("Action &amp; Adventure", ("Action & Adventure",)),
        ("N/A", ()),
        ([{"id": 28, "name": "Action"}], ("Action",)),
        ([28, 10770], ("Action", "TV Movie")),
        (float("nan"), ()),
    ],
)
def test_genres(cell, expected):
    assert genre_names(cell) == expected


@pytest.mark.parametrize(
    ("cell", "year"),
    [
        ("1999-03-31", 1999),
        ("6/21/1989", 1989),
        ("21.06.1989", 1989),
        ("31 Mar 1999", 1999),
        ("01-Jan-1995", 1995),
        ("March 31, 1999", 1999),
        ("1989-06-21 00:00:00", 1989),
        ("19990331", 1999),
        ("2003–2010", 2003),
        (1995.0, 1995),
        ("6/21/89", None),
        ("PG", None),
    ],
)
def test_years(cell, year):
    assert year_of(cell) == year


@pytest.mark.parametrize(
    ("text", "known", "named"),
    [
        ("114709", "tt0114709", None),
        ("TT0114709", "tt0114709", "tt0114709"),
        ("http://us.imdb.com/title/tt0114709", "tt0114709", "tt0114709"),
        ("https://m.imdb.com/title/tt10000001/reviews?x", "tt10000001", "tt10000001"),
        ("https://www.themoviedb.org/movie/862", None, None),
        ("31186339", "tt31186339", None),
        ("ttxx", None, None),
    ],
)
def test_ids_are_imdbs_if_the_column_says_so_or_they_do(text, known, named):
    assert (imdb_id(text), named_imdb_id(text)) == (known, named)


@pytest.mark.parametrize(
    "text",
    [
        *("No overview found.", "No Overview", "nan", "N/A", "Plot unknown.", "None", "-", "..."),
        *("No plot available", "Synopsis not available.", "The plot is unknown.", "Plot kept under wraps.", "Plot TBA"),
    ],
)
def test_texts_that_stand_for_no_synopsis(text):
    assert says_nothing(text)


@pytest.mark.parametrize(
    "text", ["No plot survives contact with Paris.", "Unknown men come.", "N/A is a village.", "乱"]
)
def test_texts_that_are_synopses(text):
    assert not says_nothing(text)


@pytest.mark.parametrize(
    ("one", "other"), [("8½", "8 1-2"), ("Alien³", "Alien 3"), ("Cafe\u0301", "Café"), ("½", "1/2")]
)
def test_titles_with_fractions_and_powers(one, other):
    assert title_key(one) == title_key(other)


@pytest.mark.parametrize("name", ["ratings.dat", "u.data", "users.dat"])
def test_files_of_a_folder_that_hold_no_films_are_left(name, tmp_path):
    write(tmp_path / name, "1::1193::5::978300760\n" if "." in name else "")
    write(tmp_path / "movies.dat", MOVIES_DAT)
    assert [file.path.name for file in read_metadata([tmp_path])] == ["movies.dat"]


def test_kodi_files_below_a_folder_are_one_source_and_name_their_videos(tmp_path):
    write(tmp_path / "Amélie (2001)/Amélie.nfo", NFO)
    write(tmp_path / "Amélie (2001)/Amélie.mkv", "x")
    write(tmp_path / "Heat/movie.nfo", "<movie><title>Heat</title><year>1995</year></movie>")
    write(tmp_path / "Heat/anything.mp4", "x")
    write(tmp_path / "Lost/tvshow.nfo", "<tvshow><title>Lost</title></tvshow>")
    (file,) = read_metadata([tmp_path])
    assert [(film.title, film.video) for film in file.films] == [
        ("Amélie", str(tmp_path / "Amélie (2001)/Amélie.mkv")),
        ("Heat", str(tmp_path / "Heat/anything.mp4")),
    ]
    assert file.problems.counts == {"files that name no film": 1}


def test_a_folder_of_one_file_a_film(tmp_path):
    for number in (11658, 2103):
        write(tmp_path / f"{number}.json", json.dumps({**TMDB_FILM, "id": number}))
    (file,) = read_metadata([tmp_path])
    assert file.format == "TMDB" and {film.source_id[1] for film in file.films} == {"11658", "2103"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("title.akas.tsv", "titleId\tordering\ttitle\tregion\n", r"\(IMDb title.akas\)"),
        ("name.basics.tsv", "nconst\tprimaryName\tbirthYear\n", r"\(IMDb name.basics\)"),
        ("title.crew.tsv", "tconst\tdirectors\twriters\n", r"\(IMDb title.crew\)"),
        ("plot_summaries.txt", "975900\tSet in the future of a planet.\n", r"need movie\.metadata\.tsv beside them"),
        ("people.csv", "first,last\nA,B\n", r"no columns of a known format"),
        ("rows.json", "[1, 2]", r"no columns of a known format"),
    ],
)
def test_files_without_films_are_refused_by_name(name, content, message, tmp_path):
    with pytest.raises(MetadataError, match=message):
        read_metadata([write(tmp_path / name, content)])
