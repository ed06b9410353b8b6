"""Find the shots of a catalog's films and keep their keyframes: the `movies` dataset in, `shots` and `films` out.

    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots
    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots --runner ray
    python -m data_scripts.detect_shots --movies catalog/movies --output catalog/shots --shard 0/16    # one job of 16

MovieNet's keyframes and shot lists can be imported without videos:

    python -m data_scripts.detect_shots --keyframes movienet/240P --shot-lists movienet/shot_movie318 \\
        --output catalog/shots --short-side 240

The index of films is written beside the shots, as `catalog/films`. The same command, run again, continues after a kill,
adds new films of the catalog, repeats films whose file was replaced and drops films that were removed. A film that
fails does not stop the others; the exit status is then 1. The paper does not name its shot detector; PySceneDetect's is
our choice.
"""

import shlex
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from data_scripts.film_stage import StageSummary, store_catalog
from data_scripts.inputs import finished, license_of
from data_scripts.movienet_keyframes import KeyframeSettings, import_keyframes
from data_scripts.runner import RunnerArguments
from m2s.commands import run_command
from modeling_m2s.index_m2s import store_shots
from modeling_m2s.shots_m2s import DECODER_VERSIONS, ShotSettings
from modeling_m2s.storage_m2s import FilmDataset, default_values


@dataclass(kw_only=True)
class DetectShotsArguments(RunnerArguments):
    """Inputs and outputs, how shots are found, and how keyframes are kept."""

    output: Path = field(metadata={"help": "folder of the shots dataset; the index of films goes beside it"})
    movies: Path | None = field(default=None, metadata={"help": "folder of the movies dataset"})
    keyframes: Path | None = field(
        default=None, metadata={"help": "MovieNet: folder of <imdb>/shot_0000_img_0.jpg, instead of videos"}
    )
    shot_lists: Path | None = field(default=None, metadata={"help": "MovieNet: folder of <imdb>.txt"})
    video_info: Path | None = field(
        default=None, metadata={"help": "MovieNet: movie1K.video_info.v1.json, for each film's frame rate"}
    )
    frame_rate: float = field(
        default=24.0, metadata={"help": "frames a second of films from shot lists that --video_info does not name"}
    )
    detector: str = field(
        default=ShotSettings.detector, metadata={"help": "PySceneDetect's adaptive, content, hash or histogram"}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "score at which the detector cuts; by default its own"}
    )
    min_shot_frames: int = field(
        default=ShotSettings.min_shot_frames, metadata={"help": "minimum length of a shot in frames"}
    )
    keyframes_per_shot: int = field(
        default=ShotSettings.keyframes_per_shot,
        metadata={"help": "number of keyframes kept of each shot; of MovieNet's, 1 or 3"},
    )
    short_side: int = field(
        default=ShotSettings.short_side, metadata={"help": "shorter side of the keyframes in pixels; never scaled up"}
    )
    jpeg_quality: int = field(
        default=ShotSettings.jpeg_quality, metadata={"help": "JPEG quality of the keyframes, 1 to 100"}
    )
    allow_damaged: bool = field(default=False, metadata={"help": "keep what can be read of damaged files"})

    def __post_init__(self):
        super().__post_init__()
        if (self.keyframes is None) != (self.shot_lists is None):
            raise ValueError("--keyframes and --shot_lists go together")
        if self.movies is None and self.keyframes is None:
            raise ValueError("no films are named: --movies, or --keyframes with --shot_lists")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.detect_shots", DetectShotsArguments, run, argv)


def run(arguments: DetectShotsArguments) -> int:
    """Detect or import shots, print a summary and return the exit status."""
    kept = (arguments.keyframes_per_shot, arguments.short_side, arguments.jpeg_quality)
    if arguments.keyframes and arguments.shot_lists:
        summary = import_keyframes(
            arguments.keyframes,
            arguments.shot_lists,
            arguments.output,
            KeyframeSettings(*kept, arguments.frame_rate),
            arguments,
            arguments.video_info,
            None if arguments.movies is None else read_videos(arguments.movies).keys(),
        )
    else:
        assert arguments.movies
        settings = ShotSettings(arguments.detector, arguments.threshold, arguments.min_shot_frames, *kept)
        summary = detect_catalog_shots(arguments.movies, arguments.output, settings, arguments, arguments.allow_damaged)
    print_summary(summary, arguments)
    return 1 if summary.failed else 0


def detect_catalog_shots(
    movies: Path, output: Path, settings: ShotSettings, runner: RunnerArguments, allow_damaged: bool = False
) -> StageSummary:
    """Bring a `shots` dataset up to date with the videos of a `movies` dataset.

    Args:
        movies: folder of the catalog.
        output: folder of the shots; the index `films` goes beside it.
        settings: must equal those of an existing dataset.
        runner: where the films are decoded.
        allow_damaged: keep what could be read of damaged files.

    Raises:
        ValueError: no film of the catalog has a video.
        StorageError: there is no catalog, another run writes to the output, the settings differ, or the disk is full.
    """
    catalog = read_videos(movies)
    videos = {movie_id: Path(video) for movie_id, video in catalog.items() if video}
    if not videos:
        raise ValueError(f"{movies}: none of its {len(catalog)} films has a video")
    without = len(catalog) - len(videos)
    if without:
        print(f"{without} of {len(catalog)} films of the catalog have no video")
    store = partial(store_shots, settings=settings, allow_damaged=allow_damaged)
    license = license_of(FilmDataset(movies, "movies"))
    facts = {"versions": DECODER_VERSIONS, "films_without_video": without, **license}
    return store_catalog(videos, output, asdict(settings), store, runner, defaults=default_values(settings), **facts)


def read_videos(movies: Path) -> dict[str, str]:
    """The path of each film's video, by film id; empty if there is none.

    Raises:
        StorageError: no finished `movies` dataset is there.
    """
    table = finished(movies, "movies").read(["movie_id", "video"])
    return dict(zip(table["movie_id"].to_pylist(), table["video"].to_pylist(), strict=True))


def print_summary(summary: StageSummary, arguments: DetectShotsArguments) -> None:
    for movie_id, reason in summary.failed.items():
        print(f"failed: {movie_id}   {reason}")
    print(
        f"{arguments.output}: {summary.num_shots} shots of {summary.num_films} films ({summary.added} done now, "
        f"{len(summary.failed)} failed, {summary.dropped} dropped; {summary.seconds:.0f} s)"
    )
    if summary.damaged:
        print(f"damaged films: {summary.damaged}, lost keyframes: {summary.lost_keyframes}; see the index of films")
    if arguments.shard:
        print(f"next: when all {arguments.shard.partition('/')[2]} shards are done, the same command without --shard")
        return
    features = shlex.quote(str(arguments.output.parent / "shot_features"))
    print(
        f"next: python -m data_scripts.extract_features --shots {shlex.quote(str(arguments.output))} "
        f"--model openai/clip-vit-base-patch16 --output {features}"
    )


if __name__ == "__main__":
    main()
