"""`m2s embed`: films to an index of scenes."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from m2s.endings import UsageError
from m2s.shared import TINY_MODEL, load_pipeline, print_error, quote, return_large_blocks

HELP = "films to an index of scenes"
WORKER_MODULES = ("modeling_m2s.shot_store_m2s",)  # as there, which takes seconds to load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("films", nargs="+", metavar="FILM_OR_FOLDER", help="video files, or folders of them")
    parser.add_argument(
        "--model", default=TINY_MODEL, help="scene encoder or CLIP checkpoint: a folder, a Hub id or ID@REVISION"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the index; an existing one grows")
    parser.add_argument(
        "--scenes",
        default="windows",
        choices=["windows", "story"],
        help="windows: equally many shots each, as in the paper; story: whole scenes of any length, found without "
        "training",
    )
    parser.add_argument(
        "--shots-per-scene",
        type=int,
        default=9,
        help="number of shots in a window; largest number of shots that are read jointly in a story scene",
    )
    parser.add_argument(
        "--stride", type=int, help="number of shots from one window's start to the next (default: no overlap)"
    )
    parser.add_argument(
        "--scene-vector",
        choices=["joint", "mean"],
        help="joint: the encoder reads a scene's shots together, as in the paper; mean: each shot by itself, "
        "and the vectors are averaged (default: as the index has it; in a new one, joint if the encoder was trained on "
        "scenes)",
    )
    parser.add_argument(
        "--detector", default="adaptive", help="shot detector: adaptive, content, hash, histogram or transnetv2"
    )
    parser.add_argument(
        "--threshold", type=float, help="score at which the detector cuts (default: the detector's own)"
    )
    parser.add_argument("--min-shot-frames", type=int, default=15, help="minimum length of a shot in frames")
    parser.add_argument(
        "--keyframes-per-shot",
        type=int,
        default=1,
        help="number of keyframes of each shot, which are stored and read by the model",
    )
    parser.add_argument(
        "--short-side", type=int, help="shorter side of stored keyframes in pixels (default: 224 or the model's size)"
    )
    parser.add_argument(
        "--any-keyframe",
        action="store_true",
        help="keep the frame at a keyframe's place even if it is black, white or faded out",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of films decoded at a time")
    parser.add_argument(
        "--device",
        help="where the model runs: cpu, cuda, cuda:1, mps (default: the fastest present); on cuda, each worker also "
        "loads the detector transnetv2 there",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="number format of the model's weights",
    )
    parser.add_argument(
        "--min-readable",
        type=float,
        default=0.9,
        help="share of a film that must be readable, 0 to 1; films with less are refused",
    )
    parser.add_argument(
        "--video-stream", type=int, help="number of each file's video stream, from 0 (default: the one a player shows)"
    )


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.pipeline_m2s import scene_windows
    from modeling_m2s.workers_m2s import warm_up

    started = time.monotonic()
    return_large_blocks()
    scene_windows(1, options.shots_per_scene, options.stride)
    if options.workers < 1:
        raise UsageError(f"--workers {options.workers} must be at least 1")
    if options.stride and options.scenes == "story":
        raise UsageError("--stride is for windows; leave it out with --scenes story")
    if not 0 <= options.min_readable <= 1:
        raise UsageError(f"--min-readable {options.min_readable} is a share: from 0 to 1")
    warm_up(WORKER_MODULES)  # before the imports below and the model, which also take seconds

    from modeling_m2s.find_films_m2s import find_films
    from modeling_m2s.index_m2s import embed_films
    from modeling_m2s.pretrained_m2s import model_source, pinned
    from modeling_m2s.scene_store_m2s import SceneSettings
    from modeling_m2s.shots_m2s import ShotSettings
    from modeling_m2s.storage_m2s import FilmDataset

    films = find_films(options.films)
    record = FilmDataset(options.output / "scene_embeddings", "scene_embeddings").record
    goes_on = record.get("model", "").partition("@")[0] == options.model  # then with the commit that it began with
    model = pinned(options.model, record["settings"]["revision"]) if goes_on else options.model
    pipeline, revision = load_pipeline(model, options.device, options.dtype)
    if goes_on:
        pipeline.model.config.name_or_path = model_source(record["model"])  # all scenes name the same model
    if options.model == TINY_MODEL:
        print(f"encoder: {TINY_MODEL}, which ships with m2s; a larger one: --model openai/clip-vit-base-patch16")
    size = pipeline.model.config.image_size
    shot_settings = ShotSettings(
        detector=options.detector,
        threshold=options.threshold,
        min_shot_frames=options.min_shot_frames,
        keyframes_per_shot=options.keyframes_per_shot,
        short_side=max(224, size) if options.short_side is None else options.short_side,
        video_stream=options.video_stream,
        any_keyframe=options.any_keyframe,
    )
    vector = pipeline.default_scene_vector
    if record:
        vector = record["settings"].get("scene_vector", "joint")
    scene_settings = SceneSettings(
        revision=revision,
        shots_per_scene=options.shots_per_scene,
        stride=options.stride or options.shots_per_scene,
        dtype=options.dtype,
        scenes=options.scenes,
        scene_vector=options.scene_vector or vector,
    )
    with _Progress(len(films)) as progress:
        summary = embed_films(
            films,
            options.output,
            pipeline,
            shot_settings,
            scene_settings,
            num_workers=options.workers,
            min_readable=options.min_readable,
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
    if summary.num_films and (options.output / "words").is_dir():
        summary.failed |= keep_words(options)
    if summary.num_films:
        query = f"--film={quote(summary.ready[0])} --at 00:00:00" if summary.ready else "--image still.jpg"
        print(f"pictures: {options.output / 'contact_sheets'}\nnext: m2s search {quote(options.output)} {query}")
    return 1 if summary.failed else 0


def keep_words(options: argparse.Namespace) -> dict[str, str]:
    """Bring the words of the index up to date, if it has any; returns the reason if this fails, as of a failed film."""
    from m2s.words import update
    from modeling_m2s.words_m2s import WordStore

    store = WordStore(options.output)
    if store.model and store.missing(parts=False):
        try:
            update(store, store.model, options.device)
        except UsageError as error:
            reason = f"the words of new films are missing: {error}; later: m2s words {quote(options.output)}"
            print_error(reason)
            return {"words": reason}
    return {}


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
