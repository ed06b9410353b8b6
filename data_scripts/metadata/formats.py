"""The table of formats: the columns that identify a format, and what its columns hold.

A file is the first format of `FORMATS` whose columns it has. Tables, JSON and Parquet of the same columns are read
alike. Names of columns are casefolded, with `_` for spaces.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from data_scripts.catalog.film_names import split_year
from data_scripts.catalog.video_files import on_disk
from data_scripts.metadata.cmu import read_cmu
from data_scripts.metadata.facts import FilmFacts, Row
from data_scripts.metadata.kodi import read_kodi
from data_scripts.metadata.movielens import COLUMNS_100K, read_links, read_movielens
from data_scripts.metadata.rows import Rows
from data_scripts.stages.text_files import Problems, read_table

Columns = tuple[str, ...]

TMDB_ID = ("tmdb_id", "tmdbid")
# Kinds of titles that are no films.
SERIES = {
    *("series", "tvseries", "tvminiseries", "tvshow", "show", "season", "episode", "tvepisode", "tvpilot", "tv"),
    *("game", "videogame", "podcastseries", "podcastepisode", "musicvideo"),
}
SHORTS_AND_VIDEOS = {"short", "tvshort", "video", "tvspecial"}


@dataclass(frozen=True)
class Format:
    """A format, by the columns that identify it. A fact comes from the first of its columns that says something.

    Args:
        imdb_id: columns of IMDb ids, also without `tt`.
        movie_id: columns of ids of one's own, which are IMDb's only if they begin with `tt`.
        source_id: column of ids in the catalog named `catalog`, by default in this file alone.
        kind: column of the kind of title; those in `left_out` are no films.
        title_case: genres are written in lower case.
        broken_rows_count: rows with too few or too many cells are counted; in other formats they are an error.
    """

    name: str
    columns: Columns
    imdb_id: Columns = ("imdb_id", "imdbid", "imdb", "tconst", "const", "imdb_title_id", "imdb_url", "imdb_link")
    movie_id: Columns = ()
    source_id: Columns = ("id",)
    catalog: str = ""
    title: Columns = ("title",)
    other_title: Columns = ("original_title", "originaltitle")
    year: Columns = ("year", "release_year", "released_year", "release_date", "released")
    genres: Columns = ("genres", "genre")
    synopsis: Columns = ("synopsis", "plot", "overview", "extract", "storyline", "plot_synopsis", "description")
    video: Columns = ()
    kind: Columns = ()
    left_out: frozenset[str] = frozenset(SERIES)
    broken_rows_count: bool = False
    title_case: bool = False

    def read(self, rows: Rows) -> Iterator[FilmFacts]:
        rows.broken_rows_count = self.broken_rows_count
        if self.movie_id and (unread := sorted(set(rows.columns) - self._read_columns())):
            rows.problems.add(f"columns that are not read: {', '.join(unread)}", rows.path, 1)
        for row in rows:
            if self.kind and "".join(row.text(self.kind).casefold().split()) in self.left_out:
                row.problems.add("titles that are no films", row.path, row.place)
            elif facts := self._facts(row):
                yield facts
            else:
                row.problems.add("entries without a title or an id", row.path, row.place)

    def _facts(self, row: Row) -> FilmFacts | None:
        title, other = row.text(self.title), row.text(self.other_title)
        plain, named_year = split_year(title)
        year = row.year(self.year)
        if named_year and year in (None, named_year):
            title, year = plain, named_year
        own, source_id = row.text(self.movie_id), row.text(self.source_id)
        movie_id = row.imdb_id(self.imdb_id) or row.named_imdb_id((*self.movie_id, *self.source_id)) or own or None
        if own.isdecimal() and movie_id == own:
            row.problems.add("numbers as movie_id, read as ids of your own (IMDb's: imdb_id)", row.path, row.place)
        catalog = self.catalog or str(row.path.resolve())
        if tmdb_id := row.text(TMDB_ID):
            catalog, source_id = "TMDB", tmdb_id
        if not (title or other or movie_id):
            return None
        video, genres = row.cell(self.video), row.genres(self.genres)
        return FilmFacts(
            movie_id=movie_id,
            source_id=(catalog, source_id.removesuffix(".0")) if source_id else None,
            title=title or other,
            year=year,
            genres=tuple(map(str.title, genres)) if self.title_case else genres,
            synopsis=row.synopsis(self.synopsis),
            video=on_disk(os.path.abspath(row.path.parent / video.strip())) if isinstance(video, str) and video else "",
            other_titles=(other,) if other not in ("", title) else (),
            line=row.place,
        )

    def _read_columns(self) -> set[str]:
        known = (getattr(self, each.name) for each in fields(self))
        return {*TMDB_ID, *(name for columns in known if isinstance(columns, tuple) for name in columns)}


@dataclass(frozen=True)
class OtherFormat:
    """A format whose films are not one a row: its columns and its reader; None if it has no facts about films."""

    name: str
    columns: Columns
    read: Callable[[Rows], Iterator[FilmFacts]] | None = None


def read_condensed_descriptions(rows: Rows) -> Iterator[FilmFacts]:
    """Condensed Movies' `descriptions.csv`: the joined descriptions of a film's clips are its synopsis.

    Clips have the order of the `clips.csv` beside it, else of the file.
    """
    order = _clip_numbers(rows.path.with_name("clips.csv"), rows.problems)
    told: dict[str, list[tuple[float, int | str, str]]] = defaultdict(list)
    for row in rows:
        movie_id, text = row.imdb_id(("imdbid",)), row.synopsis(("description",))
        if movie_id and text:
            told[movie_id].append((order.get(row.text(("videoid",)), 0), row.place, text))
        else:
            rows.problems.add("clips without a film or a description", rows.path, row.place)
    for movie_id, clips_of_film in told.items():
        synopsis = " ".join(text for *_, text in sorted(clips_of_film))
        yield FilmFacts(movie_id, synopsis=synopsis, line=clips_of_film[0][1])


def _clip_numbers(clips: Path, problems: Problems) -> dict[str, float]:
    order = {}
    for line, row in read_table(clips, ("videoid", "clip_idx")) if clips.exists() else ():
        try:
            order[row["videoid"]] = float(row["clip_idx"])
        except ValueError:
            problems.add("clips without a number", clips, line)
    return order


FORMATS: Sequence[Format | OtherFormat] = (
    Format(
        "IMDb title.basics",
        ("tconst", "titletype", "primarytitle", "startyear", "genres"),
        title=("primarytitle",),
        year=("startyear",),
        kind=("titletype",),
        left_out=frozenset(SERIES | SHORTS_AND_VIDEOS),
    ),
    # Descriptions in exports of lists are their owner's notes.
    Format("IMDb export", ("const", "title", "title_type", "url"), kind=("title_type",), synopsis=()),
    Format("IMDb top 1000", ("series_title", "released_year", "genre"), title=("series_title",)),
    OtherFormat("MovieLens", ("movieid", "title", "genres"), read_movielens),
    OtherFormat("MovieLens 100K", COLUMNS_100K, read_movielens),
    OtherFormat("MovieLens links", ("movieid", "imdbid", "tmdbid"), read_links),
    OtherFormat("CMU Movie Summary Corpus", ("wikipedia_id", "freebase_id", "name"), read_cmu),
    OtherFormat("Kodi", ("nfo",), read_kodi),
    Format("OMDb", ("title", "year", "imdbid", "type"), kind=("type",)),
    Format("Letterboxd diary or reviews", ("name", "year", "letterboxd_uri", "rewatch"), title=("name",), synopsis=()),
    Format(
        "Letterboxd",
        ("name", "year", "letterboxd_uri"),
        source_id=("letterboxd_uri",),
        catalog="Letterboxd",
        title=("name",),
        synopsis=(),
    ),
    Format(
        "Letterboxd list",
        ("position", "name", "year", "url"),
        source_id=("url",),
        catalog="Letterboxd",
        title=("name",),
        synopsis=(),
    ),
    Format("Trakt", ("title", "year", "trakt_id"), source_id=("trakt_id",), catalog="Trakt"),
    *(
        Format(
            "TMDB",
            columns,
            catalog="TMDB",
            title=("title", "original_title"),
            genres=("genres", "genre_ids"),
            year=("release_date",),
            synopsis=("overview",),
            broken_rows_count=True,
        )
        for columns in (("id", "title", "release_date", "overview"), ("id", "original_title", "popularity", "adult"))
    ),
    Format("MPST", ("imdb_id", "title", "plot_synopsis", "tags")),
    OtherFormat("TMDB credits", ("cast", "crew")),
    OtherFormat("TMDB keywords", ("id", "keywords")),
    Format("MovieNet", ("imdb_id", "tmdb_id", "title", "genres")),
    Format("Condensed Movies, titles", ("imdbid", "title", "year")),
    Format("Condensed Movies, genres", ("imdbid", "genre", "country")),
    OtherFormat("Condensed Movies, descriptions", ("imdbid", "videoid", "description"), read_condensed_descriptions),
    Format("Wikipedia plots", ("release_year", "title", "genre", "plot"), title_case=True),
    Format("Wikipedia", ("title", "extract"), source_id=("pageid",), catalog="Wikipedia"),
    OtherFormat("ratings or tags", ("userid", "movieid")),
    OtherFormat("MovieLens genome scores", ("movieid", "tagid")),
    OtherFormat("MovieLens genome tags", ("tagid", "tag")),
    OtherFormat("CMU plots, which need movie.metadata.tsv beside them", ("wikipedia_id", "plot_summary")),
    OtherFormat("IMDb title.akas", ("titleid", "ordering", "title")),
    OtherFormat("IMDb title.ratings", ("tconst", "averagerating")),
    OtherFormat("IMDb title.crew", ("tconst", "directors")),
    OtherFormat("IMDb title.episode", ("tconst", "parenttconst")),
    OtherFormat("IMDb title.principals", ("tconst", "nconst")),
    OtherFormat("IMDb name.basics", ("nconst", "primaryname")),
    OtherFormat("Condensed Movies, split", ("imdbid", "split")),
    OtherFormat("Condensed Movies, casts", ("imdbid", "cast")),
    OtherFormat("Condensed Movies, clips", ("videoid", "clip_idx")),
    OtherFormat("Condensed Movies, durations", ("videoid", "duration")),
    *(
        Format("own table", (column,), movie_id=("movie_id",), video=("video",))
        for column in ("movie_id", "imdb_id", "title")
    ),
)


def format_of(columns: Sequence[str]) -> Format | OtherFormat | None:
    """The first format whose columns are among these."""
    return next((each for each in FORMATS if set(each.columns) <= set(columns)), None)
