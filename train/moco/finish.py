"""The end of a contrastive training: the encoder with a minimal card, results, curves."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_m2s import M2SSceneProcessor
from modeling_m2s.pretrained_m2s import TINY_MODEL
from modeling_m2s.storage_m2s import atomic_write, write_json
from train.curves import draw_curves
from train.moco.loop import Training
from train.runs import RunFolder, command_line, made_with

CARD = """---
library_name: transformers
pipeline_tag: image-feature-extraction
{base_model}tags:
- video-feature-extraction
- movies2scenes
---

# A scene encoder trained by contrast on mined pairs of scenes

It starts from {model} and was trained with `train.train_moco` (objective `{objective}`, {steps} steps of {batch_size} \
pairs, {scene_pairs} pairs of scenes of {films} films). `training.json` has the recipe and everything that was measured.

```python
import modeling_m2s
from transformers import pipeline

embed = pipeline("scene-embedding", model="FOLDER_OR_HUB_ID")
```

`pooler_output` is the trained representation. `scene_embeds` is its projection by the original CLIP layer, which was
not trained: it can no longer be compared with words.
"""


def save_results(
    training: Training,
    state: Mapping[str, Any],
    counts: Mapping[str, int],
    facts: Mapping[str, Any],
    pair_record: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `model/`, `results.json` and `curves.png` of a run; returns the results."""
    recipe, run, output = training.recipe, training.run_folder, training.run_folder.folder
    log = run.read_log()
    measured = [line for line in log if "precision_at_1" in line]
    is_local = recipe.model == TINY_MODEL or os.path.isdir(recipe.model)
    name = Path(recipe.model).resolve().name if os.path.isdir(recipe.model) else recipe.model  # no path of this machine
    results = {
        "recipe": {**asdict(recipe), "model": name},
        "data": {**facts, "mined": dict(pair_record)},
        "counts": dict(counts),
        "steps": state["step"],
        "training_minutes": round(state["seconds"] / 60, 2),
        "frames": {"read": state["frames"], "unreadable": state["unreadable"]},
        "last_log": next((line for line in reversed(log) if "loss" in line), None),
        "retrieval": {"best_step": state["best_step"], "scenes": len(training.labeled.scenes), "measured": measured}
        if training.labeled
        else None,
        "made_with": made_with(training.accelerator),
    }
    model = output / "model"
    training.contrast.encoder.save_pretrained(model)
    M2SSceneProcessor(training.contrast.image_processor).save_pretrained(model)
    write_json(model / "training.json", results)
    card = CARD.format(
        base_model="" if is_local else f"base_model: {name}\n",
        model=name,
        objective=recipe.objective,
        steps=state["step"],
        batch_size=recipe.batch_size,
        **counts,
    )
    with atomic_write(model / "README.md") as file:
        file.write(card.encode())
    with atomic_write(output / "curves.png") as file:
        file.write(draw_curves(panels(run), state["best_step"] or None))
    write_json(output / "results.json", {**results, "command": command_line()})
    return results


def panels(run: RunFolder) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The curves to draw: title, name, points."""
    curve = run.curve
    found = {
        "contrastive loss": {"training": curve("loss")},
        "partner found": {"first": curve("top_1"), "among five": curve("top_5")},
        "spread of embeddings": {"queries": curve("spread")},
        "similarity to keys by their age": {
            name: curve(f"similarity_age_{age}") for age, name in enumerate(("newest", "newer", "older", "oldest"), 1)
        },
        "retrieval on labeled scenes": {f"precision at {k}": curve(f"precision_at_{k}") for k in (1, 5)},
        "learning rate": {"encoder": curve("learning_rate")},
        "gradient norm": {"all parameters": curve("gradient_norm")},
        "pairs a second": {"all processes": curve("pairs_per_second")},
    }
    return {title: curves for title, curves in found.items() if any(curves.values())}


def print_summary(results: Mapping[str, Any], output: Path) -> None:
    counts, last = results["counts"], results["last_log"]
    print(
        f"{output}/model: {results['steps']} steps on {counts['scene_pairs']} pairs of scenes of {counts['films']} "
        f"films in {results['training_minutes']:.1f} minutes"
    )
    print(
        f"last step: loss {last['loss']:.3f}, partner first {last['top_1']:.1%}, spread {last['spread']:.2f}; "
        f"{last['pairs_per_second']:.1f} pairs/s, {last['share_of_peak']:.0%} of the device's peak, "
        f"{last['data_wait']:.1%} waiting for data"
    )
    if frames := results["frames"]["unreadable"]:
        print(f"{frames} of {results['frames']['read']} frames did not decode")
    if results["retrieval"]:
        best = max(results["retrieval"]["measured"], key=lambda line: line["precision_at_1"])
        print(f"labeled scenes: precision at 1 {best['precision_at_1']:.3f} at step {best['step']}, which was kept")
    print(f"next: m2s embed FILM --model {output}/model --output index")
