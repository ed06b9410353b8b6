"""Train the scene encoder by contrast on mined pairs of scenes (paper §3.2.2, supplement 1.1b).

    python -m train.train_moco train/configs/moco_film_world.yaml --pairs catalog/scene_pairs --shots catalog/shots \\
        --model m2s-clip-tiny --output runs/moco                                       two cores, minutes
    python -m train.train_moco train/configs/moco_one_gpu.yaml --pairs … --shots … --output runs/moco         one GPU
    accelerate launch -m train.train_moco train/configs/moco.yaml --pairs … --shots … --output runs/moco      several

A run writes:

    runs/moco/
      model/            the scene encoder with its processor: M2SSceneModel.from_pretrained("runs/moco/model")
      results.json      counts, speed, retrieval on labeled scenes, device and versions
      curves.png        loss, accuracy of the contrast, spread, similarity by the keys' age, speed
      log.jsonl, recipe.json, checkpoints/

The encoder reads nine shots at once and is the query encoder without the last linear layer [3.2.2]. Defaults are the
paper's. `--help` marks our own options with "ours"; they are off by default. Short runs on small catalogs need them,
because there the paper's objective collapses: queries distinguish old keys by their age. If the command is killed and
run again, it continues to the same weights (CPU, float32). With another number of processes, the order of the data
stays the same.

The parameters are float32 because bfloat16 would lose most updates at the paper's learning rate.
"""

from m2s.commands import run_command
from train.arguments import RunArguments
from train.moco.recipe import MoCoData, MoCoRecipe


def main(argv: list[str] | None = None) -> None:
    run_command("python -m train.train_moco", (MoCoRecipe, MoCoData, RunArguments), run, argv)


def run(recipe: MoCoRecipe, data: MoCoData, arguments: RunArguments) -> None:
    from data_scripts.stages.ranks import ranks
    from train.moco.finish import print_summary
    from train.moco.training import train_moco

    with ranks() as state:
        results = train_moco(recipe, data, arguments)
        if state.is_main_process:
            print_summary(results, arguments.output)
            arguments.push()


if __name__ == "__main__":
    main()
