"""The command line: `m2s embed` films into an index, `m2s search` in it, `m2s info` about it, `m2s app`, a page to try
it, `m2s push` to the Hub, `m2s export-model` to ONNX.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .pretrained_m2s import TINY_MODEL, ModelError, load_encoder
from .version import __version__


class UsageError(ValueError):
    """A request that cannot be carried out; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 after an error or when a film failed, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("m2s: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if options.debug:
            raise
        ours = type(error).__module__.startswith("modeling_m2s")
        expected = ours or isinstance(error, (OSError, ValueError, ImportError))
        print_error(str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)")
        return 1


def print_error(message: str) -> None:
    print("m2s: error: " + " ".join(message.split()), file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="m2s", description="Scenes of films: embed them, search them.")
    parser.add_argument("--version", action="version", version=f"m2s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    default = argparse.ArgumentDefaultsHelpFormatter

    embed = commands.add_parser("embed", parents=[common], help="films to an index of scenes", formatter_class=default)
    embed.set_defaults(run=run_embed)
    embed.add_argument("films", nargs="+", metavar="FILM_OR_FOLDER", help="video files, or folders of them")
    embed.add_argument(
        "--model", default=TINY_MODEL, help="scene encoder or CLIP checkpoint: a folder, a Hub id or ID@REVISION"
    )
    embed.add_argument("--output", required=True, type=Path, help="folder of the index; an existing one grows")
    embed.add_argument("--shots-per-scene", type=int, default=9, help="shots that one scene spans")
    embed.add_argument("--stride", type=int, help="shots from one scene's start to the next (default: no overlap)")
    embed.add_argument("--detector", default="adaptive", help="adaptive, content, hash or histogram")
    embed.add_argument("--threshold", type=float, help="the detector's score for a cut (default: its own)")
    embed.add_argument("--min-shot-frames", type=int, default=15, help="shots shorter than this are not cut off")
    embed.add_argument("--keyframes-per-shot", type=int, default=1, help="frames of each shot that the model reads")
    embed.add_argument("--short-side", type=int, help="pixels of stored keyframes (default: 224 or the model's size)")
    embed.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="films decoded at a time"
    )
    embed.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest present)")
    embed.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the model")
    embed.add_argument("--allow-damaged", action="store_true", help="keep what can be read of damaged films")

    search = commands.add_parser("search", parents=[common], help="scenes like a scene or a still image")
    search.set_defaults(run=run_search)
    search.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    query = search.add_mutually_exclusive_group(required=True)
    query.add_argument("--film", help="film of the query scene: its id, or a part of it")
    query.add_argument("--image", type=Path, help="a still image as the query")
    search.add_argument("--at", metavar="TIME", help="time within --film: seconds, MM:SS or HH:MM:SS")
    search.add_argument("--top", type=int, default=5, help="number of scenes to find (default: 5)")
    where = search.add_mutually_exclusive_group()
    where.add_argument("--within", dest="where", action="store_const", const="within", help="only in the query's film")
    where.add_argument("--across", dest="where", action="store_const", const="across", help="only in other films")
    search.add_argument("--picture", type=Path, help="where to draw the scenes (default: DIR/search.png)")
    search.add_argument("--model", help="for --image, if the encoder has moved since the index was made")

    info = commands.add_parser("info", parents=[common], help="what an index holds")
    info.set_defaults(run=run_info)
    info.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    info.add_argument("--check", action="store_true", help="read everything and report what is wrong")

    app = commands.add_parser("app", parents=[common], help="a page to drop films on and to search")
    app.set_defaults(run=run_app)
    app.add_argument("indexes", nargs="*", type=Path, metavar="DIR", help="indexes that m2s embed wrote, to open")
    app.add_argument("--model", help=f"scene encoder for dropped films (default: the first index's, else {TINY_MODEL})")
    app.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other computers in (default: 127.0.0.1)",
    )
    app.add_argument("--port", type=int, default=7860, help="port to listen at; 0 takes a free one (default: 7860)")
    app.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest present)")
    app.add_argument(
        "--shots-per-scene",
        type=int,
        help="shots that a dropped film's scenes span (default: as in the first index, else 9)",
    )
    app.add_argument(
        "--example", type=Path, action="append", default=[], help="film to try by a click; repeatable (default: none)"
    )
    app.add_argument(
        "--probe", type=Path, help="folder that eval.probe --export saved: its labels become tags (default: none)"
    )
    app.add_argument("--max-upload", help='largest file to accept, e.g. "500mb" (default: any)')

    push = commands.add_parser("push", parents=[common], help="a model or a dataset to a repository of the Hub")
    push.set_defaults(run=run_push)
    push.add_argument("folder", type=Path, metavar="DIR", help="a model, a training's output, a dataset or an index")
    push.add_argument("repo_id", metavar="REPO_ID", help="USER/NAME; made when there is none")
    push.add_argument("--private", action="store_true", help="make the repository private")
    push.add_argument("--revision", metavar="BRANCH", help="branch to push to, made when there is none (default: main)")
    push.add_argument(
        "--with-keyframes",
        action="store_true",
        help="push keyframes too; they are pictures of films, so whoever publishes them needs the right to",
    )
    push.add_argument("--dry-run", action="store_true", help="only list the files and their sizes in bytes")

    export = commands.add_parser("export-model", parents=[common], help="an encoder to ONNX or torch.export")
    export.set_defaults(run=run_export_model)
    export.add_argument(
        "model", metavar="MODEL", help="scene encoder or CLIP checkpoint: a folder, a Hub id, ID@REVISION"
    )
    export.add_argument("output", type=Path, metavar="OUTPUT", help="folder; an earlier export in it is replaced")
    export.add_argument(
        "--formats",
        nargs="+",
        default=["onnx"],
        choices=["onnx", "int8", "pt2"],
        help="onnx: model.onnx; int8: model_int8.onnx, faster and less exact; pt2: model.pt2 of torch.export "
        "(default: onnx)",
    )
    export.add_argument(
        "--frames-per-scene", type=int, help="fix the number of frames in a scene; the file then reads no other"
    )
    export.add_argument(
        "--scenes-per-batch", type=int, help="fix the number of scenes in a batch; the file then reads no other"
    )
    return parser


def run_embed(options: argparse.Namespace) -> int:
    from .index_m2s import SceneSettings, embed_films, find_films
    from .pipeline_m2s import scene_windows
    from .shots_m2s import ShotSettings

    started = time.monotonic()
    return_large_blocks()
    scene_windows(1, options.shots_per_scene, options.stride)
    if options.workers < 1:
        raise UsageError(f"--workers {options.workers} must be at least 1")
    films = find_films(options.films)
    pipeline, revision = load_pipeline(options.model, options.device, options.dtype)
    if options.model == TINY_MODEL:
        print(f"encoder: {TINY_MODEL}, which ships with m2s; a larger one: --model openai/clip-vit-base-patch16")
    size = pipeline.model.config.image_size
    shot_settings = ShotSettings(
        detector=options.detector,
        threshold=options.threshold,
        min_shot_frames=options.min_shot_frames,
        keyframes_per_shot=options.keyframes_per_shot,
        short_side=max(224, size) if options.short_side is None else options.short_side,
    )
    scene_settings = SceneSettings(
        revision=revision,
        shots_per_scene=options.shots_per_scene,
        stride=options.stride or options.shots_per_scene,
        dtype=options.dtype,
    )
    with _Progress(len(films)) as progress:
        summary = embed_films(
            films,
            options.output,
            pipeline,
            shot_settings,
            scene_settings,
            num_workers=options.workers,
            allow_damaged=options.allow_damaged,
            report=progress.report,
        )
    for reason in summary.failed.values():
        print_error(reason)
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    films_now = f"{summary.num_films} film" + ("s" if summary.num_films != 1 else "")
    print(
        f"{options.output}: {summary.num_scenes} scenes of {films_now} "
        f"({summary.added} embedded now{failed}, {time.monotonic() - started:.0f} s)"
    )
    if summary.num_films:
        query = f"--film={quote(summary.ready[0])} --at 00:00:00" if summary.ready else "--image still.jpg"
        print(f"pictures: {options.output / 'contact_sheets'}\nnext: m2s search {quote(options.output)} {query}")
    return 1 if summary.failed else 0


def run_search(options: argparse.Namespace) -> int:
    from PIL import Image, ImageOps, UnidentifiedImageError

    from .figures_m2s import encode, parse_timecode
    from .search_m2s import SceneIndex
    from .storage_m2s import atomic_write, require_settings

    if (options.film is None) != (options.at is None):
        raise UsageError("--film and --at go together: m2s search DIR --film FILM --at 00:03:10")
    if options.image and options.where:
        raise UsageError("--within and --across need a query scene: --film FILM --at TIME")
    if options.top < 1:
        raise UsageError(f"--top {options.top} must be at least 1")
    seconds = parse_timecode(options.at or "0")
    index = SceneIndex(options.index)
    if options.image:
        try:
            image = ImageOps.exif_transpose(Image.open(options.image)).convert("RGB")
        except UnidentifiedImageError:
            raise UsageError(f"{options.image}: not an image") from None
        except OSError as error:
            raise UsageError(f"{options.image}: {error.strerror or error}") from None
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
    print(caption)
    for rank, scene in enumerate(results, 1):
        print(f"{rank:5d}   {scene.describe()}   distance {scene.distance:.2f}")
    picture = options.picture or options.index / "search.png"
    with atomic_write(picture) as file:
        file.write(encode(index.draw((caption, keyframes), results), "PNG"))
    print(f"picture: {picture}")
    return 0


def run_info(options: argparse.Namespace) -> int:
    from .figures_m2s import timecode
    from .storage_m2s import FilmDataset, StorageError

    names = [name for name in ("shots", "films", "scene_embeddings") if (options.index / name).is_dir()]
    if not names:
        raise StorageError(f"{options.index}: no index here; m2s embed makes one")
    problems = []
    for name in names:
        dataset = FilmDataset(options.index / name, name)
        record = dataset.record
        state = (
            f"{record['num_rows']} rows of {record['num_films']} films" if record.get("complete") else "not finished"
        )
        print(f"{name}: {state}")
        for key, value in record.get("settings", {}).items():
            print(f"    {key}: {value}")
        if "model" in record:
            print(f"    model: {record['model']}")
        if options.check:
            problems += dataset.check()
    for row in FilmDataset(options.index / "films", "films").read().to_pylist():
        size = f"{row['width']}×{row['height']}, {row['frame_rate']:.3f} fps"
        damage = f"   {row['damage']}" if row["damage"] else ""
        print(f"{row['movie_id']}   {timecode(row['duration_seconds'])}   {row['num_shots']} shots   {size}{damage}")
    for movie_id, reason in FilmDataset(options.index / "shots", "shots").record.get("failed", {}).items():
        print(f"{movie_id}   failed: {reason}")
    for problem in problems:
        print_error(problem)
    if options.check and not problems:
        print("checked: all there")
    return 1 if problems else 0


def run_app(options: argparse.Namespace) -> int:
    from .app_m2s import AppSettings, serve
    from .pipeline_m2s import scene_windows
    from .storage_m2s import FilmDataset

    return_large_blocks()
    if options.shots_per_scene is not None:
        scene_windows(1, options.shots_per_scene)
    model, dtype = options.model, "float32"
    if options.indexes:
        # No record, no index: the page says so when it opens it.
        record = FilmDataset(options.indexes[0] / "scene_embeddings", "scene_embeddings").record
        model, dtype = model or record.get("model"), record.get("settings", {}).get("dtype", dtype)
    pipeline, revision = load_pipeline(model or TINY_MODEL, options.device, dtype)
    settings = AppSettings(options.indexes, options.example, options.probe, options.shots_per_scene, options.max_upload)
    # The server repeats a signal that ended it. By itself SIGTERM would then end the process before films are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            pipeline,
            revision,
            settings,
            options.host,
            options.port,
            lambda address: print(f"{address}   (Ctrl-C ends)", flush=True),
        )
    return 0


def run_push(options: argparse.Namespace) -> int:
    from .push_m2s import collect, push

    upload = collect(options.folder, options.repo_id, options.with_keyframes)
    print(upload.listing())
    if options.dry_run:
        print("nothing was uploaded (--dry-run)")
    else:
        print(push(upload, options.repo_id, options.private, options.revision))
    return 0


def run_export_model(options: argparse.Namespace) -> int:
    from .export_m2s import ExportSettings, export_model

    settings = ExportSettings(options.formats, options.frames_per_scene, options.scenes_per_batch)
    for name, facts in export_model(options.model, options.output, settings)["files"].items():
        print(
            f"{options.output / name}: {facts['bytes']:,} bytes; largest difference from PyTorch "
            f"{facts['largest_difference']:.1e}, smallest cosine {facts['smallest_cosine']:.4f}"
        )
    return 0


def load_pipeline(model: str, device: str | None, dtype: str) -> tuple[Any, str]:
    """The scene-embedding pipeline of a model folder or Hub id, and the revision of its weights.

    Raises:
        UsageError: it cannot be loaded; the reason in one line.
    """
    from .pipeline_m2s import SceneEmbeddingPipeline

    try:
        encoder, image_processor, revision = load_encoder(model, dtype=dtype)
    except ModelError as error:
        raise UsageError(f"--{error}") from error
    return SceneEmbeddingPipeline(encoder, image_processor=image_processor, device=device), revision


def return_large_blocks() -> None:
    """Have glibc give freed blocks of 4 MiB and more back to the system.

    By itself it learns from the first freed activations to keep blocks of their size in a heap, which fragments and
    grows with every scene.
    """
    M_MMAP_THRESHOLD = -3
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 4 * 2**20)


def quote(text: Any) -> str:
    import shlex

    return shlex.quote(str(text))


class _Progress:
    """A bar over films: the first half of a film is finding its shots, the second embedding its scenes."""

    def __init__(self, num_films: int):
        from tqdm import tqdm

        layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=num_films, disable=None, bar_format=layout, leave=False)
        self.shares: dict[str, float] = {}

    def report(self, movie_id: str, stage: str, share: float) -> None:
        done = share / 2 + (stage == "scenes") / 2
        self.bar.set_postfix_str(f"{movie_id}: {stage}", refresh=False)
        self.bar.update(done - self.shares.get(movie_id, 0.0))
        self.shares[movie_id] = done

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()


if __name__ == "__main__":
    sys.exit(main())
