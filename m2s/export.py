"""`m2s export`: shots or scenes as lists for editors, players, spreadsheets and browsers."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2s.endings import UsageError, message_of
from m2s.shared import print_error

HELP = "shots or scenes for editors, players and browsers: EDL, chapters, a page, …"
FORMATS = ("csv", "json", "edl", "otio", "fcpxml", "chapters", "srt", "html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="csv, json: lists; edl, otio (OpenTimelineIO), fcpxml (Final Cut Pro): timelines for editors; chapters: "
        "for FFmpeg; srt: subtitles that name the scenes; html: a page of the film's scenes to look at and search",
    )
    parser.add_argument("--film", help="the film to export: its id, or a part of it (default: all films)")
    parser.add_argument(
        "--of",
        choices=("scenes", "story-scenes", "shots"),
        default="scenes",
        help="what to list: the scenes that are embedded, the whole scenes that m2s scenes found, or shots "
        "(default: scenes)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for a file per film; with --film, the file (default: DIR/exports)"
    )
    parser.add_argument(
        "--start-timecode",
        metavar="HH:MM:SS:FF",
        help="timecode of the first frame in the film's file, for csv, json, edl, otio and fcpxml "
        "(default: 00:00:00:00)",
    )
    parser.add_argument(
        "--embed",
        action="store_true",
        help="with --format chapters: copy the film without re-encoding, and write the chapters into the copy",
    )


def run(options: argparse.Namespace) -> int:
    check(options)
    from modeling_m2s.errors_m2s import USER_ERRORS
    from modeling_m2s.interval_formats_m2s import FORMATS as WRITERS
    from modeling_m2s.intervals_m2s import read_films

    films = read_films(options.index, options.of, options.film)
    if options.format == "html":
        from modeling_m2s.film_page_m2s import film_page
        from modeling_m2s.search_m2s import SceneIndex

        index = SceneIndex(options.index)
        suffix, write = ".html", lambda film: film_page(index, film.movie_id)
    else:
        suffix, write = WRITERS[options.format]
    failed = False
    for film in films:
        try:
            if not film.intervals:
                raise UsageError(f"{film.movie_id}: the film has no {options.of.replace('-', ' ')} to export")
            if options.start_timecode:
                film = replace(film, origin=film.timeline.frame(options.start_timecode))
            path = copy_film(film, options) if options.embed else write_list(film, options, suffix, write)
        except USER_ERRORS as error:
            print_error(message_of(error))
            failed = True
        else:
            count = len(film.intervals)
            noun = options.of.replace("-", " ")
            print(f"{path}: {count} {noun if count != 1 else noun.removesuffix('s')}")
    return 1 if failed else 0


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if options.embed and options.format != "chapters":
        raise UsageError(
            f"--embed writes chapters into a copy of the film; it needs --format chapters, not {options.format}"
        )
    if options.format == "html" and options.of != "scenes":
        raise UsageError(f"--format html is a page of scenes that are embedded; leave out --of {options.of}")
    if options.start_timecode and options.format in ("chapters", "srt", "html"):
        raise UsageError(f"--format {options.format} holds times and no timecodes; leave out --start-timecode")


def write_list(film: Any, options: argparse.Namespace, suffix: str, write: Callable[[Any], str]) -> Path:
    """Write a film's intervals into a file and return its path."""
    from modeling_m2s.storage_m2s import atomic_write
    from modeling_m2s.video_m2s import VIDEO_SUFFIXES

    path = target(film, options, suffix)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"--output {path} has the name of a film, but --format {options.format} makes none")
    text = write(film)
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def copy_film(film: Any, options: argparse.Namespace) -> Path:
    """Copy a film, with its intervals as chapters, and return the copy's path."""
    from modeling_m2s.chapters_m2s import copy_with_chapters
    from modeling_m2s.interval_formats_m2s import chapters
    from modeling_m2s.video_m2s import fingerprint

    video = Path(film.video)
    path = target(film, options, video.suffix.lower())
    if path.suffix.lower() != video.suffix.lower():
        raise UsageError(f"--output {path}: the copy of {video.name} is of the same kind; name it *{video.suffix}")
    if video.is_file() and fingerprint(video) != film.fingerprint:
        raise UsageError(f"{video}: another film than when the index was made; run m2s embed again")
    if path == options.output and path.exists():
        raise UsageError(f"--output {path} is there already; --embed replaces no film: name another file or a folder")
    for stream in copy_with_chapters(video, path, chapters(film)):
        print(f"{path} lacks a stream of the film: {stream}")
    return path


def target(film: Any, options: argparse.Namespace, suffix: str) -> Path:
    """The file for a film: the one that was named, else one in a folder."""
    from modeling_m2s.find_films_m2s import EXPORTS
    from modeling_m2s.storage_m2s import file_name

    folder = options.output or options.index / EXPORTS
    if options.output and options.film and not folder.is_dir():
        return folder
    return folder / f"{file_name(film.movie_id)}{suffix}"
