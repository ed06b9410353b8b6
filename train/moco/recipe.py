"""The recipe of a contrastive training, and its data."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args, get_origin

Objective = Literal["momentum", "in_batch"]


@dataclass(kw_only=True)
class MoCoRecipe:
    """All settings that the weights depend on; `recipe.json` holds exactly these and the facts of the data.

    Defaults are the paper's (supplement 1.1b), except where a field's help says "ours".
    """

    model: str = field(
        default="openai/clip-vit-base-patch16",
        metadata={"help": "encoder that training starts from: a CLIP checkpoint or scene encoder, a folder or Hub id"},
    )
    position_interpolation: Literal["grid", "mosaic", "sequence", "repeat"] | None = field(
        default=None,
        metadata={
            "help": "how position embeddings are interpolated for several frames; by default the model's own way"
        },
    )
    objective: Objective = field(
        default="momentum",
        metadata={"help": "momentum: queue and key encoder, the paper's; in_batch: gradient through both scenes, ours"},
    )
    temperature: float = field(default=0.07, metadata={"help": "temperature that divides the similarities"})
    symmetric: bool = field(
        default=False, metadata={"help": "momentum objective: each scene of a pair is query and key once (ours)"}
    )
    queue_size: int = field(default=65536, metadata={"help": "momentum objective: number of keys in the queue"})
    momentum: float = field(
        default=0.999, metadata={"help": "momentum of the key encoder: share of its weights that it keeps in each step"}
    )
    momentum_schedule: Literal["constant", "cosine"] = field(
        default="constant", metadata={"help": "cosine: the momentum rises to 1 over the training (ours)"}
    )
    mask: Literal["none", "own", "similar"] = field(
        default="none",
        metadata={
            "help": "negatives that are left out: those of the query's own film, or also those of similar films (ours)"
        },
    )
    whiten: bool = field(
        default=False,
        metadata={"help": "whiten the embeddings before the linear head, by their statistics before training (ours)"},
    )
    batch_norm: bool = field(
        default=False,
        metadata={
            "help": "normalize the embeddings over the batch, or each accumulated part, before the linear head (ours)"
        },
    )

    shots_per_scene: int = field(
        default=9,
        metadata={
            "help": "number of shots read from each mined scene; if it has more, some are drawn at random, in order"
        },
    )
    frames_per_shot: int = field(default=1, metadata={"help": "number of keyframes that are read from each shot"})
    patch_dropout: float = field(
        default=0.0, metadata={"help": "share of the patches of each frame that is left out (ours)"}
    )
    augment: bool = field(
        default=False,
        metadata={"help": "crop, mirror and recolor scenes at random, all frames of a scene alike (ours)"},
    )
    frozen_layers: int = field(
        default=0, metadata={"help": "number of lowest layers that are frozen, with the patch embedding (ours)"}
    )
    freeze_patch_embedding: bool = field(
        default=False, metadata={"help": "freeze the patch embedding, as MoCo v3 does (ours)"}
    )

    epochs: int = field(default=20, metadata={"help": "passes over all pairs"})
    max_steps: int | None = field(
        default=None, metadata={"help": "largest number of steps; training ends earlier if the epochs are over"}
    )
    batch_size: int = field(default=128, metadata={"help": "number of pairs in a step, over all processes"})
    accumulation: int = field(
        default=1,
        metadata={"help": "number of parts in which a step's batch is computed; in_batch negatives stay within a part"},
    )
    learning_rate: float = field(default=5e-6, metadata={"help": "peak learning rate of the encoder (Adam)"})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "peak learning rate of the linear head (ours); by default the encoder's"}
    )
    weight_decay: float = field(default=1e-8, metadata={"help": "weight decay of Adam"})
    warmup_share: float = field(default=0.25, metadata={"help": "share of the steps in which the learning rate rises"})
    schedule: Literal["cosine", "constant"] = field(
        default="cosine", metadata={"help": "schedule of the learning rate after the warm-up; the paper does not say"}
    )
    measure_steps: int = field(
        default=500,
        metadata={"help": "with --labels: steps from one retrieval measurement to the next; the best weights are kept"},
    )
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16 if the device can, else in float32"})
    seed: int = field(default=0, metadata={"help": "seed of the head's first weights, batches, patches and crops"})

    def __post_init__(self) -> None:
        """Raises: ValueError: a value is out of its range, or options exclude each other."""
        for field_ in fields(self):
            value, kinds = getattr(self, field_.name), (field_.type, *get_args(field_.type))
            choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and value is not None and value not in choices:
                raise ValueError(f"{field_.name} is {value!r}; it must be one of {', '.join(choices)}")
            if type(value) is int and field_.name not in ("seed", "frozen_layers") and value < 1:
                raise ValueError(f"{field_.name} is {value}; it must be at least 1")
            if type(value) in (int, float) and not 0 <= value < math.inf and field_.name != "seed":
                raise ValueError(f"{field_.name} is {value}; it must be a number from 0 on")
        for name in ("momentum", "patch_dropout", "warmup_share"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a share, from 0 to below 1")
        if self.temperature == 0:
            raise ValueError("temperature must be above 0")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.objective == "in_batch":
            if self.symmetric:
                raise ValueError("symmetric is an option of the momentum objective; in_batch is symmetric already")
            # queue_size is not refused: --objective in_batch may be added to a recipe that sets it (moco_one_gpu.yaml).
            for name in ("momentum", "momentum_schedule"):
                if (value := getattr(self, name)) != getattr(type(self), name):
                    raise ValueError(f"{name} {value} is an option of the momentum objective; in_batch has no keys")


@dataclass(kw_only=True)
class MoCoData:
    """Paths of the training data, and how they are read. These settings change at most the weights' last bits.

    Digests of the pairs, the shots and the labels are kept with the recipe.
    """

    pairs: Path = field(metadata={"help": "folder of the scene_pairs dataset"})
    shots: str = field(
        metadata={"help": "folder of the shots dataset, or its URL in an object store, from which scenes are streamed"}
    )
    labels: Path | None = field(
        default=None,
        metadata={
            "help": "CSV with columns movie_id, first_shot, num_shots, label: scenes to measure retrieval on; "
            "their films are not trained on"
        },
    )
    max_unreadable: float = field(
        default=0.01, metadata={"help": "training stops when a larger share of the frames cannot be decoded"}
    )
    num_workers: int | None = field(
        default=None,
        metadata={"help": "processes that decode frames; default: 1 on a CPU, else this process's share of the cores"},
    )
    compile: bool = field(default=False, metadata={"help": "compile the encoders with torch.compile"})

    def __post_init__(self) -> None:
        """Raises: ValueError: a value is out of its range."""
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"max_unreadable is {self.max_unreadable}; it must be a share, from 0 to 1")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; it must not be negative")
