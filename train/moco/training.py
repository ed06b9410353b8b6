"""A contrastive training from its recipe to its results: the work of `train.train_moco`."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.inputs import finished
from modeling_m2s import M2SSceneModel
from modeling_m2s.checksums_m2s import recorded_digest
from modeling_m2s.pretrained_m2s import load_encoder, name_without_folders
from modeling_m2s.storage_m2s import default_values
from train.arguments import RunArguments
from train.moco.finish import save_results
from train.moco.loop import Training
from train.moco.model import SceneContrast
from train.moco.pairs import BatchPlan, PairBatches, ScenePairs
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes
from train.runs import RunFolder


def train_moco(recipe: MoCoRecipe, data: MoCoData, arguments: RunArguments) -> dict[str, Any]:
    """Train, and save the encoder as `OUTPUT/model` and the record as `OUTPUT/results.json`.

    Returns:
        The results; empty on all processes but the first.

    Raises:
        ValueError: settings or data do not fit together; the loss is not finite; the embeddings collapsed.
        StorageError: an input cannot be used; the output folder holds a run of another recipe, or is in use.
    """
    accelerator = Accelerator(mixed_precision="no")  # the loop uses autocast itself, so that losses stay in float32
    set_seed(recipe.seed)
    encoder, image_processor, revision = load_encoder(recipe.model, recipe.position_interpolation)
    if not isinstance(encoder, M2SSceneModel):
        raise ValueError(f"model {recipe.model} is an ensemble; train each of its members, then concatenate them")
    encoder.train()
    with accelerator.main_process_first():
        frames = SceneFrames(data.shots, image_processor, recipe.frames_per_shot)
    labeled = LabeledScenes.read(data.labels, frames, data.num_workers) if data.labels else None
    pairs = ScenePairs.read(data.pairs, frames, labeled.movie_ids if labeled else ())
    if recipe.batch_size % (recipe.accumulation * accelerator.num_processes):
        raise ValueError(
            f"batch_size {recipe.batch_size} is not a multiple of accumulation {recipe.accumulation} times the "
            f"{accelerator.num_processes} processes"
        )
    warn_of_large_queue(recipe, pairs, accelerator)
    contrast = SceneContrast(encoder, image_processor, recipe)
    plan = BatchPlan(pairs.num_shots_P, recipe.batch_size, recipe.seed)
    patches = (encoder.config.vision_config.image_size // encoder.config.vision_config.patch_size) ** 2
    share = (accelerator.process_index, accelerator.num_processes)
    batches = PairBatches(pairs, frames, plan, recipe, share, patches)
    shards = recorded_digest(frames.record)
    facts = {
        "model_revision": revision,
        "pairs": pairs.digest(),
        "shots": digest(json.dumps([frames.record.get("settings"), frames.num_shots], sort_keys=True).encode()),
        "shot_shards": shards,
        "labels": digest(data.labels.read_bytes()) if data.labels else None,
    }
    settings = {**asdict(recipe), "model": name_without_folders(recipe.model), "data": facts}
    # A run of an earlier release does not say which keyframes it had.
    defaults = {**default_values(recipe), "data.shot_shards": shards}
    run = RunFolder(arguments.output, settings, accelerator, arguments.log_with, arguments, defaults)
    with run.held():
        training = Training(contrast, batches, recipe, data, run, arguments, labeled)
        state = training.run()
        results = {}
        if accelerator.is_main_process:
            counts = {**pairs.counts, "films": len(pairs.movie_ids)}
            results = save_results(training, state, counts, facts, finished(data.pairs, "scene_pairs"))
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def warn_of_large_queue(recipe: MoCoRecipe, pairs: ScenePairs, accelerator: Accelerator) -> None:
    """Warn if the queue holds more than half of the scenes without masking: positives would also be negatives."""
    scenes = 2 * len(pairs)
    if recipe.objective == "momentum" and recipe.queue_size > scenes / 2 and recipe.mask != "similar":
        accelerator.print(
            f"queue_size {recipe.queue_size} is more than half of the {scenes} scenes: the queue will hold the "
            "positives themselves. Use a smaller queue, or --mask similar"
        )
