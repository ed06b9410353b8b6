"""Find the shots of a catalog's films and keep their keyframes: the `movies` dataset in, `shots` and `films` out.

    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots
    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots --runner ray
    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots --job 0/16      # one job of 16

MovieNet's keyframes and shot lists can be imported without videos:

    python -m data_scripts.detect_shots --keyframes movienet/240P --shot-lists movienet/shot_movie318 \\
        --output catalog/shots --short-side 240

The index of films is written beside the shots, as `catalog/films`. The same command, run again, continues after a kill,
adds new films of the catalog, repeats films whose file was replaced and drops films that were removed. A film that
fails does not stop the others; the exit status is then 1. The paper does not name its shot detector; PySceneDetect's is
our choice.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_scripts.stages.runner_arguments import RunnerArguments
from m2s.commands import run_command

OF_VIDEOS = ("detector", "threshold", "min_shot_frames", "video_stream", "any_keyframe", "min_readable")
OF_KEYFRAMES = ("video_info", "frame_rate")


@dataclass(kw_only=True)
class DetectShotsArguments(RunnerArguments):
    """Inputs and outputs, how shots are found, and how keyframes are kept; defaults as in `ShotSettings`."""

    output: Path = field(metadata={"help": "folder of the shots dataset; the index of films goes beside it"})
    movies: Path | None = field(default=None, metadata={"help": "folder of the movies dataset"})
    keyframes: Path | None = field(
        default=None, metadata={"help": "MovieNet's keyframes, instead of videos: folder of <imdb>/shot_0000_img_0.jpg"}
    )
    shot_lists: Path | None = field(default=None, metadata={"help": "MovieNet's shot lists: folder of <imdb>.txt"})
    video_info: Path | None = field(
        default=None, metadata={"help": "MovieNet: movie1K.video_info.v1.json, for each film's frame rate"}
    )
    frame_rate: float = field(
        default=24.0, metadata={"help": "frames a second of films that have shot lists and are not in --video-info"}
    )
    detector: Literal["adaptive", "content", "hash", "histogram", "transnetv2"] = field(
        default="adaptive", metadata={"help": "detector of PySceneDetect, or the network TransNet V2"}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "score at which the detector cuts; by default its own"}
    )
    min_shot_frames: int = field(default=15, metadata={"help": "minimum length of a shot in frames"})
    keyframes_per_shot: int = field(
        default=1,
        metadata={"help": "number of keyframes kept of each shot; of MovieNet's, 1 or 3"},
    )
    short_side: int = field(default=224, metadata={"help": "shorter side of the keyframes in pixels; never scaled up"})
    jpeg_quality: int = field(default=90, metadata={"help": "JPEG quality of the keyframes, 1 to 100"})
    video_stream: int | None = field(
        default=None,
        metadata={"help": "number of the video stream of each file, from 0; by default the one that a player shows"},
    )
    any_keyframe: bool = field(
        default=False,
        metadata={"help": "keep the frame at a keyframe's place even if it is black, white or faded out"},
    )
    min_readable: float = field(
        default=0.9, metadata={"help": "share of a film, 0 to 1, that must be readable; films with less are refused"}
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.keyframes is None) != (self.shot_lists is None):
            raise ValueError(
                "--keyframes and --shot-lists go together: a folder of pictures, and a folder with their shots"
            )
        if not 0 <= self.min_readable <= 1:
            raise ValueError(f"--min-readable {self.min_readable} is a share: from 0 to 1")
        if self.movies is None and self.keyframes is None:
            raise ValueError("no films are named: give --movies, or --keyframes with --shot-lists")
        unused, use = (OF_VIDEOS, "films without --keyframes") if self.keyframes else (OF_KEYFRAMES, "--keyframes")
        for name in unused:
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(f"--{name.replace('_', '-')} {value} is for {use}")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.detect_shots", DetectShotsArguments, run, argv)


def run(arguments: DetectShotsArguments) -> int:
    """Detect or import shots, print a summary and return the exit status."""
    from data_scripts.shots.detection import detect_catalog_shots, print_summary
    from data_scripts.shots.movienet_keyframes import KeyframeSettings, import_keyframes
    from modeling_m2s.shots_m2s import ShotSettings

    kept = (arguments.keyframes_per_shot, arguments.short_side, arguments.jpeg_quality)
    if arguments.keyframes and arguments.shot_lists:
        summary = import_keyframes(
            arguments.keyframes,
            arguments.shot_lists,
            arguments.output,
            KeyframeSettings(*kept, arguments.frame_rate),
            arguments,
            arguments.video_info,
            arguments.movies,
        )
    else:
        assert arguments.movies
        found = (arguments.detector, arguments.threshold, arguments.min_shot_frames)
        settings = ShotSettings(*found, *kept, arguments.video_stream, arguments.any_keyframe)
        summary = detect_catalog_shots(arguments.movies, arguments.output, settings, arguments, arguments.min_readable)
    print_summary(summary, arguments)
    return 1 if summary.failed else 0


if __name__ == "__main__":
    main()
