"""Measure a small image encoder beside its teacher, encoders of its size, and untrained baselines.

    python -m eval.image_encoders --student modeling_m2s/m2s_clip_tiny --teacher CLIP_FOLDER \\
        --places $M2S_ASSETS/images/scene15 --video $M2S_ASSETS/videos/sintel_trailer_480x204.mp4 --output results.json

- Places: `PLACES/train/CLASS/*` is gallery and training set of the probe, `PLACES/test/CLASS/*` are queries. Retrieval
  predicts the class of the nearest neighbor by cosine; the probe is a logistic regression on standardized embeddings.
- Film: on a video that no encoder was trained on, how often a shot has the same nearest other shot as for the teacher.
- Spread, with `--photographs`, `--seen-video` or `--world`: the share of squared length that all images have in common.
  Also the share of images whose nearest image is right, before and after subtracting the mean: a photograph of the same
  group, the shot that is nearest for the teacher, or a shot of the same place in another film.
- Words, with `--photographs` and `--words`: how often a photograph's word ranks first of all words.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class EncoderArguments:
    """Encoders, and the data they are measured on."""

    student: str = field(metadata={"help": "folder or Hub id of the small CLIP image tower"})
    teacher: str = field(metadata={"help": "folder or Hub id of the CLIP it was distilled from"})
    places: Path = field(metadata={"help": "folder with train/CLASS/* and test/CLASS/* images"})
    video: Path = field(metadata={"help": "a video that the student was not trained on"})
    photographs: Path | None = field(
        default=None, metadata={"help": "folder of photographs with manifest.tsv; the test part of MiniPlaces is read"}
    )
    seen_video: Path | None = field(
        default=None, metadata={"help": "another video, on which spread is measured; the student may have seen it"}
    )
    student_without: str | None = field(
        default=None,
        metadata={
            "help": "folder of a student made in the same way, but without images of the kinds of place in PLACES"
        },
    )
    world: Path | None = field(default=None, metadata={"help": "folder of a film world made with --keyframes-only"})
    world_films: int = field(default=40, metadata={"help": "number of the film world's films to read"})
    words: Path | None = field(
        default=None, metadata={"help": "folder with words.json and vectors.npy, text vectors of the teacher"}
    )
    efficientnet_lite0: bool = field(
        default=False, metadata={"help": "measure EfficientNet-Lite0 too (its packages must be installed)"}
    )
    places_network: Path | None = field(
        default=None, metadata={"help": "folder of a SqueezeNet trained on Places365, to measure too"}
    )
    output: Path | None = field(default=None, metadata={"help": "JSON file for the results"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.image_encoders", EncoderArguments, run, argv)


def run(arguments: EncoderArguments) -> None:
    from eval.images.comparison import as_table, measure
    from modeling_m2s.storage_m2s import write_json

    results = measure(arguments)
    print(as_table(results))
    if arguments.output:
        write_json(arguments.output, results)


if __name__ == "__main__":
    main()
