"""The recipe of a distillation, and the paths of its data."""

from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class DistillationRecipe:
    """All settings that the student's weights depend on; `recipe.json` holds these and the facts of the data."""

    frame_interval: float = field(default=2.0, metadata={"help": "seconds from one frame of a video to the next"})
    crops_per_image: int = field(
        default=8, metadata={"help": "number of random crops of each image, which the teacher labels"}
    )
    held_out_every: int = field(default=20, metadata={"help": "one of this many images is held out for measuring"})
    test_part: str | None = field(
        default=None,
        metadata={
            "help": "images that are never used, as FOLDER/EVERY: miniplaces/3 names the images in a folder miniplaces "
            "whose number divides by 3"
        },
    )
    leave_out: list[str] = field(
        default_factory=list,
        metadata={"help": "groups (as manifest.tsv names them) or folders of images that are not used"},
    )
    seed: int = field(default=0, metadata={"help": "seed of the crops, the initial weights and the order of crops"})

    image_size: int = field(default=112, metadata={"help": "height and width of the student's images in pixels"})
    hidden_size: int = field(default=256, metadata={"help": "width of the student"})
    num_hidden_layers: int = field(default=5, metadata={"help": "number of layers of the student"})
    intermediate_size: int = field(default=1024, metadata={"help": "width of the student's MLPs"})
    projection_dim: int = field(default=512, metadata={"help": "width of the embeddings; must be the teacher's"})
    mirror: bool = field(
        default=False, metadata={"help": "in training, mirror half of the crops, without labeling them again"}
    )
    compress: bool = field(
        default=True, metadata={"help": "start from the teacher, compressed, instead of random weights"}
    )
    calibration_crops: int = field(default=3000, metadata={"help": "number of crops that the teacher is compressed on"})

    epochs: int = field(default=20, metadata={"help": "passes over all crops"})
    batch_size: int = field(default=128, metadata={"help": "number of crops in a step, over all processes"})
    muon_learning_rate: float = field(
        default=6e-4, metadata={"help": "peak learning rate of the layers' matrices, with Muon"}
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "peak learning rate of all other weights, with AdamW"})
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of both optimizers"})
    warmup_share: float = field(default=0.05, metadata={"help": "share of the steps in which the learning rates rise"})
    cosine_weight: float = field(
        default=1.0, metadata={"help": "weight of the loss 1 - cosine to the teacher's embedding"}
    )
    norm_weight: float = field(
        default=1.0, metadata={"help": "weight of the squared relative error of the embedding's length"}
    )
    relation_weight: float = field(
        default=1.0, metadata={"help": "weight of the difference in whitened similarities within the batch"}
    )
    relation_temperature: float = field(
        default=0.1, metadata={"help": "temperature that divides the similarities within the batch"}
    )
    whitening_shrinkage: float = field(
        default=0.1,
        metadata={"help": "share of the mean variance that is added to the variance of each axis before whitening"},
    )
    whitened_weight: float = field(
        default=4.0, metadata={"help": "weight of the loss 1 - cosine to the teacher's embedding after whitening"}
    )
    token_weight: float = field(default=1.0, metadata={"help": "weight of the squared error of the tokens"})
    bf16: bool = field(
        default=True,
        metadata={"help": "compute the student in bfloat16 if the device can, else in float32"},
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: a number is below 1, or `test_part` has another form than FOLDER/EVERY."""
        from train.distillation.sources import ImageFilter

        ImageFilter(self.test_part)
        for name, value in asdict(self).items():
            if type(value) is int and name != "seed" and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass(kw_only=True)
class DistillationData:
    """Paths of the teacher and the images."""

    teacher: str = field(metadata={"help": "CLIP checkpoint to distill: a folder or a Hub id"})
    images: list[str] = field(metadata={"help": "folders of images"})
    videos: list[str] = field(default_factory=list, metadata={"help": "video files, whose frames are further images"})
    cache: Path | None = field(
        default=None, metadata={"help": "folder for frames and the teacher's labels; by default OUTPUT/cache"}
    )
