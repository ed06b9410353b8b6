"""`m2s info`: what an index holds."""

import argparse
from pathlib import Path

from m2s.shared import print_error

HELP = "what an index holds"
NAMES = ("shots", "films", "scene_embeddings", "shot_features", "scenes", "words")
KINDS = {"words": "shot_features"}  # kinds of datasets whose folder has another name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    parser.add_argument("--check", action="store_true", help="read everything and report what is wrong")


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.figures_m2s import timecode
    from modeling_m2s.storage_m2s import FilmDataset, StorageError

    names = [name for name in NAMES if (options.index / name).is_dir()]
    if not names:
        raise StorageError(f"{options.index}: no index here; m2s embed makes one")
    problems = []
    for name in names:
        dataset = FilmDataset(options.index / name, KINDS.get(name, name))
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
        moved = f"   blank keyframes passed over: {row['moved_keyframes']}" if row["moved_keyframes"] else ""
        shots = f"{row['num_shots']} shots"
        print(f"{row['movie_id']}   {timecode(row['duration_seconds'])}   {shots}   {size}{damage}{moved}")
    for movie_id, reason in FilmDataset(options.index / "shots", "shots").record.get("failed", {}).items():
        print(f"{movie_id}   failed: {reason}")
    for problem in problems:
        print_error(problem)
    if options.check and not problems:
        print("checked: all there")
    return 1 if problems else 0
