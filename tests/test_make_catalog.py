"""A catalog from videos and metadata: what is joined by what, what wins, what is counted."""

import gzip
import json
import re
from pathlib import Path

import pytest
from datasets import load_dataset

from data_scripts.catalog import make_catalog, video_facts
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
    assert ways(record)[1:] == [{"by TMDB id": 1}]


def test_ids_given_twice_and_films_of_no_name_are_counted(sources):
    own = "imdb_id,title,genres\n0114709,First,\ntt0114709,Second,Drama\n"
    tmdb = "id,title,release_date,genres,overview\n7,,2001-01-01,Drama,Of no name\n"
    films, record = catalog(sources, metadata=[write(sources / "own.csv", own), write(sources / "tmdb.csv", tmdb)])
    assert list(films) == ["tt0114709"]
    assert (films["tt0114709"]["title"], films["tt0114709"]["genres"]) == ("First", ["Drama"])
    assert ways(record) == [{"in no other source": 1, "repeated": 1}, {}]
    place = f"{sources / 'tmdb.csv'}, line 2"
    assert record["sources"][1]["problems"] == {"films without an id or a title": {"count": 1, "first": place}}


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
