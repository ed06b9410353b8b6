"""`m2s app`: a page to drop films on and to search."""

import argparse
import contextlib
import signal
from pathlib import Path

from m2s.shared import TINY_MODEL, load_pipeline, return_large_blocks

HELP = "a page to drop films on and to search"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("indexes", nargs="*", type=Path, metavar="DIR", help="indexes to open, which m2s embed wrote")
    parser.add_argument(
        "--model", help=f"scene encoder for dropped films (default: the first index's, else {TINY_MODEL})"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other computers in (default: 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen at; 0 takes a free one (default: 7860)")
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: the fastest present)")
    parser.add_argument(
        "--shots-per-scene",
        type=int,
        help="number of shots in each scene of a dropped film (default: as in the first index, else 9)",
    )
    parser.add_argument(
        "--example",
        type=Path,
        action="append",
        default=[],
        help="example film that visitors can try by a click; repeatable (default: none)",
    )
    parser.add_argument(
        "--probe",
        type=Path,
        help="folder that eval.probe --export saved: its labels become tags; indexes then need --scene-vector joint "
        "(default: none)",
    )
    parser.add_argument("--max-upload", help='largest file to accept, e.g. "500mb" (default: any)')


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.app_m2s import AppSettings, serve
    from modeling_m2s.pipeline_m2s import scene_windows
    from modeling_m2s.pretrained_m2s import pinned
    from modeling_m2s.storage_m2s import FilmDataset

    return_large_blocks()
    if options.shots_per_scene is not None:
        scene_windows(1, options.shots_per_scene)
    model, dtype = options.model, "float32"
    if options.indexes:
        # A folder without a record is no index; FilmPage reports that when it opens the folder.
        record = FilmDataset(options.indexes[0] / "scene_embeddings", "scene_embeddings").record
        if record.get("complete"):
            model = model or pinned(record["model"], record["settings"]["revision"])
            dtype = record["settings"]["dtype"]
    pipeline, revision = load_pipeline(model or TINY_MODEL, options.device, dtype)
    settings = AppSettings(options.indexes, options.example, options.probe, options.shots_per_scene, options.max_upload)
    # uvicorn repeats the signal that ended it. SIGTERM's default action would then end the process before films are
    # deleted.
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
