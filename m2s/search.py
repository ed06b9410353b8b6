"""`m2s search`: scenes like a scene, a clip or still images, and shots that show what a text says."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2s.endings import UsageError
from m2s.shared import load_pipeline, one_line, print_error, quote

if TYPE_CHECKING:
    from modeling_m2s.queries_m2s import Query
    from modeling_m2s.search_m2s import Scene, SceneIndex

HELP = "scenes like a scene, a clip or still images; shots by words"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--film", help="film of the query scene: its id, or a part of it")
    query.add_argument("--clip", type=Path, help="a video file as the query, or the part of it between --from and --to")
    query.add_argument(
        "--image", type=Path, action="append", help="a still image as the query; several are the shots of one scene"
    )
    query.add_argument("--text", help="words as the query, such as 'a bridge at night'; m2s words prepares an index")
    parser.add_argument(
        "--uncentered",
        action="store_true",
        help="with --text: do not subtract the mean of everyday words from the text's vector",
    )
    parser.add_argument("--at", metavar="TIME", help="time within --film: seconds, MM:SS or HH:MM:SS")
    parser.add_argument("--from", dest="start", metavar="TIME", help="start within --clip (default: its beginning)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="end within --clip (default: its end)")
    parser.add_argument("--top", type=int, default=5, help="number of scenes to find (default: 5)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--within", dest="where", action="store_const", const="within", help="only in the query's film")
    where.add_argument("--across", dest="where", action="store_const", const="across", help="only in other films")
    parser.add_argument("--under", type=Path, metavar="FOLDER", help="only in films whose file lies under this folder")
    parser.add_argument("--film-id", action="append", metavar="ID", help="only in the film of this id; may be repeated")
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="show near-duplicates of a hit too, such as copies of a film"
    )
    parser.add_argument(
        "--space",
        choices=["raw", "centered", "whitened"],
        help="space in which scenes are compared. raw: vectors as they are, as in the paper; centered: minus their "
        "mean over the index; whitened: centered, and all directions weigh the same (default: whitened)",
    )
    parser.add_argument("--cut", type=Path, metavar="DIR", help="write each hit as a clip into this folder")
    parser.add_argument("--padding", type=float, help="with --cut: seconds before and after a clip (default: 1.0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document, and draw nothing by default")
    parser.add_argument("--picture", type=Path, help="picture file for the hits (default: DIR/search.png)")
    parser.add_argument(
        "--model",
        help="with --clip, --image or --text: new place of the index's encoder, or of the model of its words, if it "
        "has moved",
    )


def run(options: argparse.Namespace) -> int:
    check(options)
    from m2s.found import cut_hits, describe, print_json, print_lines, score
    from modeling_m2s.figures_m2s import encode
    from modeling_m2s.search_m2s import DEFAULT_SPACE, SceneIndex
    from modeling_m2s.storage_m2s import StorageError, atomic_write

    index = SceneIndex(options.index, options.space or DEFAULT_SPACE)
    films = index.choose_films(options.under, options.film_id)
    query, results = search_text(options, index, films) if options.text else search_scenes(options, index, films)
    if not results:
        raise UsageError(f"{options.index}: nothing to find besides the query")
    hits = describe(index, results, by_words=bool(options.text))
    failed = bool(options.cut) and not cut_hits(index, hits, options.cut, options.padding)
    picture = options.picture or (None if options.json else options.index / "search.png")
    if picture:
        drawn = index.draw((one_line(query.caption), query.keyframes), results, list(map(score, hits)))
        try:
            with atomic_write(picture) as file:
                file.write(encode(drawn, "PNG"))
        except StorageError as error:
            if options.picture:
                raise
            print(f"no picture ({one_line(str(error))}); --picture FILE draws it elsewhere", file=sys.stderr)
            picture = None
    space = None if options.text else index.space.name
    (print_json if options.json else print_lines)(options.index, query.caption, hits, picture, space)
    return 1 if failed else 0


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    from modeling_m2s.figures_m2s import parse_timecode

    if (options.film is None) != (options.at is None):
        raise UsageError("--film and --at go together: m2s search DIR --film FILM --at 00:03:10")
    if options.film is None and options.where:
        raise UsageError("--within and --across need a query scene: --film FILM --at TIME")
    if options.clip is None and (options.start or options.end):
        raise UsageError("--from and --to are times within --clip FILE")
    if options.text is not None and not options.text.strip():
        raise UsageError("--text is empty; name something that can be seen, such as 'a bridge at night'")
    if options.text is None and options.uncentered:
        raise UsageError("--uncentered is for words: --text 'a bridge at night'")
    if options.text is not None and options.space:
        raise UsageError(f"--space {options.space} is for scenes; --text compares words with shots in their own space")
    if options.top < 1:
        raise UsageError(f"--top {options.top} must be at least 1")
    if options.film is not None and options.model:
        raise UsageError(f"--model {options.model}: a scene of the index is compared as it is, without any model")
    if options.padding is not None and not options.cut:
        raise UsageError(f"--padding {options.padding} is for clips: --cut DIR")
    options.padding = 1.0 if options.padding is None else options.padding
    if not 0 <= options.padding < float("inf"):
        raise UsageError(f"--padding {options.padding} must be a number of seconds, at least 0")
    options.at = parse_timecode(options.at or "0")
    options.start = parse_timecode(options.start or "0")
    options.end = None if options.end is None else parse_timecode(options.end)
    if options.end is not None and options.end <= options.start:
        raise UsageError(f"--to {options.end:g} s must be after --from {options.start:g} s")


def search_scenes(options: argparse.Namespace, index: "SceneIndex", films: set[str]) -> "tuple[Query, list[Scene]]":
    """The query, a scene of the index or a picture or clip from outside, and the scenes that are like it."""
    from modeling_m2s.queries_m2s import Query, clip_query, image_query

    scene = None
    if options.film is not None:
        scene = index.scene_at(index.find_film(options.film), options.at)
        query = Query(scene.describe(), index.vectors[scene.row][None], index.keyframes(scene))
    elif options.clip is not None:
        query = clip_query(index, load_encoder_of(options, index), options.clip, options.start, options.end)
    else:
        query = image_query(index, load_encoder_of(options, index), options.image)
    fold, where = not options.keep_duplicates, options.where or "all"
    return query, index.nearest(index.distances(query.vectors), options.top, scene, where, films, fold)


def load_encoder_of(options: argparse.Namespace, index: "SceneIndex") -> Any:
    """The pipeline of the index's own encoder."""
    from modeling_m2s.pretrained_m2s import pinned
    from modeling_m2s.storage_m2s import require_settings

    settings = index.record["settings"]
    model = options.model or pinned(index.record["model"], settings["revision"])
    pipeline, revision = load_pipeline(model, None, settings["dtype"])
    require_settings(options.index, {"revision": settings["revision"]}, {"revision": revision})
    return pipeline


def search_text(options: argparse.Namespace, index: "SceneIndex", films: set[str]) -> "tuple[Query, list[Scene]]":
    """The words as a query, and the shots that are nearest to them."""
    from modeling_m2s.queries_m2s import Query
    from modeling_m2s.words_m2s import WordSearch, embed_text

    words = WordSearch(options.index)
    if lacking := films.intersection(words.lacking):
        print_error(
            f"films without words, which are not searched: {len(lacking)}; run: m2s words {quote(options.index)}"
        )
    vector = embed_text(options.text, options.model or words.model, words.settings["revision"], not options.uncentered)
    query = Query(f'"{options.text}"', vector[None], [])
    return query, words.search(vector, options.top, movie_ids=films, fold=not options.keep_duplicates)
