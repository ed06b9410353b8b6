"""Which files of a collection are films, and what their names say."""

import os
import unicodedata
from pathlib import Path

import pytest

from data_scripts.catalog.building import make_catalog
from data_scripts.catalog.video_files import find_videos, on_disk, video_facts
from data_scripts.make_catalog import CatalogArguments, main
from data_scripts.stages.text_files import MetadataError, Problems
from modeling_m2s.find_films_m2s import find_films
from modeling_m2s.storage_m2s import FilmDataset

EXTRAS = [
    "Heat (1995)/Sample/sample-heat.mkv",
    "The Matrix (1999)/Behind The Scenes/Making of the Lobby Scene.mkv",
    "The Matrix (1999)/Deleted Scenes/Heat.mkv",
    "The Matrix (1999)/Extras/Alice in Wonderland.mkv",
    "The Matrix (1999)/Featurettes/Bullet time.mkv",
    "The Matrix (1999)/Shorts/The Second Renaissance.mkv",
    "The Matrix (1999)/The Matrix (1999)-trailer.mkv",
    "The Matrix (1999)/Trailers/trailer.mkv",
    "Ran (1985)/ran.1985.sample.mkv",
    "Ran (1985)/ran-featurette.mkv",
    "Ran (1985)/Trailer.mkv",
]
TRASH = [
    "._Heat (1995).mkv",
    "@eaDir/Heat (1995).mkv/SYNOVIDEO_VIDEO_SCREENSHOT.mp4",
    ".Trash-1000/files/Old.mkv",
    "$RECYCLE.BIN/S-1-5/Older.mkv",
]
# Files that are films, with title and year.
FILMS = {
    "1917 (2019).mkv": ("1917", 2019),
    "1917.2019.1080p.WEB-DL.mkv": ("1917", 2019),
    "1984.1984.mkv": ("1984", 1984),
    "2001 A Space Odyssey (1968)/2001 A Space Odyssey (1968).mkv": ("2001 A Space Odyssey", 1968),
    "2001.A.Space.Odyssey.1968.1080p.BluRay.x264-GRP/grp-2001.mkv": ("2001 A Space Odyssey", 1968),
    "2012 (2009).mkv": ("2012", 2009),
    "2012.mkv": ("2012", None),
    "Wonder Woman 1984 (2020)/Wonder.Woman.1984.mkv": ("Wonder Woman 1984", 2020),
    "4763824-uhd_3840_2160_24fps.mp4": ("4763824-uhd_3840_2160_24fps", None),
    "853889-hd_1920_1080_25fps.mp4": ("853889-hd_1920_1080_25fps", None),
    "beach 1920x1080.mp4": ("beach 1920x1080", None),
    "The Kid 1921 1920x1080.mp4": ("The Kid", 1921),
    "8 1-2 (1963).mkv": ("8 1-2", 1963),
    "Blade Runner 2049.mkv": ("Blade Runner 2049", None),
    "Blade.Runner.2049.2017.2160p.UHD.BluRay.mkv": ("Blade Runner 2049", 2017),
    "Dracula 2000 (2000).mkv": ("Dracula 2000", 2000),
    "Dune (1984) [tmdbid-841]/Dune.mkv": ("Dune", 1984),
    "Films 1999/Election.mkv": ("Election", None),
    "Heat (1995)/Heat.1995.mkv": ("Heat", 1995),
    "Movie.Collection.1990-1999/Fargo.1996.mkv": ("Fargo", 1996),
    "Movies (2010)/Inception.mkv": ("Inception", None),
    "Movies (2010)/Shutter Island.mkv": ("Shutter Island", None),
    "The Matrix (1999)/The Matrix (1999) {imdb-tt0133093}.mkv": ("The Matrix", 1999),
    "The.Lion.King.1994.1080p.mkv": ("The Lion King", 1994),
    "Toy Story (1995) (1080p).mkv": ("Toy Story", 1995),
    "[Group] Akira (1988) [1080p][ABCD1234].mkv": ("Akira", 1988),
    "www.site.com - Casablanca (1942).mkv": ("Casablanca", 1942),
    "Ran (1985)/ran.mkv": ("Ran", 1985),
    # Names that look like extras or parts, and are films.
    "The Big Short.mkv": ("The Big Short", None),
    "The Other.mkv": ("The Other", None),
    "Shorts/La Jetée (1962).mkv": ("La Jetée", 1962),
    "Dune Part 1.mkv": ("Dune Part 1", None),
    "Dune Part 2.mkv": ("Dune Part 2", None),
}
PARTS = {
    "Gone With The Wind (1939)/Gone With The Wind (1939) - cd1.avi": ("Gone With The Wind", 1939),
    "Ben-Hur.1959.part1.mkv": ("Ben-Hur", 1959),
}
LATER = ["Gone With The Wind (1939)/Gone With The Wind (1939) - cd2.avi", "Ben-Hur.1959.part2.mkv"]


def write(folder: Path, *names: str, size: int = 10) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def test_a_collection(tmp_path):
    write(tmp_path, *FILMS, *PARTS, *EXTRAS, *TRASH)
    write(tmp_path, *LATER, size=99)
    files = find_videos([tmp_path], Problems())
    found = {path: video_facts(name, path) for name, path in files.films.items()}
    titles = {str(path.relative_to(tmp_path)): (facts.title, facts.year) for path, facts in found.items()}
    assert titles == FILMS | PARTS
    assert sorted(files.extras) == sorted(str(tmp_path / name) for name in EXTRAS)
    assert sorted(files.trash) == sorted(str(tmp_path / name) for name in TRASH)
    assert files.later_parts == {
        str(tmp_path / later): str(tmp_path / first) for later, first in zip(LATER, PARTS, strict=True)
    }
    assert found[tmp_path / "Dune (1984) [tmdbid-841]/Dune.mkv"].source_id == ("TMDB", "841")
    matrix = "The Matrix (1999)/The Matrix (1999) {imdb-tt0133093}.mkv"
    assert found[tmp_path / matrix].movie_id == "tt0133093"


@pytest.mark.parametrize("below", ["", "library/"])
def test_discs_are_one_film_each_with_their_longest_title(below, tmp_path):
    root = tmp_path / "films"
    dvd, bluray = f"{below}Heat (1995)", f"{below}Ran.1985.1080p"
    write(root, *(f"{dvd}/VIDEO_TS/VTS_01_{n}.VOB" for n in (1, 2, 3)), size=50)
    write(root, f"{dvd}/VIDEO_TS/VIDEO_TS.VOB", f"{dvd}/VIDEO_TS/VTS_01_0.VOB", size=500)
    write(root, f"{dvd}/VIDEO_TS/VTS_02_1.VOB", size=120)
    write(root, f"{bluray}/BDMV/STREAM/00001.m2ts", size=20)
    write(root, f"{bluray}/BDMV/STREAM/00800.m2ts", size=80)
    write(root, f"{bluray}/BDMV/BACKUP/00001.m2ts", size=10)
    write(root, f"{dvd}/Extras/interview.mkv")
    files = find_videos([root], Problems())
    films = {name: str(path.relative_to(root)) for name, path in files.films.items()}
    assert films == {dvd: f"{dvd}/VIDEO_TS/VTS_01_1.VOB", bluray: f"{bluray}/BDMV/STREAM/00800.m2ts"}
    facts = [video_facts(name, path) for name, path in files.films.items()]
    assert [(film.title, film.year) for film in facts] == [("Heat", 1995), ("Ran", 1985)]
    assert len(files.of_discs) == 5 + 2 and files.extras == [str(root / dvd / "Extras/interview.mkv")]


def test_a_disc_given_alone(tmp_path):
    write(tmp_path, "Heat (1995)/VIDEO_TS/VTS_01_1.VOB")
    for given in ("Heat (1995)", "Heat (1995)/VIDEO_TS"):
        (name,) = find_videos([tmp_path / given], Problems()).films
        assert name == "Heat (1995)"


def test_linked_folders_are_followed_once(tmp_path):
    write(tmp_path, "films/a.mkv", "elsewhere/b.mkv", "elsewhere/deep/c.mkv")
    os.symlink("../elsewhere", tmp_path / "films/linked")
    os.symlink("../elsewhere", tmp_path / "films/linked again")
    os.symlink("..", tmp_path / "elsewhere/deep/up")
    os.symlink(".", tmp_path / "films/loop")
    os.symlink("nowhere", tmp_path / "films/broken")
    assert sorted(find_films([tmp_path / "films"])) == ["a", "linked/b", "linked/deep/c"]


def test_only_extras_are_no_catalog(tmp_path):
    write(tmp_path, "@eaDir/a.mkv")
    with pytest.raises(MetadataError, match="no video files in this folder"):
        find_videos([tmp_path], Problems())
    write(tmp_path, "trailers/heat-trailer.mkv", "trailers/alien-trailer.mkv")
    assert len(find_videos([tmp_path], Problems()).films) == 2


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("table_form", ["NFC", "NFD"])
def test_names_match_in_any_normal_form(form, table_form, tmp_path):
    name = unicodedata.normalize(form, "Amélie/Amélie é.mkv")
    write(tmp_path, f"films/{name}", f"films/{unicodedata.normalize(form, 'Ünï')}.mkv")
    table = "movie_id,title,year,video\nx,Amélie,2001,films/Amélie/Amélie é.mkv\nÜnï,Uni,1999,\n"
    (tmp_path / "own.csv").write_text(unicodedata.normalize(table_form, table))
    arguments = CatalogArguments(
        output=tmp_path / "movies", videos=[tmp_path / "films"], metadata=[tmp_path / "own.csv"]
    )
    record = make_catalog(arguments)
    rows = {row["movie_id"]: row for row in FilmDataset(tmp_path / "movies", "movies").read().to_pylist()}
    assert sorted(rows) == ["x", "Ünï"] and not record["videos"]["missing"] and not record["videos"]["unmatched"]
    assert all(os.path.isfile(row["video"]) for row in rows.values())


def test_paths_as_the_disk_spells_them(tmp_path):
    name = unicodedata.normalize("NFD", "é/ü.mkv")
    write(tmp_path, name)
    assert on_disk(str(tmp_path / "é/ü.mkv")) == str(tmp_path / name)
    assert on_disk(str(tmp_path / "é/absent.mkv")) == str(tmp_path / unicodedata.normalize("NFD", "é") / "absent.mkv")
    assert on_disk("/nowhere/at all") == "/nowhere/at all"


def test_what_is_left_out_is_told(tmp_path, capsys):
    write(tmp_path, "films/Heat (1995)/Heat.mkv", "films/Heat (1995)/Heat-trailer.mkv", "films/._x.mkv")
    write(tmp_path, "films/Ran.cd1.avi", "films/Ran.cd2.avi", "films/Kes/VIDEO_TS/VTS_01_1.VOB")
    write(tmp_path, "films/Kes/VIDEO_TS/VTS_01_2.VOB")
    main(["--videos", str(tmp_path / "films"), "--output", str(tmp_path / "catalog/movies")])
    told = capsys.readouterr().out
    assert f"extras, samples and trailers left out: 1 ({tmp_path / 'films/Heat (1995)/Heat-trailer.mkv'})" in told
    assert "files of the system left out: 1 (" in told
    assert "later parts of films left out; only the first is read, so join them: 1 (" in told
    assert (
        "files of discs left out, as the folder is the film; a DVD's title is read from its first file alone: 1" in told
    )
    assert "3 films in" in told
