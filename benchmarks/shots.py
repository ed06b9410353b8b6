"""Shots and keyframes from one decoding pass, against PySceneDetect followed by reading the keyframes with decord.

    python -m benchmarks.shots --assets ASSETS        about 5 minutes on two cores

Both sides find the same shots (asserted) and end with the same keyframes as JPEG bytes. The films are Big Buck Bunny
(448×252), and a generated, grainy 1920×1080 film. The latter has an intra frame every 300 frames, so that seeking
decodes many frames in vain.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import alternate, write_result
from m2s.commands import run_command

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from make_videos import make_video


def one_pass(path: Path) -> list[tuple[int, int]]:
    from modeling_m2s.shots_m2s import detect_shots

    return [(shot.start_frame, shot.end_frame) for shot in detect_shots(path).shots]


def two_steps(path: Path) -> list[tuple[int, int]]:
    import cv2
    import scenedetect

    from modeling_m2s.decoding_m2s import read_frames

    scenes = scenedetect.detect(str(path), scenedetect.AdaptiveDetector(), start_in_scene=True, backend="pyav")
    shots = [(start.frame_num, end.frame_num) for start, end in scenes]
    for image in read_frames(path, [(start + end - 1) // 2 for start, end in shots], 224, "decord"):
        cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return shots


def detection_only(path: Path) -> None:
    import scenedetect

    scenedetect.detect(str(path), scenedetect.AdaptiveDetector(), backend="pyav")


def bare_decoding(path: Path) -> None:
    from modeling_m2s.decoding_m2s import VideoFrames

    with VideoFrames(path) as frames:
        for _ in frames:
            pass


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    assets: Path = field(metadata={"help": "folder of the assets, with videos/ in it"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.shots", Options, run, argv)


def run(options: Options) -> None:
    content = {}
    with tempfile.TemporaryDirectory() as folder:
        large = make_video(Path(folder) / "large.mp4", [120] * 10, size=(1920, 1080), keyframe_interval=300, grain=40)
        films = {
            "big_buck_bunny": options.assets / "videos/big_buck_bunny_full_448x252.mp4",
            "large_rare_intra": large,
        }
        for name, path in films.items():
            assert one_pass(path) == two_steps(path)
            candidates = {
                "one pass": lambda path=path: one_pass(path),
                "PySceneDetect, then decord": lambda path=path: two_steps(path),
                "PySceneDetect alone": lambda path=path: detection_only(path),
                "bare decoding": lambda path=path: bare_decoding(path),
            }
            times = alternate(candidates, options.runs)
            ratio = times["PySceneDetect, then decord"]["wall_seconds"] / times["one pass"]["wall_seconds"]
            content[name] = {**times, "times_faster": round(ratio, 2)}
    write_result("shots", "uint8", content)


if __name__ == "__main__":
    main()
