"""Features of every shot by a frozen image encoder, the paper's E_fixed [4.2]: `shots` → `shot_features`.

    python -m data_scripts.extract_features --shots catalog/shots --output catalog/shot_features \\
        --model openai/clip-vit-base-patch16
    accelerate launch --num_processes 8 -m data_scripts.extract_features … --dtype bfloat16        eight GPUs

The paper encodes one frame per shot with CLIP ViT-B/16. It leaves two choices open. Ours: the frame is the stored
keyframe nearest the shot's middle (ties: the earlier); the feature is CLIP's `image_embeds`, after the projection and
not normalized, because its scale (norms of 9 to 12) decides whether movie-similarity training learns at all. A shot
without a keyframe that decodes gets zeros. Numbers are stored as float16.

A second round (ours) mines the same pairs of films again, with a trained scene encoder as E_fixed, and trains another
encoder from the start. The scene encoder reads each shot as a scene of one frame, and the feature is `pooler_output`,
the vector that contrastive training has optimized:

    python -m data_scripts.extract_features --shots catalog/shots --output round2/shot_features \\
        --model runs/moco/model --vector pooler_output
    python -m data_scripts.mine_scene_pairs --features round2/shot_features --similar catalog/similar_movies \\
        --space whitened --output round2/scene_pairs
    python -m train.train_moco train/configs/moco.yaml --pairs round2/scene_pairs --shots catalog/shots \\
        --output runs/moco_round2

Worker processes decode ahead, also across films, while the model computes. A run that was killed continues with the
films that are missing or were replaced. The same settings on the same hardware give the same bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2s.commands import run_command
from m2s.shared import TINY_MODEL


@dataclass
class FeatureArguments:
    """Which shots, which encoder, how it computes."""

    shots: Path = field(metadata={"help": "folder of a shots dataset"})
    output: Path = field(metadata={"help": "folder of the shot_features dataset"})
    model: str = field(default=TINY_MODEL, metadata={"help": "CLIP checkpoint or scene encoder: a folder or a Hub id"})
    vector: Literal["image_embeds", "pooler_output"] = field(
        default="image_embeds",
        metadata={
            "help": "the feature. image_embeds: CLIP's projection; pooler_output: the class token before it, which "
            "contrast trains",
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "number format that the model computes in, by autocast"}
    )
    device: str | None = field(
        default=None, metadata={"help": "device: cpu, cuda, cuda:1; by default the fastest present"}
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "number of shots that are encoded at a time; by default 256 on a GPU, 16 on a CPU"},
    )
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that decode; default: 1 for a model on the CPU, else this process's share of cores"
        },
    )

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must not be negative")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.extract_features", FeatureArguments, run, argv)


def run(arguments: FeatureArguments) -> None:
    from data_scripts.features.extraction import extract_features
    from data_scripts.stages.ranks import ranks

    with ranks() as state:
        extract_features(arguments, state)


if __name__ == "__main__":
    main()
