"""`m2s tag`: labels of a film's scenes, by a classifier of your own."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2s.endings import UsageError, message_of
from m2s.shared import print_error, return_large_blocks

HELP = "labels of scenes, or of windows of some seconds, by a classifier of your own"
FORMATS = ("csv", "json", "edl", "otio", "fcpxml", "chapters", "srt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "films",
        type=Path,
        metavar="FILM_OR_INDEX",
        help="a video file, a folder of them, or an index that m2s embed wrote",
    )
    parser.add_argument(
        "--model", required=True, help="classifier that eval.probe --export saved: a folder, a Hub id or ID@REVISION"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="tag windows of this many seconds instead of scenes; the paper's have 5",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="least probability of a label (default: 0.5 where scenes may have several labels; elsewhere none, and the "
        "most probable label counts)",
    )
    parser.add_argument(
        "--format",
        default="csv",
        choices=FORMATS,
        help="csv, json: all scenes and probabilities; the others, as in m2s export: stretches that have labels "
        "(default: csv)",
    )
    parser.add_argument("--film", help="the film of the index to tag: its id, or a part of it (default: all films)")
    parser.add_argument(
        "--output", type=Path, help="folder for a list and a picture of each film (default: INDEX/tags, or tags)"
    )
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: the fastest present)")


def run(options: argparse.Namespace) -> int:
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold {options.threshold:g} is a probability: from 0 to 1")
    if options.window is not None and not 0.04 <= options.window <= 86_400:
        raise UsageError(f"--window {options.window:g} is a number of seconds, from 0.04 to 86400")
    if not options.films.exists():
        raise UsageError(f"{options.films}: no such film, folder or index")
    is_index = check_kind(options)

    from modeling_m2s.errors_m2s import USER_ERRORS
    from modeling_m2s.pretrained_m2s import ModelError
    from modeling_m2s.storage_m2s import file_name
    from modeling_m2s.tags_m2s import Classifier

    return_large_blocks()
    try:
        classifier = Classifier.load(options.model, options.device)
    except ModelError as error:
        raise UsageError(f"--{error}") from error
    folder = options.output or (options.films / "tags" if is_index else Path("tags"))
    failed = False
    for item in films_of_index(options) if is_index else films_of_files(options, classifier):
        try:
            if isinstance(item, Exception):
                raise item
            film, shots = item
            # Films of two folders may have the same name; in an index, ids tell them apart.
            name = file_name(film.movie_id, None if is_index else film.fingerprint)
            write(film, shots, classifier, folder / name, options)
        except USER_ERRORS as error:
            print_error(message_of(error))
            failed = True
    return 1 if failed else 0


def check_kind(options: argparse.Namespace) -> bool:
    """Whether the films are an index.

    Raises:
        UsageError: they are a part of an index or another dataset, or the flags do not go with them.
    """
    from modeling_m2s.storage_m2s import RECORD_NAME, read_json

    if (options.films / RECORD_NAME).is_file():
        kind = read_json(options.films / RECORD_NAME).get("dataset")
        raise UsageError(f"{options.films}: a dataset of {kind}, not an index; give the folder that m2s embed wrote")
    is_index = (options.films / "shots" / RECORD_NAME).is_file()
    if options.film and not is_index:
        raise UsageError(f"--film names a film of an index; {options.films} is none")
    return is_index


def films_of_index(options: argparse.Namespace) -> Iterator[Any]:
    from modeling_m2s.tags_m2s import read_index

    yield from read_index(options.films, options.window, options.film)


def films_of_files(options: argparse.Namespace, classifier: Any) -> Iterator[Any]:
    """Films with their shots, or the errors of those that cannot be read."""
    from tqdm import tqdm

    from modeling_m2s.find_films_m2s import find_films
    from modeling_m2s.shots_m2s import ShotSettings
    from modeling_m2s.tags_m2s import read_video
    from modeling_m2s.video_m2s import VideoError

    settings = ShotSettings(short_side=max(224, classifier.model.config.image_size))
    for movie_id, path in find_films([options.films]).items():
        layout = "{desc}: shots {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        with tqdm(total=1.0, desc=movie_id, disable=None, leave=False, bar_format=layout) as bar:

            def report(share: float, bar: Any = bar) -> None:
                bar.update(share - bar.n)

            try:
                found: Any = read_video(movie_id, path, options.window, settings, report)
            except VideoError as error:
                found = error
        yield found


def write(film: Any, shots: Any, classifier: Any, stem: Path, options: argparse.Namespace) -> None:
    """Tag a film and write its list and its picture, whose names begin with `stem`."""
    from modeling_m2s.figures_m2s import encode
    from modeling_m2s.interval_formats_m2s import FORMATS as WRITERS
    from modeling_m2s.storage_m2s import atomic_write
    from modeling_m2s.tag_figures_m2s import timeline
    from modeling_m2s.tags_m2s import labeled_runs

    tagged = classifier.tag(film, shots, options.threshold)
    suffix, to_text = WRITERS[options.format]
    listed = tagged if options.format in ("csv", "json") else labeled_runs(tagged)
    path = stem.with_name(stem.name + suffix)
    num_tagged = sum(bool(each.labels) for each in tagged.intervals)
    if listed.intervals:
        with atomic_write(path) as file:
            file.write(to_text(listed).encode())
    picture = stem.with_name(f"{stem.name}.png")
    with atomic_write(picture) as file:
        file.write(encode(timeline(tagged, shots, classifier.labels), "PNG"))
    if not listed.intervals:
        path.unlink(missing_ok=True)  # of an earlier run
    name = path if listed.intervals else f"{film.movie_id}: no list"
    print(f"{name}: {num_tagged} of {len(tagged.intervals)} {film.of} have labels   {picture}")
    if missing := len(film.intervals) - len(tagged.intervals):
        print(f"{film.movie_id}: {missing} {film.of} have no keyframe, and so no tags")
