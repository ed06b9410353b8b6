"""The recipe of a training of movie similarity, and its data."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(kw_only=True)
class NetworkRecipe:
    """Sizes of the network, by default the paper's; `M2SMovieSimilarityConfig` has the same names and checks them."""

    hidden_dim: int = field(default=512, metadata={"help": "width of the two linear layers of E_learnable"})
    activation: str = field(
        default="relu",
        metadata={"help": "activation between the two layers by transformers' name, or none; the paper names none"},
    )
    dropout: float = field(default=0.5, metadata={"help": "share of the activations that dropout sets to zero"})
    max_shots: int = field(default=1024, metadata={"help": "largest number of shots that are read from a film"})
    average_kernel: int = field(default=16, metadata={"help": "number of shots of a scene"})
    average_stride: int = field(
        default=8, metadata={"help": "number of shots from the start of one scene to that of the next"}
    )
    max_kernel: int = field(
        default=16, metadata={"help": "number of scenes of a neighborhood, of which the best match counts"}
    )
    max_stride: int = field(
        default=8, metadata={"help": "number of scenes from the start of one neighborhood to that of the next"}
    )

    def sizes(self) -> dict[str, Any]:
        """Arguments of `M2SMovieSimilarityConfig`."""
        return {each.name: getattr(self, each.name) for each in fields(NetworkRecipe)}


@dataclass(kw_only=True)
class MILRecipe(NetworkRecipe):
    """All settings that the weights depend on; `recipe.json` holds exactly these and the facts of the data.

    Defaults are the paper's (supplement 1.1a), except where a field's help says "ours".
    """

    held_out: float = field(
        default=0.1, metadata={"help": "share of the films to measure on; 0: measure nothing, train all epochs (ours)"}
    )
    negatives: int = field(default=1, metadata={"help": "number of dissimilar pairs for each similar one (ours)"})
    long_films: Literal["window", "uniform"] = field(
        default="window",
        metadata={
            "help": "shots that are read of a film longer than max_shots: a window of consecutive ones, or some spread "
            "evenly over the film (ours)"
        },
    )
    epochs: int = field(default=20, metadata={"help": "passes over all similar pairs"})
    batch_size: int = field(default=256, metadata={"help": "number of pairs in a step, over all processes"})
    optimizer: Literal["sgd", "adamw"] = field(
        default="sgd", metadata={"help": "optimizer: SGD without momentum, the paper's, or AdamW (ours)"}
    )
    learning_rate: float = field(default=0.1, metadata={"help": "learning rate, the same in all steps"})
    whiten: bool = field(
        default=False, metadata={"help": "train as if the features were whitened, for small catalogs (ours)"}
    )
    max_gradient_norm: float = field(
        default=1.0,
        metadata={
            "help": "largest norm of a gradient, to which longer ones are scaled down (ours); 0: any, as in the paper"
        },
    )
    patience_steps: int = field(
        default=1000,
        metadata={"help": "training ends after this many steps without a lower held-out loss (ours); 0: never"},
    )
    measure_steps: int = field(default=50, metadata={"help": "steps from one measurement to the next (ours)"})
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16 if the device can, else in float32"})
    seed: int = field(
        default=0, metadata={"help": "seed of the films held out, of the initial weights, the pairs and dropout"}
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: a value is out of its range, or options exclude each other."""
        for name in ("epochs", "batch_size", "negatives", "measure_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "max_gradient_norm", "patience_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number from 0 on")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be a share of the films, below 1")
        if self.held_out and 0 < self.patience_steps < self.measure_steps:
            raise ValueError(
                f"patience_steps is {self.patience_steps}, less than measure_steps, {self.measure_steps}: training "
                "would end before the loss is measured again; use at least measure_steps, or 0 for never"
            )
        if self.whiten and self.bf16:
            raise ValueError(
                "whiten and bf16: directions of low variance are lost in bfloat16; leave one of the two options out"
            )


@dataclass(kw_only=True)
class MILData:
    """Paths of the training data, the parts to use, and how they are read."""

    features: Path = field(metadata={"help": "folder of the shot_features dataset"})
    similar: Path = field(metadata={"help": "folder of the similar_movies dataset"})
    sources: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sources of similarity to learn from, such as co_watch or genre; by default all in the dataset"
        },
    )
    allow_missing: bool = field(default=False, metadata={"help": "leave out similar films without features"})
    resident: bool = field(default=False, metadata={"help": "hold the features of all films in the device's memory"})
