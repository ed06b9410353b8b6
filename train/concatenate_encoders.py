"""Combine scene encoders trained with several sources of similarity: their vectors are concatenated (paper §4.3.1).

    python -m train.concatenate_encoders --encoders runs/genre runs/synopsis --names genre synopsis \\
        --output runs/genre_synopsis

The paper's genre+synopsis (table 3) is such a model. The output loads like a single scene encoder: `m2s embed --model
runs/genre_synopsis`, `pipeline("scene-embedding", …)`. Embedding takes the time of all encoders together.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

from m2s.commands import run_command

# Names of classes do not change how a frame is prepared.
NOT_SETTINGS = {"image_processor_type", "processor_class", "feature_extractor_type"}


@dataclass
class ConcatenateArguments:
    """The encoders, their names and the output."""

    encoders: list[str] = field(metadata={"help": "scene encoders in order: folders of runs or models, or Hub ids"})
    names: list[str] = field(metadata={"help": "name of each encoder, such as its source of similarity"})
    output: Path = field(metadata={"help": "folder of the new encoder, which does not exist yet"})
    normalize: bool = field(
        default=False, metadata={"help": "divide each encoder's vector by its norm first (ours; the paper does not)"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m train.concatenate_encoders", ConcatenateArguments, concatenate_encoders, argv)


def concatenate_encoders(arguments: ConcatenateArguments) -> None:
    """Load the encoders, and save them as one with the image processor that they share.

    Raises:
        ModelError: an encoder cannot be loaded.
        ValueError: the output folder is not empty; an encoder is an ensemble; encoders prepare frames differently.
    """
    from modeling_m2s import M2SSceneEnsembleModel, M2SSceneModel, M2SSceneProcessor
    from modeling_m2s.cards_m2s import write_training
    from modeling_m2s.pretrained_m2s import load_encoder, name_without_folders

    if arguments.output.exists() and any(arguments.output.iterdir()):
        raise ValueError(f"output {arguments.output} is not empty; name a new folder")
    encoders, image_processors, revisions = zip(*map(load_encoder, map(model_folder, arguments.encoders)), strict=True)
    for name, encoder in zip(arguments.encoders, encoders, strict=True):
        if not isinstance(encoder, M2SSceneModel):
            raise ValueError(f"{name} is an ensemble; name its members instead")
    check_same_frames(arguments.encoders, image_processors)
    ensemble = M2SSceneEnsembleModel.from_encoders(encoders, arguments.names, arguments.normalize)
    ensemble.save_pretrained(arguments.output)
    M2SSceneProcessor(image_processors[0]).save_pretrained(arguments.output)
    settings = {"normalize": arguments.normalize, **dict(zip(arguments.names, revisions, strict=True))}
    members = [name_without_folders(name) for name in arguments.encoders]
    write_training(arguments.output, {"made_by": "train.concatenate_encoders", "members": members, "recipe": settings})
    print(f"{arguments.output}: {' + '.join(arguments.names)}, vectors of {ensemble.config.hidden_size} numbers")


def model_folder(name: str) -> str:
    """The encoder in a training run's folder; any other folder or Hub id is returned unchanged."""
    of_a_run = Path(name, "model")
    return str(of_a_run) if (of_a_run / "config.json").is_file() else name


def check_same_frames(names: Sequence[str], image_processors: Sequence["BaseImageProcessor"]) -> None:
    """Raise a ValueError with both values if two image processors would prepare a frame differently."""
    first, *others = [json.loads(processor.to_json_string()) for processor in image_processors]
    for name, settings in zip(names[1:], others, strict=True):
        keys = sorted((first.keys() | settings.keys()) - NOT_SETTINGS)
        if different := [key for key in keys if first.get(key) != settings.get(key)]:
            values = "; ".join(f"{key} is {first.get(key)} and {settings.get(key)}" for key in different)
            raise ValueError(f"{names[0]} and {name} prepare frames differently ({values}); train them on the same")


if __name__ == "__main__":
    main()
