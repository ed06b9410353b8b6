"""Embed the labeled scenes of a task with any encoder: labels and media → a `scene_embeddings` dataset.

    python -m eval.embed_scenes --task lvu --labels lvu_1.0 --shots lvu/shots --model runs/moco/model --output runs/lvu
    python -m eval.embed_scenes --task moderation --labels clips.csv --videos clips --output runs/moderation
    python -m eval.embed_scenes --task photographs --labels scene15 --pictures scene15 --output runs/scene15
    python -m eval.embed_scenes --scenes places.csv --shots catalog/shots --output runs/places   without labels
    accelerate launch --num_processes 8 -m eval.embed_scenes … --dtype bfloat16               eight GPUs

Media are shots (`data_scripts.detect_shots` makes them from videos or MovieNet's keyframes), video files, read at
evenly spaced moments, or pictures that stand for shots. A scene is read as nine shots evenly spaced over it, or as all
its shots if there are fewer. `--read windows` reads all its shots, nine at a time, and averages the windows' vectors,
weighted by their numbers of shots.

Encoders (`eval/embeddings/encoders.py`) are ours and the baselines:

    --encoder scene --model runs/moco/model                   all frames in one attention (default)
    --encoder frames --model openai/clip-vit-base-patch16     mean of single frames: the paper's CLIP baseline [4.3]
    --encoder frames … --whiten                               whitened by the frames of training scenes alone (ours)
    --encoder transformers --model MCG-NJU/videomae-base --shots-per-scene 16
    --encoder efficientnet_lite0; --encoder places --model FOLDER
    --features slowfast.parquet                               made elsewhere: columns scene_id and embedding, or .npy
    --average-neighbors 1                                     each vector averaged with those of the scenes next to it

Neighbors are the labeled scenes before and after a scene in the same video, whatever their split; their labels are not
used. Scene boundaries need one vector per shot instead: `data_scripts.extract_features --vector pooler_output`.

A run stops only if no scene can be read. The record's `missing` names each scene without an embedding and why; `notes`
names the scenes that were read in part. All rows of a video are together, with its name as `movie_id` (pictures keep
the scene's own `movie_id`). Scenes of videos without shots have `num_shots` 0. A killed run, started again, goes on
with the videos that are missing, were replaced or have other scenes. The same settings on the same hardware give the
same bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2s.commands import run_command
from m2s.shared import TINY_MODEL

OF_MEDIA = ("encoder", "model", "vector", "read", "shots_per_scene", "dtype", "device", "batch_size", "num_workers")


@dataclass
class EmbedScenesArguments:
    """Which scenes to embed, where their media are, which encoder to use, and how it computes."""

    output: Path = field(metadata={"help": "folder of the scene_embeddings dataset"})
    task: list[str] = field(
        default_factory=list,
        metadata={
            "help": "tasks of one group, whose scenes are embedded: lvu, lvu_place_retrieval, movienet_places, "
            "moderation, own, photographs, movieclip; lvu/scene is one of lvu"
        },
    )
    labels: Path | None = field(default=None, metadata={"help": "with --task, folder or file of its labels"})
    scenes: Path | None = field(
        default=None,
        metadata={
            "help": "instead of --task, CSV of scenes: scene_id, movie_id, video, split, and start_seconds, "
            "end_seconds or first_shot, num_shots for parts of videos"
        },
    )
    shots: Path | None = field(default=None, metadata={"help": "folder of a shots dataset that has the scenes' videos"})
    videos: Path | None = field(default=None, metadata={"help": "folder of video files, for clips without shots"})
    pictures: Path | None = field(default=None, metadata={"help": "folder of pictures that stand for shots"})
    features: Path | None = field(
        default=None, metadata={"help": "vectors made elsewhere, .parquet or .npy, instead of media and an encoder"}
    )
    encoder: Literal["scene", "frames", "transformers", "efficientnet_lite0", "places"] = field(
        default="scene",
        metadata={
            "help": "encoder. scene: all frames in one attention; frames: mean of single frames; transformers: any "
            "image or video model; the others: baselines for single frames"
        },
    )
    model: str = field(default=TINY_MODEL, metadata={"help": "the encoder's weights: a folder or a Hub id"})
    vector: Literal["pooler_output", "scene_embeds"] | None = field(
        default=None,
        metadata={
            "help": "pooler_output, default of the encoder scene, or its projection scene_embeds, default of frames",
        },
    )
    read: Literal["evenly", "windows", "all"] = field(
        default="evenly",
        metadata={"help": "which shots of a scene are read: some evenly spaced, all in windows, or all at once"},
    )
    shots_per_scene: int = field(
        default=9, metadata={"help": "number of shots, moments or pictures that are read at a time"}
    )
    whiten: bool = field(
        default=False, metadata={"help": "whiten single frames' vectors; encoders that average frames only"}
    )
    average_neighbors: int = field(
        default=0, metadata={"help": "number of scenes before and after each that its vector is averaged with"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "number format that the model computes in, by autocast"}
    )
    device: str | None = field(
        default=None, metadata={"help": "device: cpu, cuda, cuda:1; by default the fastest present"}
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "windows of one video that are computed at a time; default: 16, on a CPU 1"}
    )
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that decode; default: 1 for a model on the CPU, else this process's share of cores"
        },
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: not exactly one source of frames or vectors, or a number out of range."""
        if (self.scenes is None) == (not self.task) or bool(self.task) != (self.labels is not None):
            raise ValueError("name the scenes: give --task with --labels, or --scenes")
        given = [name for name in ("shots", "videos", "pictures", "features") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of --shots, --videos, --pictures and --features, not {len(given)} of them")
        for name in OF_MEDIA if self.features else ():
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(f"--{name.replace('_', '-')} {value} is for media: --features has the vectors already")
        for name, least in (("average_neighbors", 0), ("batch_size", 1), ("num_workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if self.whiten and (self.features or self.encoder == "scene"):
            raise ValueError("whiten needs vectors of single frames: an encoder that averages them, such as frames")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.embed_scenes", EmbedScenesArguments, run, argv)


def run(arguments: EmbedScenesArguments) -> None:
    from data_scripts.stages.ranks import ranks
    from eval.embeddings.scenes import scenes_of, write_scene_embeddings

    with ranks() as state:
        write_scene_embeddings(arguments, scenes_of(arguments), state)


if __name__ == "__main__":
    main()
