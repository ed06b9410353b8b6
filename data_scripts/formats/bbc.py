"""Scene boundaries of the eleven episodes of BBC Planet Earth, by five annotators; a test set only.

    annotations/shots/<episode>.txt                one line per shot: first and last frame
    annotations/scenes/<annotator>/<episode>.txt   one line: the first shot of each scene, then the number of shots
    <episode>/shots.txt, <episode>/scenes.txt      the same for one annotator, as a mirror stores it

The annotators disagree. Figures are given for each annotator, then averaged.
"""

from pathlib import Path

import numpy as np

from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.formats.label_files import label_errors
from data_scripts.formats.labeled_scenes import LabelError
from data_scripts.stages.text_files import text_lines


@label_errors()
def read_bbc(folder: Path, annotator: str | None = None) -> list[FilmBoundaries]:
    """The boundaries of the episodes by one annotator.

    Args:
        folder: `annotations`, or a folder with one folder per episode.
        annotator: name of a folder of `annotations/scenes`; None for folders by episode.

    Raises:
        LabelError: no episodes, one without scenes, or numbers that do not fit together.
    """
    if annotator is None:
        files = {path.parent.name: (path, path.with_name("scenes.txt")) for path in folder.glob("*/shots.txt")}
    else:
        scenes = folder / "scenes" / annotator
        files = {path.stem: (path, scenes / path.name) for path in (folder / "shots").glob("*.txt")}
    if not files:
        raise LabelError(
            f"{folder}: holds no shots/<episode>.txt with scenes/<annotator>/<episode>.txt, and no <episode>/shots.txt"
        )
    return [_episode(name, *files[name]) for name in sorted(files, key=_in_order)]


def _episode(name: str, shots: Path, scenes: Path) -> FilmBoundaries:
    if not scenes.exists():
        raise LabelError(f"{scenes}: not there, but {shots} is; name the annotator, or get the missing file")
    frames = [_numbers(line.split(), shots) for line in text_lines(shots)]
    starts = np.array(_numbers("".join(text_lines(scenes)).split(","), scenes))
    if {len(numbers) for numbers in frames} != {2} or (np.diff(np.ravel(frames)) < 0).any():
        raise LabelError(f"{shots}: expected first and last frame of a shot in each line, in the film's order")
    frames_S2 = np.array(frames)
    if starts[0] != 0 or starts[-1] != len(frames_S2) or (np.diff(starts) <= 0).any():
        raise LabelError(
            f"{scenes}: expected ascending numbers of shots from 0 to {len(frames_S2)}, the number of lines of {shots}"
        )
    labels_M = np.zeros(len(frames_S2) - 1, bool)
    labels_M[starts[1:-1] - 1] = True
    return FilmBoundaries(name, "test", labels_M, frames_S2)


def _in_order(name: str) -> tuple[int, str]:
    """Sort key of an episode: the number that its name begins with, then the name."""
    return int("0" + name[: len(name) - len(name.lstrip("0123456789"))]), name


def _numbers(words: list[str], path: Path) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise LabelError(f"{path}: expected whole numbers ({error})") from None
