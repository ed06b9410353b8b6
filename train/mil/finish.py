"""The outputs of a training of movie similarity: the network, results, curves, a summary."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_m2s import M2SMovieSimilarityModel
from modeling_m2s.cards_m2s import list_names, write_training
from modeling_m2s.storage_m2s import atomic_write, write_json
from train.curves import draw_curves
from train.mil.pairs import Material
from train.mil.recipe import MILData, MILRecipe
from train.mil.scores import final_scores
from train.runs import RunFolder, command_line, made_with


def save_results(
    model: M2SMovieSimilarityModel,
    material: Material,
    state: Mapping[str, Any],
    recipe: MILRecipe,
    facts: Mapping[str, Any],
    run: RunFolder,
    repo_id: str | None = None,
) -> dict[str, Any]:
    """Write `model/` with its card, `curves.png`, the lists of films and `results.json` of a run.

    Args:
        state: the last state of the training loop.
        facts: additional facts for the results.
        repo_id: repository that the model will be pushed to, for its card.

    Returns:
        The results.
    """
    results = {
        "made_by": "train.train_mil",
        "recipe": asdict(recipe),
        **facts,
        "counts": material.counts(),
        "steps": state["step"],
        "best_step": state["best_step"],
        "training_minutes": round(state["seconds"] / 60, 2),
        **final_scores(model, material, recipe),
        "held_out_films": material.held_out.movie_ids,
        "made_with": made_with(run.accelerator),
        "command": command_line(),
    }
    model.save_pretrained(run.folder / "model")
    write_training(run.folder / "model", training_record(results), repo_id)
    draw_run(run, state["best_step"])
    for name, films in (("training_films", material.trained), ("held_out_films", material.held_out)):
        with atomic_write(run.folder / f"{name}.txt") as file:
            file.write("".join(f"{movie_id}\n" for movie_id in sorted(films.movie_ids)).encode())
    write_json(run.folder / "results.json", results)
    return results


def training_record(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results for the model's card: scores in the form of `eval.probe`, without film ids and paths."""
    left_out = ("command", "held_out_films", "held_out", "baselines")
    record = {name: value for name, value in results.items() if name not in left_out}
    record["leak_guard"] = list_names(results["leak_guard"])
    if results["held_out"]:
        figures = {name: {"mean": value} for name, value in results["held_out"].items()}
        record["evaluations"] = {
            "similar films": {
                "figure": "auc",
                "chosen_on": True,  # these films chose the step: the one with their lowest loss
                "pairs": results["counts"]["held_out_pairs"] * (1 + results["recipe"]["negatives"]),
                "films": results["counts"]["held_out_films"],
                "probes": {"network": {"figures": figures}},
                "trivial": results["baselines"],
            }
        }
    return record


def draw_run(run: RunFolder, best_step: int) -> None:
    panels = {
        "cross-entropy": {"training": run.curve("loss"), "held-out films": run.curve("held_out_loss")},
        "held-out films": {
            name.replace("_", " "): run.curve(f"held_out_{name}") for name in ("auc", "average_precision", "accuracy")
        },
    }
    panels = {title: curves for title, curves in panels.items() if any(curves.values())}
    with atomic_write(run.folder / "curves.png") as file:
        file.write(draw_curves(panels, best_step or None))


def print_summary(results: Mapping[str, Any], data: MILData, output: Path) -> None:
    counts = results["counts"]
    print(
        f"{output}/model: {results['steps']} steps on {counts['trained_pairs']} pairs of similar films; "
        f"{counts['pairs_across']} pairs with one film held out, {counts['films_without_features']} films "
        f"without features, {counts['films_left_out']} films left out: the catalog excludes or lacks them"
    )
    if results["held_out"]:
        print(f"step {results['best_step']} on pairs of {counts['held_out_films']} held-out films:")
        for name, found in {"network": results["held_out"], **results["baselines"]}.items():
            values = (f"{key} {found[key]:.3f}" for key in ("accuracy", "auc", "average_precision") if key in found)
            print(f"  {name:<24}{'  '.join(values)}")
    print(
        f"next: python -m data_scripts.mine_scene_pairs --features {data.features} --similar {data.similar} "
        f"--model {output}/model --output SCENE_PAIRS"
    )
