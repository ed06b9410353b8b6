"""Distill the image tower of a CLIP into a small one with embeddings in the same space.

    python -m train.distill_clip train/configs/m2s_clip_tiny.yaml --teacher CLIP --output runs/m2s_clip_tiny

The teacher labels random crops once; labels are stored in files and read in every epoch. If the command is killed and
run again, it goes on where it was. `accelerate launch -m train.distill_clip …` takes the same steps on several GPUs.

The student is a plain `CLIPVisionModelWithProjection`. It starts as the teacher, compressed in closed form
(`train/distillation/compress.py`), and learns on exactly the crops that the teacher saw. The losses in
`train/distillation/losses.py` compare direction and length of the embedding, similarities within the batch, and the
tokens that the teacher has for images of the student's size.
"""

import os

from m2s.commands import run_command
from train.arguments import RunArguments
from train.distillation.recipe import DistillationData, DistillationRecipe


def main(argv: list[str] | None = None) -> None:
    kinds = (DistillationRecipe, DistillationData, RunArguments)
    run_command("python -m train.distill_clip", kinds, run, argv)


def run(recipe: DistillationRecipe, data: DistillationData, arguments: RunArguments) -> None:
    import torch

    from data_scripts.stages.ranks import ranks
    from train.distillation.training import distill, print_summary

    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # float64 is needed, which Apple GPUs lack
    with ranks() as state:
        results = distill(recipe, data, arguments)
        if state.is_main_process:
            print_summary(results, arguments.output)
            arguments.push()


if __name__ == "__main__":
    main()
