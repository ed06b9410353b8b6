"""Films in folders of videos: which files are films, and what their names say.

Names are those of collections: `Heat (1995)/Heat.1995.mkv`, discs with `VIDEO_TS` or `BDMV`, extras and samples beside
films as media servers know them, films in parts.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_scripts.catalog.film_names import imdb_id, title_key
from data_scripts.metadata.facts import FilmFacts
from data_scripts.stages.text_files import MetadataError, Problems
from modeling_m2s.find_films_m2s import find_films
from modeling_m2s.video_m2s import VideoError, printable

# Folders of extras beside films; folders that hold extras if they lie beside one film, else perhaps films.
EXTRA_FOLDERS = {
    *("behind the scenes", "deleted scenes", "deleted and extended scenes", "featurettes", "featurette", "trailers"),
    *("trailer", "extras", "extra", "samples", "sample", "bonus", "making of", "backdrops", "theme-music"),
}
EXTRA_FOLDERS_OF_ONE = {"interviews", "scenes", "shorts", "other", "clips", "specials"}
EXTRA = re.compile(
    r"(.+[-._ (\[])?(trailer|teaser|sample)\d*[)\]]?|sample[-._ ].*|"
    r".+-(behindthescenes|deleted|deletedscene|featurette|interview|scene|short|other|extra|clip)\d*",
    flags=re.IGNORECASE,
)
DISC_FOLDERS = {"video_ts", "bdmv"}
# `Film - cd1`, `Film.part2`; `Film Part 2` is a film of its own.
PART = re.compile(r"(.+?)[\s._-]+[(\[]?(?:(?:cd|dvd|dis[ck])[\s._-]?|(?:part|pt)[._-]?)([1-9])[)\]]?", re.IGNORECASE)
# Words of folders that hold many films.
COLLECTION = re.compile(
    r"\b(films?|movies|videos?|collections?|library|media|downloads?|archive|series|anthology|filmography|complete)\b",
    flags=re.IGNORECASE,
)
YEAR = r"(18[89]\d|19\d\d|20[0-3]\d)"


@dataclass
class VideoFiles:
    """Films by the name of their file, and the files that are none: paths, or paths by the file that counts."""

    films: dict[str, Path] = field(default_factory=dict)
    trash: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    of_discs: dict[str, str] = field(default_factory=dict)
    later_parts: dict[str, str] = field(default_factory=dict)

    def notes(self) -> dict[str, list[str] | dict[str, str]]:
        """Files that were left out, for the record."""
        return {
            "trash": self.trash,
            "extras": self.extras,
            "of_discs": self.of_discs,
            "later_parts": self.later_parts,
        }


def find_videos(paths: Sequence[Path], problems: Problems) -> VideoFiles:
    """The films below the given folders. Files whose name is not UTF-8 are left out and counted.

    Raises:
        MetadataError: a folder cannot be read, or holds no film.
    """
    trash: list[Path] = []
    try:
        found = find_films(paths, trash)
    except VideoError as error:
        raise MetadataError(str(error)) from None
    files = VideoFiles(trash=[printable(path) for path in trash])
    for name, path in found.items():
        if printable(path) != str(path):
            problems.add("files left out, as their names are not UTF-8: rename them", Path(printable(path)))
        else:
            files.films[name] = path
    _keep_longest_titles_of_discs(files)
    _leave_out_extras(files)
    _keep_first_parts(files)
    if paths and not files.films:
        raise MetadataError(
            f"{paths[0]}: no film among the {len(found)} video files, which are extras or cannot be named"
        )
    return files


def _keep_longest_titles_of_discs(files: VideoFiles) -> None:
    """A disc's folder is the film. Its longest title is taken to be the largest; of a DVD's title, the first file."""
    discs: dict[Path, list[str]] = defaultdict(list)
    for name, path in files.films.items():
        if _folder_of(path) != path.parent:
            discs[_folder_of(path)].append(name)
    for disc, names in discs.items():
        titles: dict[str, list[str]] = defaultdict(list)
        for name in names:
            stem = files.films[name].stem
            menu = re.fullmatch(r"VIDEO_TS|VTS_\d+_0", stem, re.IGNORECASE)
            title = re.match(r"VTS_\d+", stem, re.IGNORECASE)
            titles["" if menu else title[0].casefold() if title else stem].append(name)
        longest = max(
            titles, key=lambda title: (title != "", sum(file_size(files.films[name]) for name in titles[title]))
        )
        first, *_ = sorted(titles[longest])
        film = files.films[first]
        named = Path(first).parts
        depth = len(film.parent.relative_to(disc).parts) + 1
        own_name = str(Path(*named[:-depth])) if len(named) > depth else disc.name
        for name in names:
            path = files.films.pop(name)
            if name != first:
                files.of_discs[str(path)] = str(film)
        files.films[own_name if own_name not in files.films else first] = film


def _leave_out_extras(files: VideoFiles) -> None:
    """Extras lie beside a film: in a folder of that name within the film's folder, or in files of such a name."""
    whole: Counter[Path] = Counter(_folder_of(path) for path in files.films.values() if not EXTRA.fullmatch(path.stem))
    for name, path in list(files.films.items()):
        beside = EXTRA.fullmatch(path.stem) and whole[path.parent]
        if beside or any(_is_of_extras(folder, whole[folder.parent]) for folder in path.parents):
            files.extras.append(str(files.films.pop(name)))


def _is_of_extras(folder: Path, films_beside: int) -> bool:
    name = folder.name.casefold()
    return (name in EXTRA_FOLDERS and films_beside > 0) or (name in EXTRA_FOLDERS_OF_ONE and films_beside == 1)


def _folder_of(path: Path) -> Path:
    """The folder that a film lies in; of a disc, the disc's."""
    return next((folder.parent for folder in path.parents if folder.name.casefold() in DISC_FOLDERS), path.parent)


def _keep_first_parts(files: VideoFiles) -> None:
    parts: dict[tuple[Path, str], dict[int, str]] = defaultdict(dict)
    for name, path in files.films.items():
        if found := PART.fullmatch(path.stem):
            parts[path.parent, found[1].casefold()][int(found[2])] = name
    for numbered in parts.values():
        first = numbered.pop(min(numbered))
        for name in numbered.values():
            files.later_parts[str(files.films.pop(name))] = str(files.films[first])


def file_size(path: str | Path) -> int:
    """Bytes of a file; 0 for a link to nothing."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def video_facts(name: str, path: Path) -> FilmFacts:
    """Facts from the name of a file or of its folder: an id of IMDb or TMDB, or title and year.

    A year in brackets wins; a folder's title and year win over a number that is part of that title.
    """
    is_disc = _folder_of(path) != path.parent
    stem, folder = (Path(name).name,) * 2 if is_disc else (path.stem, Path(name).parent.name)
    texts = (stem, folder)
    ids = (re.search(r"(?<![a-z0-9])tt\d{7,9}(?!\d)", text, re.IGNORECASE) for text in texts)
    movie_id = next((imdb_id(found[0]) for found in ids if found), None)
    tmdb = next(filter(None, (re.search(r"[\[{(]tmdb(?:id)?[-=](\d+)[\]})]", text) for text in texts)), None)
    title, year = _best_title(stem, folder)
    return FilmFacts(
        movie_id=movie_id or unicodedata.normalize("NFC", name),
        source_id=("TMDB", tmdb[1]) if tmdb else None,
        title=title,
        year=year,
        video=str(path),
    )


def _best_title(stem: str, folder: str) -> tuple[str, int | None]:
    own, other = _title_and_year(stem), None if COLLECTION.search(folder) else _title_and_year(folder)
    if own and other and str(own[1]) in title_key(other[0]).split():
        return other
    return own or other or (unicodedata.normalize("NFC", stem), None)


def _title_and_year(text: str) -> tuple[str, int] | None:
    """Title and year of `Emma (1996) 1080p` or `Emma.1996.1080p`; a year in brackets wins, else the last year."""
    text = re.sub(r"^\s*(?:\[[^\]]*\]|www\.\S+\s+-)\s*", "", text)
    text = re.sub(r"(?<!\d)(\d{3,4}[x×]|1920[_ ])\d{3,4}(?!\d)", " ", text)  # width and height
    found = re.match(rf"(.+?)[\s._-]*[(\[]{YEAR}[)\]]", text) or re.match(rf"(.+)[\s._-]+{YEAR}(?![^\s._-])", text)
    return (_plain(found[1]), int(found[2])) if found else None


def _plain(title: str) -> str:
    title = unicodedata.normalize("NFC", title)
    return re.sub(r"[._\s]+" if " " not in title else r"\s+", " ", title).strip(" -")


def on_disk(path: str) -> str:
    """A path as the disk spells it: `é` is one character in some file systems' names and two in others'."""
    if os.path.lexists(path) or path == os.path.dirname(path):
        return path
    folder, name = os.path.split(path)
    folder = on_disk(folder)
    wanted = unicodedata.normalize("NFC", name)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    same = next((each for each in names if unicodedata.normalize("NFC", each) == wanted), name)
    return os.path.join(folder, same)
