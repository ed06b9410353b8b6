"""The end of a contrastive training: the encoder with its card, results, curves."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from modeling_m2s import M2SSceneProcessor
from modeling_m2s.cards_m2s import list_names, write_training
from modeling_m2s.pretrained_m2s import name_without_folders
from modeling_m2s.storage_m2s import FilmDataset, atomic_write, write_json
from train.curves import draw_curves
from train.moco.loop import Training
from train.runs import RunFolder, command_line, made_with

SPEED = ("pairs_per_second", "share_of_peak", "data_wait")


def save_results(
    training: Training,
    state: Mapping[str, Any],
    counts: Mapping[str, int],
    facts: Mapping[str, Any],
    pairs: FilmDataset,
) -> dict[str, Any]:
    """Write `model/` with its card, `results.json` and `curves.png` of a run; returns the results."""
    recipe, run, output = training.recipe, training.run_folder, training.run_folder.folder
    log = run.read_log()
    measured = [line for line in log if "precision_at_1" in line]
    pair_record, shot_record = pairs.record, training.batches.frames.record
    results = {
        "made_by": "train.train_moco",
        "recipe": {**asdict(recipe), "model": name_without_folders(recipe.model)},
        "data": {**facts, "mined": pair_record["settings"]},
        "counts": dict(counts),
        "scene_pairs_by_source": dict(sorted(Counter(pairs.read(["source"])["source"].to_pylist()).items())),
        **({"leak_guard": list_names(pair_record["leak_guard"])} if "leak_guard" in pair_record else {}),
        **({"license": shot_record["license"]} if shot_record.get("license") else {}),
        "preprocessing": {"shots": shot_record.get("settings", {})},
        "steps": state["step"],
        "training_minutes": round(state["seconds"] / 60, 2),
        "frames": {"read": state["frames"], "unreadable": state["unreadable"]},
        "speed": speed(log),
        "last_log": next((line for line in reversed(log) if "loss" in line), None),
        "retrieval": {"best_step": state["best_step"], "scenes": len(training.labeled.scenes), "measured": measured}
        if training.labeled
        else None,
        "evaluations": {
            "retrieval on labeled scenes": training.labeled.evaluation(training.contrast.encoder, recipe.bf16)
        }
        if training.labeled
        else {},
        "made_with": made_with(training.accelerator),
    }
    model = output / "model"
    training.contrast.encoder.config.trained_on_scenes = True
    training.contrast.encoder.save_pretrained(model)
    M2SSceneProcessor(training.contrast.image_processor).save_pretrained(model)
    write_training(model, results, training.arguments.push_to_hub)
    with atomic_write(output / "curves.png") as file:
        file.write(draw_curves(panels(run), state["best_step"] or None))
    write_json(output / "results.json", {**results, "command": command_line()})
    return results


def speed(log: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the lines of the log, except the first, whose steps include the warm-up."""
    lines = [line for line in log if "pairs_per_second" in line][1:]
    return {name: round(median(line[name] for line in lines), 4) for name in SPEED} if lines else {}


def panels(run: RunFolder) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The curves to draw: title → name → points."""
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
