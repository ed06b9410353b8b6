"""Learn movie similarity from the features of films' shots (paper §3.1, supplement 1.1a).

    python -m train.train_mil train/configs/mil.yaml --features catalog/shot_features \\
        --similar catalog/similar_movies --sources co_watch --output runs/mil
    accelerate launch -m train.train_mil …                          several GPUs, the same pairs and windows

A run writes:

    runs/mil/
      model/            the network, for data_scripts.mine_scene_pairs and AutoModel.from_pretrained
      results.json      accuracy, AUC and average precision on held-out films, beside trivial baselines
      curves.png        loss and held-out scores over steps
      training_films.txt, held_out_films.txt
      log.jsonl, recipe.json, checkpoints/

The paper does not describe the following details (ours). Films are held out, not pairs, and a pair is measured if both
of its films are held out. The weights with the lowest held-out loss are kept. Training ends if this loss has not fallen
for `patience_steps`; it first stays at 0.69, then falls, then rises. Gradients are clipped to norm 1, because the
similarities of CLIP's features share such a large part that plain SGD at 0.1 can diverge in its first steps. For the
same reason, small catalogs need `--whiten --optimizer adamw --learning-rate 0.001` (eval/film_world_pairs.py measures
the effect). A film in several pairs of a batch is encoded once, with one draw of dropout.

If the command is killed and run again, it continues to the same weights.
"""

from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from data_scripts.ranks import ranks
from data_scripts.shot_features import ShotFeatures
from m2s.commands import run_command
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import default_values
from train.mil.finish import print_summary, save_results
from train.mil.loop import train
from train.mil.pairs import Material, SimilarFilms
from train.mil.recipe import MILData, MILRecipe
from train.runs import RunArguments, RunFolder


def main(argv: list[str] | None = None) -> None:
    def run(recipe: MILRecipe, data: MILData, arguments: RunArguments) -> None:
        with ranks() as state:
            results = train_mil(recipe, data, arguments)
            if state.is_main_process:
                print_summary(results, data, arguments.output)
                arguments.push()

    run_command("python -m train.train_mil", (MILRecipe, MILData, RunArguments), run, argv)


def train_mil(recipe: MILRecipe, data: MILData, arguments: RunArguments) -> dict[str, Any]:
    """Train, and save the best network as `OUTPUT/model` and the record as `OUTPUT/results.json`.

    Returns:
        The results; empty on all processes but the first.

    Raises:
        ValueError: the settings do not fit together; there are no pairs to train or measure on; the loss is not finite.
        StorageError: an input cannot be used; the output folder holds a run of another recipe, or is in use.
    """
    accelerator = Accelerator(mixed_precision="bf16" if recipe.bf16 else "no")
    with accelerator.main_process_first():
        features = ShotFeatures(data.features)
    guard = data.leak_guard()
    films = SimilarFilms.read(data.similar, features, data.sources, guard, data.allow_missing)
    material = Material.split(films, features, recipe, accelerator.device, data.resident)
    set_seed(recipe.seed)
    encoder = features.record["settings"]
    model = M2SMovieSimilarityModel(
        M2SMovieSimilarityConfig(feature_dim=features.dim, features=encoder, **recipe.sizes())
    )
    set_seed(recipe.seed, device_specific=True)
    facts = {"features": encoder, "films_and_pairs": films.digest(features)}
    settings, defaults = {**asdict(recipe), "data": facts}, default_values(recipe)
    run = RunFolder(arguments.output, settings, accelerator, arguments.log_with, arguments, defaults)
    with run.held():
        state = train(model, material, recipe, run, arguments)
        results = {}
        if accelerator.is_main_process:
            record = {"data": {**facts, "sources": data.sources or "all"}, "leak_guard": guard.record()}
            if license := features.record.get("license"):
                record["license"] = license
            results = save_results(model, material, state, recipe, record, run, arguments.push_to_hub)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results


if __name__ == "__main__":
    main()
