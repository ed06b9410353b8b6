"""Masked shot modeling over frozen features: a rival of scene encoders that needs no pairs of scenes.

    python -m eval.masked_shots --features shot_features --films training_films.txt --output masked_shot_features
    python -m eval.scene_retrieval --features masked_shot_features …      the mean over the shots of a scene

As in MediaFM, a transformer reads the features of a film's shots in order. Some shots are masked, and it learns to
predict their features; the loss is the cosine to the true ones. Its outputs are the new shot features, each informed by
the shots around it. This one is sized for a CPU, sees pictures only, and predicts whitened features, because the mean
of raw features would already be a good prediction of all. It learns from the films in `--films` only and is then
applied to all.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class MaskedShotsRecipe:
    """The network and its training."""

    width: int = field(default=256, metadata={"help": "width of the network, and number of axes of whitening"})
    layers: int = field(default=2, metadata={"help": "number of layers of the transformer"})
    heads: int = field(default=4, metadata={"help": "number of attention heads"})
    max_shots: int = field(default=64, metadata={"help": "number of shots that are read at a time"})
    masked: float = field(default=0.2, metadata={"help": "share of shots that are masked"})
    steps: int = field(default=300, metadata={"help": "number of steps"})
    batch_size: int = field(default=32, metadata={"help": "number of films in a step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    seed: int = field(default=0, metadata={"help": "seed of weights, films, windows and masks"})

    def __post_init__(self) -> None:
        """Raises: ValueError: a number out of its range, or a width that is not a multiple of heads."""
        for name in ("width", "layers", "heads", "max_shots", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.masked < 1:
            raise ValueError(f"masked is {self.masked}; it must be between 0 and 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclass
class MaskedShotsArguments:
    """The features to read, the films to learn from, and the folder for the new features."""

    features: Path = field(metadata={"help": "folder of a shot_features dataset"})
    films: Path = field(metadata={"help": "text file with the ids of the films to learn from, one a line"})
    output: Path = field(metadata={"help": "folder of the new shot_features dataset"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.masked_shots", (MaskedShotsRecipe, MaskedShotsArguments), run, argv)


def run(recipe: MaskedShotsRecipe, arguments: MaskedShotsArguments) -> None:
    from eval.film_worlds.masked_shot_model import masked_shots

    masked_shots(recipe, arguments)


if __name__ == "__main__":
    main()
