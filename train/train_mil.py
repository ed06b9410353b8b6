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
same reason, small catalogs need `--whiten --optimizer adamw --learning-rate 0.001` (the recipe of film worlds has
figures). A film in several pairs of a batch is encoded once, with one draw of dropout. Films that the similar films
were not drawn from, because the catalog excludes them from training or lacks them, take part in nothing.

If the command is killed and run again, it continues to the same weights.
"""

from m2s.commands import run_command
from train.arguments import RunArguments
from train.mil.recipe import MILData, MILRecipe


def main(argv: list[str] | None = None) -> None:
    run_command("python -m train.train_mil", (MILRecipe, MILData, RunArguments), run, argv)


def run(recipe: MILRecipe, data: MILData, arguments: RunArguments) -> None:
    from data_scripts.stages.ranks import ranks
    from train.mil.finish import print_summary
    from train.mil.training import train_mil

    with ranks() as state:
        results = train_mil(recipe, data, arguments)
        if state.is_main_process:
            print_summary(results, data, arguments.output)
            arguments.push()


if __name__ == "__main__":
    main()
