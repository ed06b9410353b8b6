"""Kodi's `.nfo` files, one beside each film, and its export of a whole library, `videodb.xml`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from data_scripts.catalog.film_names import named_imdb_id
from data_scripts.metadata.facts import FilmFacts
from data_scripts.metadata.rows import Rows
from modeling_m2s.video_m2s import VIDEO_SUFFIXES

TAGS = ("title", "originaltitle", "year", "premiered", "plot", "outline")


@dataclass
class KodiRows(Rows):
    """The films of `.nfo` and `.xml` files."""

    files: Sequence[Path] = ()

    def _cells(self) -> Iterator[tuple[int | str, dict[str, Any]]]:
        for path in self.files:
            found = list(_films_of(path))
            for cells in found:
                yield str(path) if len(self.files) > 1 else "", cells
            if not found:
                self.problems.add("files that name no film", path)


def _films_of(path: Path) -> Iterator[dict[str, Any]]:
    """A `movie` of XML, each `movie` of a library, or the address of a page of IMDb, which may stand for a film."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    try:
        # Addresses may follow the film.
        root = ElementTree.fromstring(text[: text.rindex(">") + 1] if ">" in text else text)
    except ElementTree.ParseError:
        page = re.search(r"\S*\bimdb\.com/\S*tt\d+", text)
        if page and (movie_id := named_imdb_id(page[0])):
            yield {"imdb_id": movie_id, "video": _video_of(path)}
        return
    for movie in [root] if root.tag == "movie" else root.iter("movie"):
        ids = {each.get("type", ""): each.text for each in movie.iter("uniqueid")}
        cells: dict[str, Any] = {tag: movie.findtext(tag) for tag in TAGS}
        cells["genres"] = " / ".join(genre.text for genre in movie.findall("genre") if genre.text)
        cells["imdb_id"] = ids.get("imdb") or movie.findtext("imdbid") or named_imdb_id(movie.findtext("id"))
        cells["tmdb_id"] = ids.get("tmdb") or movie.findtext("tmdbid")
        cells["video"] = movie.findtext("filenameandpath") or (_video_of(path) if root is movie else "")
        yield cells


def _video_of(path: Path) -> str:
    """The video that a file is about: of the same name, or the only one beside `movie.nfo`."""
    videos = [other for other in path.parent.iterdir() if other.suffix.lower() in VIDEO_SUFFIXES]
    same = [video for video in videos if video.stem == path.stem]
    if path.stem.casefold() == "movie" and len(videos) == 1:
        same = videos
    return str(same[0].absolute()) if same else ""


def read_kodi(rows: Rows) -> Iterator[FilmFacts]:
    """The films, with the videos that the files are about."""
    for row in rows:
        title, other = row.text(("title",)), row.text(("originaltitle",))
        tmdb_id = row.text(("tmdb_id",))
        yield FilmFacts(
            row.imdb_id(("imdb_id",)),
            ("TMDB", tmdb_id) if tmdb_id else None,
            title or other,
            row.year(("year", "premiered")),
            row.genres(("genres",)),
            row.synopsis(("plot", "outline")),
            row.text(("video",)),
            (other,) if other not in ("", title) else (),
            row.place,
        )
