"""`m2s search`: scenes like a scene or a still image."""

import argparse
from pathlib import Path

from m2s.endings import UsageError
from m2s.shared import load_pipeline

HELP = "scenes like a scene or a still image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--film", help="film of the query scene: its id, or a part of it")
    query.add_argument("--image", type=Path, help="a still image as the query")
    parser.add_argument("--at", metavar="TIME", help="time within --film: seconds, MM:SS or HH:MM:SS")
    parser.add_argument("--top", type=int, default=5, help="number of scenes to find (default: 5)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--within", dest="where", action="store_const", const="within", help="only in the query's film")
    where.add_argument("--across", dest="where", action="store_const", const="across", help="only in other films")
    parser.add_argument(
        "--space",
        default="whitened",
        choices=["raw", "centered", "whitened"],
        help="space in which scenes are compared. raw: vectors as they are, as in the paper; centered: minus their "
        "mean over the index; whitened: all directions weigh the same, too (default: whitened)",
    )
    parser.add_argument("--picture", type=Path, help="where to draw the scenes (default: DIR/search.png)")
    parser.add_argument("--model", help="for --image, if the encoder has moved since the index was made")


def run(options: argparse.Namespace) -> int:
    from PIL import Image, UnidentifiedImageError

    from modeling_m2s.figures_m2s import encode, parse_timecode
    from modeling_m2s.images_m2s import open_picture
    from modeling_m2s.search_m2s import SceneIndex
    from modeling_m2s.storage_m2s import atomic_write, require_settings

    if (options.film is None) != (options.at is None):
        raise UsageError("--film and --at go together: m2s search DIR --film FILM --at 00:03:10")
    if options.image and options.where:
        raise UsageError("--within and --across need a query scene: --film FILM --at TIME")
    if options.top < 1:
        raise UsageError(f"--top {options.top} must be at least 1")
    seconds = parse_timecode(options.at or "0")
    index = SceneIndex(options.index, options.space)
    if options.image:
        try:
            image = open_picture(options.image)
        except UnidentifiedImageError:
            raise UsageError(f"{options.image}: not an image") from None
        except OSError as error:
            raise UsageError(f"{options.image}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"{options.image}: {error}") from None
        settings = index.record["settings"]
        model = options.model or index.record["model"]
        pipeline, revision = load_pipeline(model, None, settings["dtype"])
        require_settings(options.index, {"revision": settings["revision"]}, {"revision": revision})
        vector = pipeline.embed_images([image])[0]
        query, caption = None, f"query   {options.image}"
        keyframes: list[Image.Image | None] = [image]
    else:
        query = index.scene_at(index.find_film(options.film), seconds)
        vector = index.vectors[query.row]
        caption, keyframes = f"query   {query.describe()}", index.keyframes(query)
    results = index.search(vector, options.top, query, options.where or "all")
    if not results:
        raise UsageError(f"{options.index}: no scene to find besides the query")
    print(f"{caption}   (distances in the {index.space.name} space)")
    for rank, scene in enumerate(results, 1):
        print(f"{rank:5d}   {scene.describe()}   distance {scene.distance:.2f}")
    picture = options.picture or options.index / "search.png"
    with atomic_write(picture) as file:
        file.write(encode(index.draw((caption, keyframes), results), "PNG"))
    print(f"picture: {picture}")
    return 0
