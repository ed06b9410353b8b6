"""The films of several sources joined, film by film: the work of `data_scripts.make_catalog`."""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_scripts.film_names import imdb_id, is_imdb_id, title_key
from data_scripts.leak_guard import LeakGuard
from data_scripts.make_catalog import CatalogArguments
from data_scripts.metadata_files import FilmFacts, MetadataError, MetadataFile, Problems, read_metadata
from modeling_m2s.find_films_m2s import find_films
from modeling_m2s.storage_m2s import FilmDataset, exclusive
from modeling_m2s.video_m2s import VideoError, printable

# How a source's film was found in other sources, or why it was not.
BY_ID, BY_TMDB_ID, BY_TITLE, BY_NEAR_YEAR = "by id", "by TMDB id", "by title and year", "by title and nearly the year"
ALONE, AMBIGUOUS, REPEATED = "in no other source", "not joined: several films of that title and year", "repeated"
# Columns whose known values the record counts.
KNOWN = ("title", "year", "genres", "synopsis", "video")
# Messages about videos, by their key in the record.
VIDEO_NOTES = {
    "unmatched": "videos that match no metadata, films under their own names",
    "second_files": "videos left out, as their film has another",
    "of_two_films": "videos that two films name, left to the first",
    "missing": "videos that metadata names and that are not there",
}


@dataclass(eq=False)
class Source:
    """A source of facts; the lowest `order` wins. `ways` counts how its films were found in other sources."""

    name: str
    order: int
    problems: Problems
    is_lookup: bool = False
    is_video: bool = False
    ways: Counter[str] = field(default_factory=Counter)

    def record(self) -> dict[str, Any]:
        problems = {kind: {"count": n, "first": self.problems.first[kind]} for kind, n in self.problems.counts.items()}
        films = dict(sorted(self.ways.items()))
        return {"source": self.name, "lookup": self.is_lookup, "films": films, "problems": problems}


@dataclass(eq=False)
class Entry:
    """One source's facts about a film; `way` says how it joined the film's other entries, if not by its own name."""

    source: Source
    facts: FilmFacts
    way: str = ""


# Facts of the same name are about the same film: its id, or its title's key and its year.
Name = str | tuple[str, int | None]
Groups = dict[Name, list[Entry]]


def make_catalog(arguments: CatalogArguments) -> dict[str, Any]:
    """Write the `movies` dataset, in place of an earlier one made with the same options.

    Returns:
        Its record, with `sources` (how many films of each source were found in others, and how), `known` (how many
        films have a year, genres, …), `videos` (which did not match, …) and `leak_guard` (how many were excluded).

    Raises:
        MetadataError: a source or list that cannot be read; file and line are named.
        StorageError: the folder was made with other options or lists, is in use or cannot be written.
        ValueError: there is no film.
    """
    if not arguments.videos and not arguments.metadata:
        raise ValueError("no films: give --videos, --metadata or both")
    if not 0 <= arguments.year_tolerance <= 2:
        raise ValueError(f"year_tolerance={arguments.year_tolerance} is not 0, 1 or 2")
    guard = LeakGuard.read(arguments.exclude, arguments.require_imdb_id)
    sources, entries = read_sources(arguments, guard)
    groups = group_films(entries, arguments.year_tolerance)
    count_ways(groups)
    for name, members in groups.items():
        if isinstance(name, str):
            guard.learn(name, (entry.facts for entry in members))
    catalog = {name: members for name, members in groups.items() if any(not e.source.is_lookup for e in members)}
    rows, videos = film_rows(catalog, guard)
    if not rows:
        raise ValueError("no film for the catalog: the sources name none")
    known = {column: sum(bool(row[column]) for row in rows) for column in KNOWN}
    known = {"imdb_id": sum(is_imdb_id(row["movie_id"]) for row in rows), **known}
    facts: dict[str, Any] = {"sources": [source.record() for source in sources], "known": known, "videos": videos}
    facts["leak_guard"] = guard.record(row["excluded"] for row in rows)
    if arguments.license:
        facts["license"] = arguments.license
    settings = {"year_tolerance": arguments.year_tolerance, "require_imdb_id": arguments.require_imdb_id}
    with exclusive(arguments.output):
        dataset = FilmDataset(arguments.output, "movies")
        dataset.begin({**settings, "exclude": guard.digest}, {"exclude": None})
        dataset.reopen()
        dataset.write_all(rows, **facts)
        return dataset.record


def read_sources(arguments: CatalogArguments, guard: LeakGuard) -> tuple[list[Source], list[Entry]]:
    """All facts in the order in which they count; from lookup files, only those that can concern the other films.

    The guard learns the titles of listed films also from facts that are left out.
    """
    metadata = read_metadata(arguments.metadata)
    given = {file.path.resolve() for file in metadata}
    lookup = [file for file in read_metadata(arguments.lookup) if file.path.resolve() not in given]
    files = [*metadata, *lookup]
    sources = [
        Source(f"{file.format}, {file.path}", n, file.problems, n >= len(metadata) or file.format == "MovieLens links")
        for n, file in enumerate(files)
    ]
    entries = [Entry(sources[n], facts) for n, file in enumerate(metadata) for facts in _progress(file)]
    named = {entry.facts.video for entry in entries}
    scanned = Source("video files", len(files), Problems(), is_video=True)
    videos = [
        Entry(scanned, video_facts(name, path))
        for name, path in find_videos(arguments.videos, scanned.problems).items()
        if str(path) not in named
    ]
    relevant = Relevance([entry.facts for entry in [*entries, *videos]], arguments.year_tolerance)
    for n, file in enumerate(lookup, len(metadata)):
        for facts in _progress(file):
            if relevant(facts):
                entries.append(Entry(sources[n], facts))
            else:
                guard.learn(facts.movie_id, [facts])
                sources[n].ways[ALONE] += 1
    return [*sources, *([scanned] if arguments.videos else [])], [*entries, *videos]


class Relevance:
    """Whether facts can concern one of the films given, by an id or by title and year."""

    def __init__(self, films: Iterable[FilmFacts], year_tolerance: int):
        self.offsets = range(-year_tolerance, year_tolerance + 1)
        self.ids: set[str | None] = set()
        self.titles: set[tuple[str, int]] = set()
        for film in films:
            self.ids |= {film.movie_id, film.tmdb_id}
            self.titles.update(_titles_with_year(film))
        self.ids.discard(None)

    def __call__(self, facts: FilmFacts) -> bool:
        if facts.movie_id in self.ids or facts.tmdb_id in self.ids:
            return True
        return any((title, year + n) in self.titles for title, year in _titles_with_year(facts) for n in self.offsets)


def group_films(entries: Sequence[Entry], year_tolerance: int) -> Groups:
    """Group the entries of each film: by id first, then groups without IMDb id by title and year, surer kinds first.

    A group joins another if that is the only one of its title and year; films of the catalog take precedence over those
    that only a lookup knows. With a tolerance, each remaining group joins the only film of its title in the years
    around, unless that film already has an entry from the same source or one that matches the exact year.
    """
    imdb_ids = {e.facts.tmdb_id: e.facts.movie_id for e in reversed(entries) if e.facts.tmdb_id and e.facts.movie_id}
    groups: Groups = defaultdict(list)
    for entry in entries:
        facts = entry.facts
        if facts.movie_id:
            groups[facts.movie_id].append(entry)
        elif facts.tmdb_id in imdb_ids:
            entry.way = BY_TMDB_ID
            groups[imdb_ids[facts.tmdb_id]].append(entry)
        else:
            groups[title_key(facts.title), facts.year].append(entry)
    by_title: dict[tuple[str, int], dict[Name, None]] = defaultdict(dict)
    kinds = {name: _kind(name, members) for name, members in groups.items()}
    for kind in sorted(set(kinds.values())):
        names = [name for name in groups if kinds[name] == kind]
        if kind > 0:
            _join_by_title(groups, names, by_title, 0)
            if year_tolerance:
                _join_by_title(groups, [name for name in names if name in groups], by_title, year_tolerance)
        for name in names:
            for entry in groups.get(name, ()):
                for title in _titles_with_year(entry.facts):
                    by_title[title][name] = None
    return dict(groups)


def _kind(name: Name, members: list[Entry]) -> int:
    """How sure a film's identity is, surest first: 0 IMDb id, 1 another id, 2 title and year, 3 only a file's name."""
    if is_imdb_id(name):
        return 0
    if all(entry.source.is_video for entry in members):
        return 3
    return 1 if isinstance(name, str) else 2


def _join_by_title(
    groups: Groups, names: list[Name], by_title: dict[tuple[str, int], dict[Name, None]], year_tolerance: int
) -> None:
    way = BY_NEAR_YEAR if year_tolerance else BY_TITLE
    targets: dict[Name, Name] = {}
    for name in names:
        found = _films_of_title(groups, name, by_title, year_tolerance)
        if len(found) == 1:
            targets[name] = found[0]
        elif found:
            for entry in groups[name]:
                entry.way = AMBIGUOUS
    takers = Counter(targets.values())
    for name, target in targets.items():
        if year_tolerance:
            sources = {entry.source for entry in groups[name]}
            if takers[target] > 1 or any(e.way == BY_TITLE or e.source in sources for e in groups[target]):
                continue
        for entry in groups.pop(name):
            entry.way = way
            groups[target].append(entry)


def _films_of_title(
    groups: Groups, name: Name, by_title: dict[tuple[str, int], dict[Name, None]], year_tolerance: int
) -> list[Name]:
    """The surer films with the group's title; if it has several titles, with the first that any such film has."""
    for entry in groups[name]:
        for title, year in _titles_with_year(entry.facts):
            years = range(year - year_tolerance, year + year_tolerance + 1)
            found = list(dict.fromkeys(film for near in years for film in by_title.get((title, near), ())))
            if found:
                in_catalog = [film for film in found if any(not e.source.is_lookup for e in groups[film])]
                return in_catalog or found
    return []


def _titles_with_year(facts: FilmFacts) -> list[tuple[str, int]]:
    if facts.year is None:
        return []
    return [(title_key(title), facts.year) for title in (facts.title, *facts.other_titles) if title]


def count_ways(groups: Groups) -> None:
    """Count in each source how its films were found in other sources."""
    for name, members in groups.items():
        seen: set[Source] = set()
        for entry in members:
            others = [other for other in members if other.source is not entry.source]
            if entry.source in seen:
                way = REPEATED
            elif not others:
                way = entry.way if entry.way == AMBIGUOUS else ALONE
            elif entry.way:
                way = entry.way
            elif any(not other.way for other in others):
                way = BY_ID if isinstance(name, str) else BY_TITLE
            else:
                way = others[0].way
            seen.add(entry.source)
            entry.source.ways[way] += 1


def film_rows(groups: Groups, guard: LeakGuard) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of `movies` by id, and notes on videos: unmatched, second files, named by two films, or missing."""
    ids = movie_ids(groups)
    rows: list[dict[str, Any]] = []
    taken: dict[str, str] = {}
    notes: dict[str, Any] = {"unmatched": [], "second_files": {}, "of_two_films": {}, "missing": []}
    for name, members in sorted(groups.items(), key=lambda item: ids[item[0]]):
        facts = [entry.facts for entry in sorted(members, key=lambda entry: entry.source.order)]
        video = ""
        for path in _videos_of(members):
            if not os.path.isfile(path):
                notes["missing"].append(path)
            elif path in taken:
                notes["of_two_films"].setdefault(path, [taken[path]]).append(ids[name])
            elif video:
                notes["second_files"][path] = ids[name]
            else:
                video, taken[path] = path, ids[name]
        if all(entry.source.is_video for entry in members):
            notes["unmatched"].append(video)
        rows.append(
            {
                "movie_id": ids[name],
                "title": next((film.title for film in facts if film.title), ""),
                "year": next((film.year for film in facts if film.year), 0),
                "genres": list(next((film.genres for film in facts if film.genres), ())),
                "synopsis": next((film.synopsis for film in facts if film.synopsis), ""),
                "video": video,
                "excluded": guard.reason(ids[name], facts),
            }
        )
    return rows, notes


def movie_ids(groups: Groups) -> dict[Name, str]:
    """Ids of films; a film without one is named by title and year, such as big-buck-bunny-2008."""
    ids: dict[Name, str] = {name: name for name in groups if isinstance(name, str)}
    taken = set(ids.values())
    unnamed = [name for name in groups if not isinstance(name, str)]
    for title, year in sorted(unnamed, key=lambda name: (name[0], name[1] or 0)):
        words = "-".join([*title.split(), *([str(year)] if year else [])])
        numbered = (f"{words}-{number}" for number in itertools.count(2))
        ids[title, year] = next(movie_id for movie_id in itertools.chain([words], numbered) if movie_id not in taken)
        taken.add(ids[title, year])
    return ids


def _videos_of(members: list[Entry]) -> list[str]:
    """A film's files: first those that tables name, then the largest, because trailers and samples lie beside films."""
    named = [entry.facts.video for entry in members if entry.facts.video and not entry.source.is_video]
    scanned = [entry.facts.video for entry in members if entry.source.is_video]
    return list(dict.fromkeys([*named, *sorted(scanned, key=lambda path: (-os.path.getsize(path), path))]))


def find_videos(paths: Sequence[Path], problems: Problems) -> dict[str, Path]:
    """Video files by their name below the given folder; files whose name is not UTF-8 are left out and counted."""
    try:
        found = find_films(paths)
    except VideoError as error:
        raise MetadataError(str(error)) from None
    for path in found.values():
        if printable(path) != str(path):
            problems.add("files left out, as their names are not UTF-8: rename them", Path(printable(path)))
    return {name: path for name, path in found.items() if printable(path) == str(path)}


def video_facts(name: str, path: Path) -> FilmFacts:
    """Facts from the name of a file or of its folder: an IMDb id, or title and year."""
    texts = (path.stem, Path(name).parent.name)
    found = next((match for text in texts if (match := re.search(r"(?<![a-z0-9])tt\d{7,9}(?!\d)", text))), None)
    title, year = next((named for text in texts if (named := _title_and_year(text))), (path.stem, None))
    return FilmFacts(imdb_id(found[0]) if found else name, title=title, year=year, video=str(path))


def _title_and_year(text: str) -> tuple[str, int] | None:
    """Title and year of `Emma (1996) 1080p` or `Emma.1996.1080p`; a year in brackets wins, else the last year."""
    year = r"(18[89]\d|19\d\d|20[0-3]\d)"
    found = re.match(rf"(.+?)[\s._-]*[(\[]{year}[)\]]", text) or re.match(rf"(.+)[\s._-]+{year}(?![^\s._-])", text)
    if not found:
        return None
    return re.sub(r"[._\s]+" if " " not in found[1] else r"\s+", " ", found[1]).strip(" -"), int(found[2])


def _progress(file: MetadataFile) -> Iterator[FilmFacts]:
    for facts in tqdm(file.films, desc=file.path.name, unit=" films", delay=2, disable=None):
        if facts.movie_id or facts.title.strip():
            yield facts
        else:
            file.problems.add("films without an id or a title", file.path, facts.line)


def print_summary(record: dict[str, Any], output: Path) -> None:
    """Print a summary of the sources, how they joined, and the next command."""
    for source in record["sources"]:
        ways = ", ".join(f"{number:,} {way}" for way, number in source["films"].items())
        print(f"{source['source']}{' (lookup)' if source['lookup'] else ''}: {ways or 'no films'}")
        for kind, problem in source["problems"].items():
            print(f"    {problem['count']:,} {kind} (first: {problem['first']})")
    for kind, found in record["videos"].items():
        if found:
            shown = ", ".join([*list(found)[:5], *(["…"] if len(found) > 5 else [])])
            print(f"{VIDEO_NOTES[kind]}: {len(found):,} ({shown})")
    guard = record["leak_guard"]
    if guard["lists"] or guard["require_imdb_id"]:
        found = ", ".join(f"{number:,} {reason}" for reason, number in guard["excluded"].items())
        print(f"films excluded from training: {found or 'none'} ({guard['num_listed']:,} listed)")
    else:
        print("films excluded from training: none, as no --exclude names films that benchmarks test on")
    known = ", ".join(f"{number:,} with {column.replace('_', ' ')}" for column, number in record["known"].items())
    print(f"{record['num_films']:,} films in {output}: {known}")
    if record["known"]["video"]:
        print(f"next: python -m data_scripts.detect_shots --movies {output} --output {output.parent / 'shots'}")
    else:
        print(
            f"next: python -m data_scripts.similar_movies --movies {output} --sources genre synopsis "
            f"--output {output.parent / 'similar_movies'}"
        )
