"""A catalog from videos and metadata: what is joined by what, what wins, what is counted."""

import gzip
import json
import re
from pathlib import Path

import pytest
from datasets import load_dataset

from data_scripts.catalog.building import make_catalog
from data_scripts.catalog.video_files import video_facts
from data_scripts.make_catalog import CatalogArguments, main
from data_scripts.make_film_world import main as make_film_world
from modeling_m2s.storage_m2s import FilmDataset, StorageError

MOVIELENS = {
    "links.csv": "movieId,imdbId,tmdbId\r\n1,0116191,1\r\n2,0118308,2\r\n3,0114709,862\r\n4,0075860,840\r\n",
    "movies.csv": (
        "movieId,title,genres\r\n1,Emma (1996),Comedy\r\n2,Emma (1996),Romance\r\n"
        "3,Toy Story (1995),Comedy\r\n4,Close Encounters (a.k.a. Third Kind) (1977),(no genres listed)\r\n"
    ),
}
WIKIPEDIA = [
    {"title": "Toy story!", "year": 1995, "genres": ["Animation"], "extract": "Toys live."},
    {"title": "Third Kind", "year": 1977, "genres": ["Sci-Fi"], "extract": "They come."},
    {"title": "Emma", "year": 1996, "genres": ["Drama"], "extract": "Which?"},
    {"title": "Sintel & Co", "year": 2010, "genres": ["Fantasy"], "extract": "A dragon."},
    {"title": "Sintel and Co.", "year": 2010, "genres": ["Again"], "extract": "Twice."},
]


@pytest.fixture
def sources(tmp_path) -> Path:
    """Metadata as above, and files that only have names."""
    for name, content in MOVIELENS.items():
        write(tmp_path / "ml" / name, content)
    write(tmp_path / "wiki.json", json.dumps(WIKIPEDIA))
    return tmp_path


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def catalog(folder: Path, **arguments) -> tuple[dict[str, dict], dict]:
    """Rows by id, and the record."""
    record = make_catalog(CatalogArguments(output=folder / "catalog/movies", **arguments))
    dataset = FilmDataset(folder / "catalog/movies", "movies")
    assert dataset.check() == []
    return {row["movie_id"]: row for row in dataset.read().to_pylist()}, record


def ways(record: dict) -> list[dict[str, int]]:
    return [source["films"] for source in record["sources"]]


def test_films_join_by_id_and_by_title_and_year(sources):
    films, record = catalog(sources, metadata=[sources / "ml", sources / "wiki.json"])
    assert list(films) == ["emma-1996", "sintel-and-co-2010", "tt0075860", "tt0114709", "tt0116191", "tt0118308"]
    assert films["tt0114709"]["title"] == "Toy Story" and films["tt0114709"]["genres"] == ["Comedy"]
    assert films["tt0114709"]["synopsis"] == "Toys live."
    assert films["tt0075860"]["genres"] == ["Sci-Fi"] and films["tt0075860"]["synopsis"] == "They come."
    assert films["tt0116191"]["synopsis"] == films["tt0118308"]["synopsis"] == ""
    assert films["emma-1996"]["synopsis"] == "Which?"
    assert films["sintel-and-co-2010"]["synopsis"] == "A dragon."
    assert ways(record) == [
        {"by title and year": 2, "in no other source": 2},
        {
            "by title and year": 2,
            "in no other source": 1,
            "not joined: several films of that title and year": 1,
            "repeated": 1,
        },
    ]
    assert record["known"] == {"imdb_id": 4, "title": 6, "year": 6, "genres": 6, "synopsis": 4, "video": 0}


def test_the_first_source_wins_also_where_the_second_has_the_id(sources):
    films, _ = catalog(sources, metadata=[sources / "wiki.json", sources / "ml"])
    assert films["tt0114709"] == {
        "movie_id": "tt0114709",
        "title": "Toy story!",
        "year": 1995,
        "genres": ["Animation"],
        "synopsis": "Toys live.",
        "video": "",
        "excluded": "",
    }


def test_a_lookup_fills_and_adds_no_film(sources):
    basics = (
        "tconst\ttitleType\tprimaryTitle\toriginalTitle\tisAdult\tstartYear\tendYear\truntimeMinutes\tgenres\n"
        "tt0116191\tmovie\tEmma\tEmma\t0\t1996\t\\N\t\\N\tDrama\n"
        "tt0090001\tmovie\tEmma\tEmma\t0\t1996\t\\N\t\\N\tDrama\n"
        "tt0090002\tmovie\tToy Story\tToy Story\t0\t1995\t\\N\t\\N\tDrama\n"
        "tt1254207\tmovie\tBig Buck Bunny\tBig Buck Bunny\t0\t2008\t\\N\t\\N\tAnimation,Short\n"
        "tt0000001\tmovie\tOther\tOther\t0\t1900\t\\N\t\\N\tDrama\n"
    )
    write(sources / "films/Big.Buck.Bunny.2008.1080p.mkv")
    films, record = catalog(
        sources,
        videos=[sources / "films"],
        metadata=[sources / "ml"],
        lookup=[sources / "wiki.json", write(sources / "title.basics.tsv", basics)],
    )
    assert list(films) == ["tt0075860", "tt0114709", "tt0116191", "tt0118308", "tt1254207"]
    assert films["tt0114709"]["synopsis"] == "Toys live." and films["tt1254207"]["genres"] == ["Animation", "Short"]
    assert films["tt1254207"]["video"].endswith("Big.Buck.Bunny.2008.1080p.mkv")
    assert ways(record)[2] == {"by id": 1, "by title and year": 1, "in no other source": 3}
    assert [source["lookup"] for source in record["sources"]] == [False, True, True, False]


@pytest.mark.parametrize(("tolerance", "synopsis"), [(0, ""), (1, "From the year before.")])
def test_a_year_beside_counts_only_where_allowed(sources, tolerance, synopsis):
    near = [{"title": "Toy Story", "year": 1994, "extract": "From the year before."}]
    films, record = catalog(
        sources,
        metadata=[sources / "ml"],
        lookup=[write(sources / "near.json", json.dumps(near))],
        year_tolerance=tolerance,
    )
    assert films["tt0114709"]["synopsis"] == synopsis
    assert ways(record)[1] == {"by title and nearly the year" if tolerance else "in no other source": 1}


def test_a_year_beside_does_not_count_where_it_could_be_two_films(sources):
    near = [{"title": "Toy Story", "year": year, "extract": str(year)} for year in (1994, 1996)]
    near += [{"title": "Third Kind", "year": year, "extract": str(year)} for year in (1976, 1977)]
    path = write(sources / "near.json", json.dumps(near))
    films, record = catalog(sources, metadata=[sources / "ml"], lookup=[path], year_tolerance=1)
    assert films["tt0114709"]["synopsis"] == "" and films["tt0075860"]["synopsis"] == "1977"
    assert ways(record)[1] == {"by title and year": 1, "in no other source": 3}


def test_tmdb_films_find_their_imdb_id_through_links(sources):
    tmdb = 'genres,id,overview,release_date,title\n"[{""name"": ""Family""}]",862,Toys of TMDB,2001-01-01,Toy Story\n'
    lookup = [write(sources / "tmdb.csv", tmdb), sources / "ml/movies.csv"]
    films, record = catalog(sources, metadata=[sources / "ml"], lookup=lookup)
    assert films["tt0114709"]["synopsis"] == "Toys of TMDB" and films["tt0114709"]["year"] == 1995
    assert ways(record)[1:] == [{"by another catalog's id": 1}]


def test_ids_given_twice_and_films_of_no_name_are_counted(sources):
    own = "imdb_id,title,genres\n0114709,First,\ntt0114709,Second,Drama\n"
    tmdb = "id,title,release_date,genres,overview\n7,,2001-01-01,Drama,Of no name\n"
    films, record = catalog(sources, metadata=[write(sources / "own.csv", own), write(sources / "tmdb.csv", tmdb)])
    assert list(films) == ["tt0114709"]
    assert (films["tt0114709"]["title"], films["tt0114709"]["genres"]) == ("First", ["Drama"])
    assert ways(record) == [{"in no other source": 1, "repeated": 1}, {}]
    place = f"{sources / 'tmdb.csv'}, line 2"
    assert record["sources"][1]["problems"] == {"entries without a title or an id": {"count": 1, "first": place}}


def test_links_alone_make_no_film(sources):
    write(sources / "other/links.csv", MOVIELENS["links.csv"])
    tmdb = "id,title,release_date,genres,overview\n862,Toy Story,1995-01-01,Drama,Toys\n"
    films, _ = catalog(sources, metadata=[sources / "other", write(sources / "tmdb.csv", tmdb)])
    assert list(films) == ["tt0114709"]


def test_what_cannot_be_read_leaves_the_catalog_as_it_was(sources):
    catalog(sources, metadata=[sources / "ml"])
    before = (sources / "catalog/movies/m2s.json").read_bytes()
    with pytest.raises(ValueError, match=r"broken\.csv, line 2"):
        catalog(sources, metadata=[write(sources / "broken.csv", 'title,year\n"Emma,1996\n')])
    assert (sources / "catalog/movies/m2s.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Big Buck Bunny (2008).mp4", ("Big Buck Bunny", 2008)),
        ("Blade.Runner.2049.2017.2160p.mkv", ("Blade Runner 2049", 2017)),
        ("2001_A_Space_Odyssey_(1968)_remaster_2018.avi", ("2001 A Space Odyssey", 1968)),
        ("Dr. Strangelove [1964] 1080p.mkv", ("Dr. Strangelove", 1964)),
        ("1917 (2019).mkv", ("1917", 2019)),
        ("1917.mkv", ("1917", None)),
        ("big_buck_bunny_full_448x252.mp4", ("big_buck_bunny_full_448x252", None)),
        ("Emma (1996)/part.mkv", ("Emma", 1996)),
    ],
)
def test_titles_and_years_in_file_names(name, expected):
    facts = video_facts(str(Path(name).with_suffix("")), Path("/films", name))
    assert (facts.title, facts.year) == expected
    assert facts.movie_id == str(Path(name).with_suffix(""))


@pytest.mark.parametrize("name", ["tt0114709.mp4", "Toy [tt0114709].mkv", "tt0114709/film.mkv", "x_tt0114709-a.avi"])
def test_ids_in_file_names(name):
    assert video_facts(str(Path(name).with_suffix("")), Path("/films", name)).movie_id == "tt0114709"


def test_videos_find_their_films(sources):
    folder = sources / "films"
    write(folder / "a_tt0114709.mp4", "small")
    write(folder / "x/Toy Story (1995).mkv", "the larger file")
    write(folder / "third_kind_1977.avi", "x")
    write(folder / "Emma (1996).mkv", "x")
    for name in ("a", "b"):
        write(folder / name / "holiday 2019.mp4", "x")
    own = "movie_id,title,video\nmine,My Film,films/my.mkv\nalso,Also Mine,films/my.mkv\ngone,Gone,films/gone.mkv\n"
    write(folder / "my.mkv", "x")
    films, record = catalog(
        sources, videos=[folder], metadata=[sources / "ml", write(sources / "own.csv", own)], lookup=[]
    )
    videos = {name: str(Path(row["video"]).relative_to(folder)) for name, row in films.items() if row["video"]}
    assert videos == {
        "tt0114709": "x/Toy Story (1995).mkv",
        "tt0075860": "third_kind_1977.avi",
        "Emma (1996)": "Emma (1996).mkv",
        "a/holiday 2019": "a/holiday 2019.mp4",
        "b/holiday 2019": "b/holiday 2019.mp4",
        "also": "my.mkv",
    }
    assert record["videos"] == {
        "unmatched": [str(folder / name) for name in ("Emma (1996).mkv", "a/holiday 2019.mp4", "b/holiday 2019.mp4")],
        "second_files": {str(folder / "a_tt0114709.mp4"): "tt0114709"},
        "of_two_films": {str(folder / "my.mkv"): ["also", "mine"]},
        "missing": [str(folder / "gone.mkv")],
        "extras": [],
        "trash": [],
        "of_discs": {},
        "later_parts": {},
    }
    assert {"gone", "mine", "tt0116191"} <= films.keys()
    assert ways(record)[-1] == {
        "by id": 1,
        "by title and year": 1,
        "in no other source": 2,
        "not joined: several films of that title and year": 1,
        "repeated": 1,
    }


def test_videos_find_films_that_have_no_id(sources):
    path = write(sources / "films/Sintel_and_Co_(2010).mkv")
    films, record = catalog(sources, videos=[path.parent], lookup=[sources / "wiki.json"])
    assert list(films) == ["sintel-and-co-2010"] and not record["videos"]["unmatched"]
    assert (films["sintel-and-co-2010"]["synopsis"], films["sintel-and-co-2010"]["video"]) == ("A dragon.", str(path))


def test_a_catalog_that_is_being_rewritten_is_not_finished(sources, monkeypatch):
    catalog(sources, metadata=[sources / "ml"])
    monkeypatch.setattr(FilmDataset, "write_all", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        catalog(sources, metadata=[sources / "ml"])
    assert not FilmDataset(sources / "catalog/movies", "movies").record["complete"]


def excluded(films: dict[str, dict]) -> dict[str, str]:
    return {movie_id: row["excluded"] for movie_id, row in films.items() if row["excluded"]}


def test_films_of_benchmarks_are_marked(sources):
    """By id; without id by title and year, also where only a lookup tells the title of the listed film."""
    own = "title,year,movie_id\nThird kind,1978,my_copy\nKite,2014,kite\nEmma,1999,emma_1999\n"
    own = write(sources / "own.csv", own)
    titles = "tconst\ttitleType\tprimaryTitle\tstartYear\tgenres\n"
    titles += "tt1972663\tmovie\tKite\t2013\tAction\ntt1972664\tmovie\tEmma\t2000\tDrama\n"
    lookup = write(sources / "title.basics.tsv", titles)
    listed = write(sources / "listed.txt", "0114709\ntt0075860\ntt1972663\ntt7777777\n")
    own_arguments = {"metadata": [sources / "ml", own], "lookup": [lookup]}
    films, record = catalog(sources, **own_arguments, exclude=[listed])
    by_title = {"kite": "by title and year", "my_copy": "by title and year"}
    assert excluded(films) == {**by_title, "tt0075860": "by id", "tt0114709": "by id"}
    assert record["leak_guard"] == {
        "lists": {str(listed): 4},
        "num_listed": 4,
        "num_listed_with_title": 3,
        "require_imdb_id": False,
        "exclude": record["settings"]["exclude"],
        "excluded": {"by id": 2, "by title and year": 2},
    }
    unmarked = make_catalog(CatalogArguments(output=sources / "unmarked", **own_arguments))
    rows = FilmDataset(sources / "unmarked", "movies").read().to_pylist()
    assert rows == [{**row, "excluded": ""} for row in films.values()]  # nothing else of a film changes
    assert unmarked["sources"] == record["sources"] and unmarked["leak_guard"]["lists"] == {}


def test_films_without_imdb_id_can_all_be_marked(sources):
    films, record = catalog(sources, metadata=[sources / "ml", sources / "wiki.json"], require_imdb_id=True)
    assert excluded(films) == dict.fromkeys(["emma-1996", "sintel-and-co-2010"], "without IMDb id")
    assert len(films) == 6 and record["leak_guard"]["excluded"] == {"without IMDb id": 2}


def test_other_films_are_excluded_in_another_folder(sources):
    """A list that is forgotten or changed on the second run is refused; the same films in another file are not."""
    listed = write(sources / "listed.txt", "0114709\n")
    films, _ = catalog(sources, metadata=[sources / "ml"], exclude=[listed])
    for lists in ([], [write(sources / "longer.txt", "0114709\n0075860\n")]):
        with pytest.raises(StorageError, match=r"made with other settings: exclude is '1 films, \w+' there"):
            catalog(sources, metadata=[sources / "ml"], exclude=lists)
    moved = write(sources / "moved.txt", "# the same\ntt0114709\n")
    assert catalog(sources, metadata=[sources / "ml"], exclude=[moved])[0] == films


def test_a_source_without_films_makes_no_catalog(sources):
    with pytest.raises(ValueError, match=r"no film for the catalog"):
        make_catalog(CatalogArguments(output=sources / "none", metadata=[write(sources / "own.csv", "title,year\n")]))


def test_the_same_sources_give_the_same_bytes(sources):
    arguments = {"metadata": [sources / "ml"], "lookup": [sources / "wiki.json"]}
    runs = []
    for _ in range(2):
        catalog(sources, **arguments)
        files = sorted(path for path in (sources / "catalog").rglob("*") if path.is_file())
        runs.append([(path.name, path.read_bytes()) for path in files])
    assert runs[0] == runs[1] and [name for name, _ in runs[0]] == ["train-00000.parquet", "m2s.json"]


def test_the_command_says_what_it_did_and_what_is_next(sources, capsys):
    write(sources / "films/clip.mp4", "x")
    output = sources / "catalog/movies"
    command = ["--videos", str(sources / "films"), "--metadata", str(sources / "ml"), "--output", str(output)]
    main(command)
    printed = capsys.readouterr().out
    assert re.search(r"^MovieLens, .*movies\.csv: 4 in no other source$", printed, re.MULTILINE)
    assert f"under their own names: 1 ({sources / 'films/clip.mp4'})\n" in printed
    assert f"5 films in {output}: 4 with imdb id, 5 with title, 4 with year, 3 with genres, 0 with synopsis" in printed
    assert f"detect_shots --movies {output} --output {sources / 'catalog/shots'}" in printed
    assert "films excluded from training: none, as no --exclude names films" in printed
    assert load_dataset(str(output), split="train")["movie_id"][0] == "clip"
    with pytest.raises(SystemExit, match=r"data_scripts.make_catalog: error: .*year_tolerance is 0 there, 1 now"):
        main([*command, "--year_tolerance", "1"])
    listed = write(sources / "listed.txt", "0114709\n1\n")
    main([*command[:-1], str(sources / "guarded"), "--exclude", str(listed)])
    assert "films excluded from training: 1 by id (2 listed)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"no films: give --videos, --metadata or both"),
        (["--videos", "empty"], r"empty: no video files in this folder"),
        (["--metadata", "absent.csv"], r"absent\.csv"),
        (["--metadata", "broken.csv"], r"broken\.csv, line 2: a quote that opens in this row is not closed"),
        (["--metadata", "ml", "--year_tolerance", "9"], r"year_tolerance=9 is not 0, 1 or 2"),
        (["--metadata", "ml", "--exclude", "nobody.txt"], r"nobody\.txt"),
        (["--metadata", "ml", "--exclude", "wiki.json"], r"wiki\.json, line 1: .* is no IMDb id"),
    ],
)
def test_bad_input_ends_in_one_line(sources, monkeypatch, flags, message):
    monkeypatch.chdir(sources)
    (sources / "empty").mkdir()
    write(sources / "broken.csv", 'title,year\n"Alien,1979\nEmma,1996\n')
    with pytest.raises(SystemExit, match=rf"^data_scripts.make_catalog: error: .*{message}") as ended:
        main([*flags, "--output", "out"])
    assert "\n" not in str(ended.value)


def test_a_film_world(tmp_path):
    size = ["--num_films", "3", "--film_seconds", "12", "--width", "160", "--height", "90"]
    make_film_world([*size, "--output", str(tmp_path)])
    films, record = catalog(tmp_path, videos=[tmp_path / "videos"], metadata=[tmp_path / "metadata"])
    assert len(films) == 3
    assert record["known"] == {"imdb_id": 3, "title": 3, "year": 3, "genres": 3, "synopsis": 3, "video": 3}
    assert ways(record) == [{"by id": 3}, {"by title and year": 3}, {"by id": 3}]
    told = [
        (entry["year"], entry["extract"]) for entry in json.loads((tmp_path / "metadata/wikipedia.json").read_text())
    ]
    assert sorted((film["year"], film["synopsis"]) for film in films.values()) == sorted(told)
    assert all(Path(film["video"]).stem == movie_id for movie_id, film in films.items())


def test_real_metadata_and_videos(assets, tmp_path):
    """As many synopses as a join of exact titles and years gives, counted here by other means, or more."""
    metadata = assets / "metadata"
    given = [metadata / "movielens_latest_small_2018", metadata / "condensed_movies"]
    films, record = catalog(
        tmp_path, videos=[assets / "videos"], metadata=given, lookup=[metadata / "wikipedia_movies"]
    )
    plain = plain_join(metadata)
    assert len(films) >= 9000 and len(plain) > 5000
    assert record["known"]["synopsis"] >= len(plain)
    assert record["known"]["video"] == len(list((assets / "videos").iterdir()))
    without = [name for name in plain if not films[name]["synopsis"]]
    ambiguous = sum(
        source["films"].get("not joined: several films of that title and year", 0) for source in record["sources"]
    )
    assert len(without) <= 2 * ambiguous


def plain_join(metadata: Path) -> set[str]:
    """IMDb ids of films with clip descriptions or with exactly the title and year of a Wikipedia lead."""
    import pandas as pd

    ml, cmd = metadata / "movielens_latest_small_2018", metadata / "condensed_movies"
    links = pd.read_csv(ml / "links.csv", dtype=str)
    movies = pd.read_csv(ml / "movies.csv", dtype=str)
    parts = movies["title"].str.extract(r"^(?P<title>.*?) \((?P<year>\d{4})\)\s*$")
    parts["title"] = parts["title"].str.replace(r"^(.*), (The|A|An)$", r"\2 \1", regex=True)
    parts["id"] = "tt" + movies.merge(links, on="movieId")["imdbId"]
    titles = pd.read_csv(cmd / "movies.csv", dtype=str)
    titles["year"] = titles["year"].str[:4]
    known = pd.concat([parts, titles.rename(columns={"imdbid": "id"})])
    files = (metadata / "wikipedia_movies").glob("*.gz")
    entries = [entry for path in files for entry in json.loads(gzip.decompress(path.read_bytes()))]
    leads = pd.DataFrame([(e["title"], str(e["year"])) for e in entries if e.get("extract")], columns=["title", "year"])
    joined = known.dropna().merge(leads.drop_duplicates(), on=["title", "year"])
    return set(joined["id"]) | set(pd.read_csv(cmd / "descriptions.csv").dropna()["imdbid"])


# Films that several catalogs number; the last has another title at IMDb.
KNOWN_FILMS = [
    ("tt1392170", "The Hunger Games", 2012),
    ("tt0043739", "The Lemon Drop Kid", 1951),
    ("tt0094924", "A Cry in the Dark", 1988),
]
BASICS = "tconst\ttitleType\tprimaryTitle\toriginalTitle\tisAdult\tstartYear\tendYear\truntimeMinutes\tgenres\n"


def basics(*films: tuple[str, str, int]) -> str:
    return BASICS + "".join(
        f"{movie_id}\tmovie\t{title}\t{title}\t0\t{year}\t\\N\t90\tDrama\n" for movie_id, title, year in films
    )


@pytest.mark.parametrize(
    "numbers",
    [("31186339", "2231378", "595909"), ("70160", "1153399", "19354"), ("0012345", "1", "114709")],
    ids=["Wikipedia", "TMDB", "zeros"],
)
def test_numbers_of_another_catalog_are_no_imdb_ids(numbers, tmp_path):
    """Also where IMDb has films of these numbers; the films are known by title and year, and so excluded."""
    others = [(f"tt{int(number):07d}", "Another Film", 2012) for number in numbers]
    rows = [f'{number},"{title}",{year},Text\n' for number, (_, title, year) in zip(numbers, KNOWN_FILMS, strict=True)]
    own = write(tmp_path / "own.csv", "movie_id,title,year,synopsis\n" + "".join(rows))
    lookup = write(tmp_path / "title.basics.tsv", basics(*KNOWN_FILMS, *others))
    listed = write(tmp_path / "test_films.txt", "\n".join(movie_id for movie_id, *_ in KNOWN_FILMS))
    films, record = catalog(tmp_path, metadata=[own], lookup=[lookup], exclude=[listed])
    assert sorted(films) == sorted(movie_id for movie_id, *_ in KNOWN_FILMS)
    assert record["leak_guard"]["excluded"] == {"by id": 3}
    films, _ = catalog(tmp_path / "alone", metadata=[own])
    assert sorted(films) == sorted(numbers)


@pytest.mark.parametrize("column", ["imdb_id", "imdbId", "tconst", "IMDb ID", "imdb"])
def test_short_numbers_are_imdb_ids_where_the_column_says_so(column, tmp_path):
    own = write(tmp_path / "own.csv", f"{column},title,year\n114709,Toy Story,1995\n1375666,Inception,2010\n")
    assert sorted(catalog(tmp_path, metadata=[own])[0]) == ["tt0114709", "tt1375666"]


def tmdb(*films: tuple[int, str, str, str, str]) -> str:
    return "id,title,release_date,genres,overview\n" + "".join(
        f'{number},"{title}",{date},{genre},"{overview}"\n' for number, title, date, genre, overview in films
    )


ALONE = (
    (509635, "Alone", "2020-09-10", "Thriller", ""),
    (663558, "Alone", "10/16/2020", "Horror", "A man barricades himself."),
)


def test_a_source_tells_films_of_one_title_and_year_apart(tmp_path):
    path = write(tmp_path / "tmdb.csv", tmdb(*ALONE, (603, "The Matrix", "1999-03-30", "Action", "A hacker.")))
    films, record = catalog(tmp_path, metadata=[path])
    assert {name: (row["genres"], row["synopsis"]) for name, row in films.items()} == {
        "alone-2020": (["Thriller"], ""),
        "alone-2020-2": (["Horror"], "A man barricades himself."),
        "the-matrix-1999": (["Action"], "A hacker."),
    }
    assert ways(record) == [{"in no other source": 3}]


@pytest.mark.parametrize("other", ["imdb", "title", "tmdb json", "movielens", "own ids"])
def test_two_films_of_one_title_and_year_are_not_joined_by_it(other, tmp_path):
    """Nor is either of them joined to a third source's only film of that title and year; by ids both are joined."""
    path = write(tmp_path / "tmdb.csv", tmdb(*ALONE))
    sources = {
        "imdb": ("basics.tsv", basics(("tt7711170", "Alone", 2020))),
        "title": ("own.csv", "title,year,synopsis\nAlone,2020,Whose?\n"),
        "tmdb json": (
            "tmdb.json",
            json.dumps([{"id": 663558, "title": "Alone!", "release_date": "2021-01-01", "overview": "x"}]),
        ),
        "movielens": ("movies.csv", "movieId,title,genres\n1,Alone (2020),Drama\n2,Alone (2020),War\n"),
        "own ids": ("own.csv", "movie_id,title,year\na,Alone,2020\nb,Alone,2020\n"),
    }
    films, _ = catalog(tmp_path, metadata=[path, write(tmp_path / "other" / sources[other][0], sources[other][1])])
    assert len(films) == {"imdb": 3, "title": 3, "tmdb json": 2, "movielens": 4, "own ids": 4}[other]
    horror = [row for row in films.values() if row["genres"] == ["Horror"]]
    assert [row["synopsis"] for row in horror] == ["A man barricades himself."]


def test_ids_that_a_source_pairs_join_films_of_other_titles(tmp_path):
    """TMDB's number leads to IMDb's id through a table of links, also if only a lookup knows TMDB's number."""
    write(tmp_path / "films/Le Film (1999).mkv")
    named = write(tmp_path / "tmdb.csv", tmdb((77, "Le Film", "1999-01-01", "Drama", "Told.")))
    links = write(tmp_path / "links.csv", "movieId,imdbId,tmdbId\n5,0123456,77\n")
    basic = write(tmp_path / "title.basics.tsv", basics(("tt0123456", "The Film", 1999)))
    films, _ = catalog(tmp_path, videos=[tmp_path / "films"], lookup=[named, links, basic])
    assert [(name, row["title"], row["synopsis"]) for name, row in films.items()] == [("tt0123456", "Le Film", "Told.")]


def test_a_number_of_tmdb_in_a_files_name(tmp_path):
    write(tmp_path / "films/Whatever (1999) [tmdbid-841]/a.mkv")
    write(tmp_path / "films/Unheard (2001) {tmdb-999}.mkv")
    path = write(tmp_path / "tmdb.csv", tmdb((841, "Dune", "1984-12-14", "Drama", "Sand.")))
    films, record = catalog(tmp_path, videos=[tmp_path / "films"], metadata=[path])
    assert sorted(films) == ["Unheard (2001) {tmdb-999}", "dune-1984"] and films["dune-1984"]["video"].endswith("a.mkv")
    assert ways(record)[1] == {"by id": 1, "in no other source": 1}


def test_layouts_of_movielens_without_links_join_by_title_and_year(tmp_path):
    write(
        tmp_path / "ml-1m/movies.dat",
        "1::Toy Story (1995)::Animation|Comedy\n2::Emma (1996)::Comedy\n3::Emma (1996)::War\n",
    )
    write(tmp_path / "ml-100k/u.item", "1|Toy Story (1995)|01-Jan-1995||http://x" + "|0" * 19 + "\n")
    basic = write(tmp_path / "title.basics.tsv", basics(("tt0114709", "Toy Story", 1995)))
    films, _ = catalog(tmp_path, metadata=[tmp_path / "ml-1m", tmp_path / "ml-100k"], lookup=[basic])
    assert sorted(films) == ["emma-1996", "emma-1996-2", "tt0114709"]
    assert films["tt0114709"]["genres"] == ["Animation", "Comedy"]


def test_a_leak_guard_over_four_catalogs(tmp_path):
    """Films of IMDb, TMDB, Wikipedia and MovieLens; which are excluded is joined here by pandas alone."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    truth = pd.DataFrame(
        {
            "imdb": [f"tt{number:07d}" for number in random.choice(10**6, 400, replace=False) + 1],
            "title": [f"Film {number} of the {number % 7} Seas" for number in range(400)],
            "year": random.integers(1950, 2020, 400),
            "tmdb": random.choice(2 * 10**6, 400, replace=False),
            "wikipedia": random.choice(4 * 10**7, 400, replace=False),
            "movielens": random.permutation(400) + 1,
        }
    )
    # A few films of one title in two years that are apart, so that titles alone would not do.
    truth.loc[390:, "title"] = truth.loc[:9, "title"].to_numpy()
    truth.loc[390:, "year"] = truth.loc[:9, "year"].to_numpy() - 20
    parts = np.array_split(random.permutation(400), 4)
    write(
        tmp_path / "imdb.csv",
        truth.iloc[parts[0]].rename(columns={"imdb": "imdb_id"})[["imdb_id", "title"]].to_csv(index=False),
    )
    table = truth.iloc[parts[1]].assign(genres="Drama", overview="", release_date=truth["year"].map("{}-02-03".format))
    table = table.rename(columns={"tmdb": "id"})[["id", "title", "release_date", "genres", "overview"]]
    write(tmp_path / "tmdb.csv", table.to_csv(index=False))
    table = truth.iloc[parts[2]].assign(genres="War").rename(columns={"wikipedia": "movie_id"})
    write(tmp_path / "wikipedia.csv", table[["movie_id", "title", "year", "genres"]].to_csv(index=False))
    lines = [f"{row.movielens}::{row.title} ({row.year})::Comedy\n" for row in truth.iloc[parts[3]].itertuples()]
    write(tmp_path / "ml-1m/movies.dat", "".join(lines))
    write(tmp_path / "title.basics.tsv", basics(*truth[["imdb", "title", "year"]].itertuples(index=False)))
    benchmark = truth.sample(150, random_state=1)
    listed = write(tmp_path / "test_films.txt", "\n".join(benchmark["imdb"]))
    films, record = catalog(
        tmp_path,
        metadata=[tmp_path / name for name in ("imdb.csv", "tmdb.csv", "wikipedia.csv", "ml-1m")],
        lookup=[tmp_path / "title.basics.tsv"],
        exclude=[listed],
    )
    found = pd.DataFrame(films.values())
    assert len(found) == 400
    joined = found.merge(truth, on=["title", "year"], validate="one_to_one")
    expected = set(joined.merge(benchmark[["imdb"]], on="imdb")["movie_id"])
    assert set(found.loc[found["excluded"] != "", "movie_id"]) == expected and len(expected) == 150
    assert record["leak_guard"]["excluded"] == {"by id": 150}
    # Without IMDb's own table, films of the other catalogs are known by title and year, where a source tells these.
    films, _ = catalog(
        tmp_path / "again",
        metadata=[tmp_path / name for name in ("tmdb.csv", "wikipedia.csv", "ml-1m")],
        lookup=[
            write(
                tmp_path / "titles.csv",
                benchmark.rename(columns={"imdb": "imdb_id"})[["imdb_id", "title", "year"]].to_csv(index=False),
            )
        ],
        exclude=[listed],
    )
    excluded = {(row["title"], row["year"]) for row in films.values() if row["excluded"]}
    in_catalog = truth.drop(index=parts[0]).merge(benchmark[["imdb"]], on="imdb")
    assert excluded == set(in_catalog[["title", "year"]].itertuples(index=False, name=None))


def test_texts_that_stand_for_no_synopsis_are_none_and_counted(tmp_path, capsys):
    """Known ones by their words, others because many films share them; two films may well have one text."""
    told = [
        *["No overview found.", "No Overview", "nan", "N/A", "Plot unknown.", ""],
        *["Aucun résumé."] * 3,
        *["Two halves of one film."] * 2,
        *["The tale of a harvest. There is a chase at the bridge."] * 3,  # as in film worlds
        "A ship sinks.",
    ]
    films = [(n, f"Film {n}", "1990-01-01", "Drama", text) for n, text in enumerate(told, 1)]
    main(["--metadata", str(write(tmp_path / "tmdb.csv", tmdb(*films))), "--output", str(tmp_path / "movies")])
    dataset = FilmDataset(tmp_path / "movies", "movies")
    kept = sorted(row["synopsis"] for row in dataset.read().to_pylist() if row["synopsis"])
    assert kept == sorted(told[-6:])
    assert dataset.record["repeated_synopses"] == 3 and dataset.record["known"]["synopsis"] == 6
    printed = capsys.readouterr().out
    assert "5 synopses that say nothing (first: " in printed
    assert "synopses left out, as 3 or more films have the same: 3\n" in printed
