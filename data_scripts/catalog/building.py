"""The films of several sources joined, film by film: the work of `data_scripts.make_catalog`."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_scripts.catalog.film_groups import ALONE, Entry, Groups, Relevance, Source, count_ways, group_films, movie_ids
from data_scripts.catalog.film_names import is_imdb_id
from data_scripts.catalog.leak_guard import LeakGuard
from data_scripts.catalog.video_files import VideoFiles, file_size, find_videos, video_facts
from data_scripts.make_catalog import CatalogArguments
from data_scripts.metadata.facts import FilmFacts
from data_scripts.metadata.files import MetadataFile, read_metadata
from data_scripts.stages.text_files import Problems
from modeling_m2s.storage_m2s import FilmDataset, exclusive

# Columns whose known values the record counts.
KNOWN = ("title", "year", "genres", "synopsis", "video")
# A text of fewer characters that as many films have says nothing of them, in whatever language: "Aucun résumé."
SHORT_SYNOPSIS, MANY_FILMS = 40, 3
# Messages about videos, by their key in the record.
VIDEO_NOTES = {
    "unmatched": "videos that match no metadata, films under their own names",
    "second_files": "videos left out, as their film has another",
    "of_two_films": "videos that two films name, left to the first",
    "missing": "videos that metadata names and that are not there",
    "extras": "extras, samples and trailers left out",
    "trash": "files of the system left out",
    "of_discs": "files of discs left out, as the folder is the film; a DVD's title is read from its first file alone",
    "later_parts": "later parts of films left out; only the first is read, so join them",
}


def make_catalog(arguments: CatalogArguments) -> dict[str, Any]:
    """Write the `movies` dataset, in place of an earlier one made with the same options.

    Returns:
        Its record, with `sources` (how many films of each source were found in others, and how), `known` (how many
        films have a year, genres, …), `videos` (which did not match, …), `repeated_synopses` (short texts that several
        films had) and `leak_guard` (how many were excluded).

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
    sources, entries, files = read_sources(arguments, guard)
    groups = group_films(entries, arguments.year_tolerance)
    count_ways(groups)
    for name, members in groups.items():
        if isinstance(name, str):
            guard.learn(name, (entry.facts for entry in members))
    catalog = {name: members for name, members in groups.items() if any(not e.source.is_lookup for e in members)}
    rows, videos = film_rows(catalog, guard)
    videos |= files.notes()
    if not rows:
        raise ValueError("no film for the catalog: the sources name none")
    repeated = blank_repeated_synopses(rows)
    known = {column: sum(bool(row[column]) for row in rows) for column in KNOWN}
    known = {"imdb_id": sum(is_imdb_id(row["movie_id"]) for row in rows), **known}
    facts: dict[str, Any] = {"sources": [source.record() for source in sources], "known": known, "videos": videos}
    facts["repeated_synopses"] = repeated
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


def read_sources(arguments: CatalogArguments, guard: LeakGuard) -> tuple[list[Source], list[Entry], VideoFiles]:
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
    found = find_videos(arguments.videos, scanned.problems)
    videos = [Entry(scanned, video_facts(name, path)) for name, path in found.films.items() if str(path) not in named]
    relevant = Relevance([entry.facts for entry in [*entries, *videos]], arguments.year_tolerance)
    for n, file in enumerate(lookup, len(metadata)):
        for facts in _progress(file):
            if relevant(facts):
                entries.append(Entry(sources[n], facts))
            else:
                guard.learn(facts.movie_id, [facts])
                sources[n].ways[ALONE] += 1
    return [*sources, *([scanned] if arguments.videos else [])], [*entries, *videos], found


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


def _videos_of(members: list[Entry]) -> list[str]:
    """A film's files: first those that tables name, then the largest, because trailers and samples lie beside films."""
    named = [entry.facts.video for entry in members if entry.facts.video and not entry.source.is_video]
    scanned = [entry.facts.video for entry in members if entry.source.is_video]
    return list(dict.fromkeys([*named, *sorted(scanned, key=lambda path: (-file_size(path), path))]))


def _progress(file: MetadataFile) -> Iterator[FilmFacts]:
    for facts in tqdm(file.films, desc=file.path.name, unit=" films", delay=2, disable=None):
        if facts.movie_id or facts.title:
            yield facts
        else:
            file.problems.add("films without an id or a title", file.path, facts.line)


def blank_repeated_synopses(rows: list[dict[str, Any]]) -> int:
    """Take out short synopses that several films share; returns from how many films."""
    films = Counter(row["synopsis"] for row in rows if len(row["synopsis"]) < SHORT_SYNOPSIS)
    repeated = [row for row in rows if row["synopsis"] and films[row["synopsis"]] >= MANY_FILMS]
    for row in repeated:
        row["synopsis"] = ""
    return len(repeated)


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
    if record["repeated_synopses"]:
        print(f"synopses left out, as {MANY_FILMS} or more films have the same: {record['repeated_synopses']:,}")
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
