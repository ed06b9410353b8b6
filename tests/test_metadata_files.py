"""Metadata in every format that is recognized, and files that are not what they should be."""

import gzip
import json
from pathlib import Path

import pytest

from data_scripts.catalog.film_names import imdb_id, split_title, split_year, title_key
from data_scripts.metadata.facts import genre_names
from data_scripts.metadata.files import read_metadata
from data_scripts.stages.text_files import MetadataError, read_table

TITLE_BASICS = (
    "tconst\ttitleType\tprimaryTitle\toriginalTitle\tisAdult\tstartYear\tendYear\truntimeMinutes\tgenres\n"
    'tt0000009\tmovie\t"Miss Jerry\tMiss Jerry\t0\t1894\t\\N\t45\tRomance\n'
    "tt0112682\tmovie\tThe City of Lost Children\tLa cité des enfants perdus\t0\t1995\t\\N\t112\tDrama,Sci-Fi\n"
    "tt0041951\ttvSeries\tThe Big Top\tThe Big Top\t0\t1950\t1957\t60\tFamily\n"
    "tt10000001\tmovie\tUntold\tUntold\t0\t\\N\t\\N\t\\N\t\\N\n"
)
# One row of four broken in two by a bare line end, as three of Kaggle's are; ids, genres and years that cannot be read.
MOVIES_METADATA = (
    "genres,id,imdb_id,original_title,overview,release_date,title\r\n"
    "\"[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]\",862,tt0114709,Toy Story,"
    '"Led by Woody, Andy\'s ""toys"" live.\r\n\r\nHappily.",1995-10-30,Toy Story\r\n'
    "[],82663,tt0113002,Midnight Man,No\r\nDescription,1994-01-01,Midnight Man\r\n"
    "\"[{'id': 16, 'name'\",12,0,Trailer,,1,Trailer\r\n"
)


def films(path: Path):
    (file,) = read_metadata([path])
    return list(file.films), dict(file.problems.counts), file


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0114709", "tt0114709"),
        ("114709", "tt0114709"),
        ("tt0114709", "tt0114709"),
        (" tt10000001 ", "tt10000001"),
        ("114709.0", "tt0114709"),
        (114709, "tt0114709"),
        ("0", None),
        ("", None),
        (None, None),
        ("nm0000229", None),
        ("tt", None),
    ],
)
def test_ids_with_and_without_tt(text, expected):
    assert imdb_id(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Matrix, The", "the  MATRIX"),
        ("Les Misérables", "Misérables, Les"),
        ("Amélie", "Ame\u0301lie"),
        ("Amélie", "Amelie"),
        ("Dude, Where's My Car?", "Dude Where’s My Car"),
        ("Thelma & Louise", "Thelma and Louise"),
        ("Avventura, L'", "L' Avventura"),
        ("WALL·E", "WALL-E"),
    ],
)
def test_spellings_of_one_title(one, other):
    assert title_key(one) == title_key(other)


@pytest.mark.parametrize(("one", "other"), [("Alien", "Aliens"), ("$", "9"), ("???", "!!!"), ("七人の侍", "乱")])
def test_titles_of_two_films(one, other):
    assert title_key(one) != title_key(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Toy Story (1995)", ("Toy Story", 1995, ())),
        ("Seven (a.k.a. Se7en) (1995)", ("Seven", 1995, ("Seven (a.k.a. Se7en)", "Se7en"))),
        (
            "Postman, The (Postino, Il) (1994)",
            ("The Postman", 1994, ("Postman, The (Postino, Il)", "Il Postino")),
        ),
        ("(500) Days of Summer (2009)", ("(500) Days of Summer", 2009, ())),
        ("Fawlty Towers (1975-1979)", ("Fawlty Towers", 1975, ())),
        ("Babylon 5", ("Babylon 5", None, ())),
        ("2001: A Space Odyssey (1968) ", ("2001: A Space Odyssey", 1968, ())),
    ],
)
def test_titles_of_movielens(text, expected):
    whole, year = split_year(text)
    title, others = split_title(whole)
    assert (title, year, others) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("Adventure|Animation|Adventure", ("Adventure", "Animation")),
        ("Drama,Sci-Fi", ("Drama", "Sci-Fi")),
        ("Action, Science Fiction", ("Action", "Science Fiction")),
        ('[{"id": 28, "name": "Action"}]', ("Action",)),
        ("[{'id': 28, 'name': 'Action'}]", ("Action",)),
        ("['Drama', 'War']", ("Drama", "War")),
        (["Drama"], ("Drama",)),
        ("(no genres listed)", ()),
        ("\\N", ()),
        ("[]", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_genres_of_every_spelling(cell, expected):
    assert genre_names(cell) == expected


def test_movielens_takes_ids_from_the_links_beside(tmp_path):
    write(
        tmp_path / "movies.csv",
        'movieId,title,genres\r\n1,Toy Story (1995),Comedy\r\n2,"Matrix, The (1999)",(no genres listed)\r\n'
        "3,Lost,X\r\n",
    )
    write(
        tmp_path / "links.csv",
        "movieId,imdbId,tmdbId\r\n1,0114709,862\r\n2,133093,\r\n9,0000001,7\r\n1,0000002,8\r\n",
    )
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n")
    for path in (tmp_path, tmp_path / "movies.csv", tmp_path / "links.csv"):
        found, problems, file = films(path)
        assert file.format == "MovieLens"
        assert [(f.movie_id, f.source_id, f.title, f.year, f.genres) for f in found] == [
            ("tt0114709", ("TMDB", "862"), "Toy Story", 1995, ("Comedy",)),
            ("tt0133093", None, "The Matrix", 1999, ()),
            (None, (f"MovieLens in {tmp_path}", "3"), "Lost", None, ("X",)),
        ]
        assert problems == {
            "movieIds repeated in links.csv": 1,
            "films without a row in links.csv": 1,
            "rows of links.csv of no film in movies.csv": 1,
        }
    assert len(read_metadata([tmp_path, tmp_path / "movies.csv", tmp_path / "links.csv"])) == 1
    with pytest.raises(MetadataError, match=r"ratings\.csv: holds no facts of films"):
        read_metadata([tmp_path / "ratings.csv"])


@pytest.mark.parametrize("packed", [False, True])
def test_imdb_has_quotes_that_mean_nothing_and_titles_that_are_no_films(tmp_path, packed):
    content = gzip.compress(TITLE_BASICS.encode()) if packed else TITLE_BASICS
    found, problems, file = films(write(tmp_path / "some.tsv", content))
    assert file.format == "IMDb title.basics"
    assert [(f.movie_id, f.title, f.year, f.genres, f.other_titles) for f in found] == [
        ("tt0000009", '"Miss Jerry', 1894, ("Romance",), ("Miss Jerry",)),
        ("tt0112682", "The City of Lost Children", 1995, ("Drama", "Sci-Fi"), ("La cité des enfants perdus",)),
        ("tt10000001", "Untold", None, (), ()),
    ]
    assert problems == {"titles that are no films": 1}
    assert file.problems.first["titles that are no films"].endswith("some.tsv, line 4")


def test_tmdb_with_python_genres_and_broken_rows(tmp_path):
    found, problems, file = films(write(tmp_path / "movies_metadata.csv", MOVIES_METADATA))
    assert file.format == "TMDB"
    assert [(f.movie_id, f.source_id, f.title, f.year, f.genres) for f in found] == [
        ("tt0114709", ("TMDB", "862"), "Toy Story", 1995, ("Animation", "Comedy")),
        (None, ("TMDB", "12"), "Trailer", None, ()),
    ]
    assert found[0].synopsis == 'Led by Woody, Andy\'s "toys" live.\r\n\r\nHappily.'
    assert problems == {
        "rows of too few or too many cells": 2,
        "ids that are no IMDb ids": 1,
        "years that cannot be read": 1,
        "genres that cannot be read": 1,
    }
    assert file.problems.first["rows of too few or too many cells"].endswith("line 5")


@pytest.mark.parametrize(
    ("header", "row", "movie_id"),
    [
        (
            "genres,id,overview,release_date,title",
            '"[{""id"": 1, ""name"": ""Drama""}]",597,Sinks,1997-11-18,Titanic',
            None,
        ),
        (
            "id,title,release_date,imdb_id,overview,genres",
            '597,Titanic,1997-11-18,tt0120338,Sinks,"Drama"',
            "tt0120338",
        ),
    ],
)
def test_tmdb_5000_and_930_thousand(tmp_path, header, row, movie_id):
    found, problems, _ = films(write(tmp_path / "tmdb.csv", f"{header}\n{row}\n"))
    film = found[0]
    assert (film.movie_id, film.source_id, film.year, film.synopsis) == (movie_id, ("TMDB", "597"), 1997, "Sinks")
    assert film.genres == ("Drama",) and not problems


def test_movienet_is_a_folder_of_json(tmp_path):
    titanic = {
        "imdb_id": "tt0120338",
        "tmdb_id": "597",
        "title": "Titanic (1997)",
        "genres": ["Drama"],
        "overview": "Ice.",
    }
    empty = {"imdb_id": "tt0000001", "tmdb_id": None, "title": None, "genres": None, "overview": None}
    for film in (titanic, empty):
        write(tmp_path / f"{film['imdb_id']}.json", json.dumps(film))
    found, problems, file = films(tmp_path)
    assert file.format == "MovieNet" and not problems
    assert [(f.movie_id, f.title, f.year, f.genres, f.synopsis) for f in found] == [
        ("tt0000001", "", None, (), ""),
        ("tt0120338", "Titanic", 1997, ("Drama",), "Ice."),
    ]


def test_condensed_movies_tell_a_film_by_its_clips_in_their_order(tmp_path):
    write(tmp_path / "movies.csv", "imdbid,title,year\ntt1707386,Les Misérables,2012.0\ntt0000002,Other,\n")
    write(tmp_path / "movie_info.csv", "imdbid,genre,country\r\ntt1707386,\"['Drama', 'Music']\",['UK']\r\n")
    write(
        tmp_path / "descriptions.csv",
        "imdbid,videoid,description\ntt1707386,b,Second.\ntt0000002,c,\ntt1707386,a,First.\n",
    )
    write(tmp_path / "split.csv", "imdbid,split\ntt1707386,train\n")

    def read():
        files = {file.format: file for file in read_metadata([tmp_path])}
        found = {name: list(file.films) for name, file in files.items()}
        assert files["Condensed Movies, descriptions"].problems.counts == {"clips without a film or a description": 1}
        return found

    found = read()
    titles = found["Condensed Movies, titles"]
    assert [(f.movie_id, f.title, f.year) for f in titles] == [
        ("tt1707386", "Les Misérables", 2012),
        ("tt0000002", "Other", None),
    ]
    assert found["Condensed Movies, genres"][0].genres == ("Drama", "Music")
    assert [f.synopsis for f in found["Condensed Movies, descriptions"]] == ["Second. First."]
    write(tmp_path / "clips.csv", "videoid,clip_idx,imdbid\na,0,tt1707386\nb,1,tt1707386\n")
    assert [f.synopsis for f in read()["Condensed Movies, descriptions"]] == ["First. Second."]


def test_wikipedia_as_json_and_as_plots(tmp_path):
    entries = [{"title": "Airplane!", "year": 1980, "genres": ["Comedy"], "extract": "A parody."}, {"year": 1981}, 7]
    found, problems, file = films(write(tmp_path / "movies.json.gz", gzip.compress(json.dumps(entries).encode())))
    assert [(f.title, f.year, f.genres, f.synopsis) for f in found] == [("Airplane!", 1980, ("Comedy",), "A parody.")]
    assert problems == {"entries without a title or an id": 2}
    assert file.problems.first["entries without a title or an id"].endswith("entry 2")
    plots = (
        "\ufeffRelease Year,Title,Origin/Ethnicity,Director,Cast,Genre,Wiki Page,Plot\r\n"
        '1901,Kansas Saloon Smashers,American,Unknown,,unknown,https://w,"A bartender works.\r\nThen, she comes."\r\n'
        "1902,Alice,American,X,,sci-fi/comedy,https://w,Falls.\r\n"
    )
    found, problems, _ = films(write(tmp_path / "plots.csv", plots))
    assert [(f.title, f.year, f.genres) for f in found] == [
        ("Kansas Saloon Smashers", 1901, ()),
        ("Alice", 1902, ("Sci-Fi", "Comedy")),
    ]
    assert found[0].synopsis == "A bartender works.\r\nThen, she comes." and not problems


def test_a_table_of_ones_own(tmp_path):
    content = (
        "title,movie_id,year,video,mood\nEmma,TT0116191,1996,emma.mkv,\nToy,0114709,1995,,\nMine,film_7,,,\n,,2000,,\n"
    )
    found, problems, _ = films(write(tmp_path / "own.csv", content))
    assert [(f.movie_id, f.title, f.year, f.video) for f in found] == [
        ("tt0116191", "Emma", 1996, str(tmp_path / "emma.mkv")),
        ("0114709", "Toy", 1995, ""),
        ("film_7", "Mine", None, ""),
    ]
    assert problems == {
        "columns that are not read: mood": 1,
        "numbers as movie_id, read as ids of your own (IMDb's: imdb_id)": 1,
        "entries without a title or an id": 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: no columns of a known format"),
        (b"1,Toy Story (1995),Comedy\n", r"line 1: no columns .*Is the header missing\? Its columns are '1, toy_story"),
        (b"\n<!DOCTYPE html>\n<html>", r"line 1: a web page"),
        (b"PK\x03\x04 films.xlsx", r"an archive or an Excel file; unpack it, or save it as CSV"),
        (b"PAR1 and no more", r"a damaged Parquet file"),
        (b"tconst\taverageRating\tnumVotes\n", r"holds no facts of films that a catalog needs \(IMDb title.ratings\)"),
        (b"1::1193::5::978300760\n", r"holds no facts of films that a catalog needs \(ratings or tags\)"),
        (b"975900\tThe film depicts a planet.\n", r"holds no facts .* \(CMU plots, which need movie.metadata.tsv"),
        (b'{"title": "Emma"}\n{"title": }\n', r"line 2: no JSON"),
        (b"title,year\nAm\xc3\xa9lie,2001\nAm\xe9lie,2001\n", r"line 3: byte 0xe9 is not UTF-8.* -f latin1"),
        ("title,year\nEmma,1996\n".encode("utf-16"), r"line 1: byte 0xff is not UTF-8.* -f utf-16"),
        (b'title,year\nEmma,1996\n"Alien,1979\nSeven,1995\nHeat,1995\n', r"line 3: a quote .*noticed on line 5"),
        (b'title,year\n"Alien,1979\n"Seven",1995\n', r"line 2: a quote that opens in this row is not closed"),
        (b"title,year\nEmma,1996\nAlien\n", r"line 3: 1 cells, where the header has 2"),
        (b'[{"title": "Emma"},\n {"title": }]', r"line 2: no JSON"),
        (gzip.compress(b"title,year\n" + bytes(range(32, 127)) * 99, mtime=0)[:60], r"a damaged gzip file"),
    ],
)
def test_what_cannot_be_read_is_named_with_file_and_line(tmp_path, content, message):
    with pytest.raises(MetadataError, match=rf"films\.csv(, |: ){message}"):
        films(write(tmp_path / "films.csv", content))


def test_rows_know_their_lines(tmp_path):
    path = write(tmp_path / "t.csv", 'a, b\n1,"x\ny"\n\n2,z\n')
    assert list(read_table(path, ["a", "b"])) == [(2, {"a": "1", "b": "x\ny"}), (5, {"a": "2", "b": "z"})]
    with pytest.raises(MetadataError, match=r"t\.csv, line 1: no column c\. Is the header missing"):
        list(read_table(path, ["a", "c"]))
    with pytest.raises(MetadataError, match=r"e\.csv: empty; expected a header with a"):
        list(read_table(write(tmp_path / "e.csv", ""), ["a"]))


def test_quotes_of_other_tables_separated_by_tabs_are_read(tmp_path):
    found, problems, _ = films(write(tmp_path / "own.tsv", 'title\tyear\n"Say ""Hi""\tnow"\t1996\n'))
    assert [(f.title, f.year) for f in found] == [('Say "Hi"\tnow', 1996)] and not problems


def test_links_beside_films_of_another_format_are_read_alone(tmp_path):
    write(tmp_path / "movies.csv", "imdbid,title,year\ntt0000001,Other,1990\n")
    found, _, file = films(write(tmp_path / "links.csv", "movieId,imdbId,tmdbId\n1,0114709,862\n"))
    assert file.format == "MovieLens links" and found[0].movie_id == "tt0114709"


def test_a_video_that_is_no_name_is_none(tmp_path):
    path = write(tmp_path / "own.json", json.dumps([{"movie_id": "a", "title": "A", "video": False}]))
    assert [film.video for film in films(path)[0]] == [""]


def test_a_cell_may_be_longer_than_the_csv_module_likes(tmp_path):
    plot = "x" * 200_000
    found, _, _ = films(write(tmp_path / "own.csv", f"title,synopsis\nLong,{plot}\n"))
    assert found[0].synopsis == plot
