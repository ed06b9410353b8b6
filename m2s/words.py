"""`m2s words`: prepares an index for search by words."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from m2s.endings import UsageError
from m2s.shared import load_pipeline, quote, return_large_blocks

if TYPE_CHECKING:
    from modeling_m2s.words_m2s import WordStore

HELP = "prepare an index to be asked in words"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="DIR", help="an index that m2s embed wrote")
    parser.add_argument(
        "--model",
        help="CLIP model of pictures and words: a folder, a Hub id or ID@REVISION (default: the one used before)",
    )
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: the fastest present)")


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.words_m2s import WordStore

    return_large_blocks()
    store = WordStore(options.index)
    model = options.model or store.model
    if model is None:
        raise UsageError(
            f"{options.index} has no words yet; name a CLIP model: "
            f"m2s words {quote(options.index)} --model openai/clip-vit-base-patch16"
        )
    added = update(store, model, options.device)
    print(f"{store.dataset.folder}: the shots of {len(store.films)} films, {added} read now")
    print(f'next: m2s search {quote(options.index)} --text "a bridge at night"')
    return 0


def update(store: "WordStore", model: str, device: str | None) -> int:
    """Bring the words of an index up to date with its films; returns how many films were read.

    Raises:
        UsageError: the model cannot be loaded, or has no text tower.
    """
    from tqdm import tqdm

    from modeling_m2s.pretrained_m2s import ModelError, load_text_tower

    try:
        load_text_tower(model)  # so that the search can be asked, without a network too
    except ModelError as error:
        raise UsageError(f"--{error}") from error
    pipeline, revision = load_pipeline(model, device, "float32")
    missing = {film.movie_id: film.num_rows for film in store.missing()}
    with tqdm(total=sum(missing.values()), unit=" shots", disable=None, leave=False) as progress:
        done: dict[str, float] = {}

        def report(movie_id: str, share: float) -> None:
            progress.set_postfix_str(movie_id, refresh=False)
            progress.update(round((share - done.get(movie_id, 0.0)) * missing[movie_id]))
            done[movie_id] = share

        return store.write(pipeline, revision, report)
