"""`m2s scenes`: the story scenes of an index."""

import argparse
from pathlib import Path

from m2s.shared import load_pipeline, return_large_blocks

HELP = "whole scenes of the films of an index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    parser.add_argument("--film", help="film to list: its id, or a part of it (default: all films)")
    parser.add_argument("--model", help="new place of the index's encoder, if it has moved since the index was made")
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: the fastest present)")


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.figures_m2s import timecode
    from modeling_m2s.index_scenes_m2s import SceneFinder
    from modeling_m2s.pipeline_m2s import SceneEmbeddingPipeline
    from modeling_m2s.pretrained_m2s import pinned
    from modeling_m2s.search_m2s import SceneIndex
    from modeling_m2s.storage_m2s import require_settings

    return_large_blocks()
    finder = SceneFinder(options.index)
    films = [SceneIndex(options.index).find_film(options.film)] if options.film else list(finder.films)
    settings = finder.record["settings"]

    def load() -> SceneEmbeddingPipeline:
        model = options.model or pinned(finder.record["model"], settings["revision"])
        pipeline, revision = load_pipeline(model, options.device, settings["dtype"])
        require_settings(options.index, {"revision": settings["revision"]}, {"revision": revision})
        return pipeline

    if missing := finder.missing():
        print(f"reading {sum(film.num_rows for film in missing)} shots of new films, each by itself")
    scenes = finder.find(load)
    for movie_id in films:
        num_shots = finder.films[movie_id].num_rows
        print(f"{movie_id}   {num_shots} shots, {len(scenes[movie_id])} scenes   {finder.sheet_path(movie_id)}")
        for row in scenes[movie_id]:
            span = f"{timecode(row['start_seconds'], tenths=True)}-{timecode(row['end_seconds'], tenths=True)}"
            print(f"{row['scene']:5d}   {span}   shots {row['first_shot']}-{row['first_shot'] + row['num_shots'] - 1}")
    return 0
