"""A training of movie similarity from its recipe to its results: the work of `train.train_mil`."""

from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from data_scripts.features.shot_features import ShotFeatures
from data_scripts.stages.inputs import finished, leak_guard_of
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from modeling_m2s.checksums_m2s import recorded_digest
from modeling_m2s.storage_m2s import default_values
from train.arguments import RunArguments
from train.mil.finish import save_results
from train.mil.loop import train
from train.mil.pairs import Material, SimilarFilms
from train.mil.recipe import MILData, MILRecipe
from train.runs import RunFolder


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
    films = SimilarFilms.read(data.similar, features, data.sources, data.allow_missing)
    material = Material.split(films, features, recipe, accelerator.device, data.resident)
    set_seed(recipe.seed)
    encoder = features.record["settings"]
    model = M2SMovieSimilarityModel(
        M2SMovieSimilarityConfig(feature_dim=features.dim, features=encoder, **recipe.sizes())
    )
    set_seed(recipe.seed, device_specific=True)
    shards = recorded_digest(features.record)
    facts = {"features": encoder, "films_and_pairs": films.digest(features), "feature_shards": shards}
    # A run of an earlier release does not say which features it had.
    settings, defaults = {**asdict(recipe), "data": facts}, {**default_values(recipe), "data.feature_shards": shards}
    run = RunFolder(arguments.output, settings, accelerator, arguments.log_with, arguments, defaults)
    with run.held():
        state = train(model, material, recipe, run, arguments)
        results = {}
        if accelerator.is_main_process:
            guard = leak_guard_of(finished(data.similar, "similar_movies"))
            record = {"data": {**facts, "sources": data.sources or "all"}, "leak_guard": guard}
            if license := features.record.get("license"):
                record["license"] = license
            results = save_results(model, material, state, recipe, record, run, arguments.push_to_hub)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results
