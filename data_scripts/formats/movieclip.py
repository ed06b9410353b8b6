"""MovieCLIP: places of the shots of film clips; 150 classes, several per shot, chosen by CLIP.

    multi_label_thresh_0_4_0_1_label_map.json          {"courtroom": 0, "police station": 1, …}
    train_multi_label_thresh_0_4_0_1_150_labels.txt    one line per shot: `<clip>/<clip>-Scene-009.mp4 142 75`
    val_…, test_…                                      the same
    test_shots_human_verified_multi_labels_v1_complete.txt

CLIP scores too well on these labels, because it chose them. The test shots that people verified are another set; their
clips are not from films.
"""

from collections.abc import Iterator
from pathlib import Path

from data_scripts.formats.label_files import SPLIT_NAMES, LabelRow, gather, label_errors, read_json_file
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError
from data_scripts.stages.text_files import text_lines

VERIFIED = "test_shots_human_verified_multi_labels_v1_complete.txt"


@label_errors()
def read_movieclip(folder: Path, verified_test: bool = False) -> LabeledScenes:
    """Places of shots; each shot is a video file. A clip counts as a film, because the files do not name its film.

    Args:
        folder: the extracted archive.
        verified_test: use the test shots that people verified instead of CLIP's.

    Raises:
        LabelError: a file that is not as described above, a shot twice, an index of no class.
    """
    label_map = folder / "multi_label_thresh_0_4_0_1_label_map.json"
    indices = read_json_file(label_map)
    if not isinstance(indices, dict) or sorted(indices.values(), key=str) != sorted(range(len(indices)), key=str):
        raise LabelError(f"{label_map}: expected a dict of classes with their indices, 0 and up")
    files = {name: folder / f"{name}_multi_label_thresh_0_4_0_1_150_labels.txt" for name in ("train", "val", "test")}
    if verified_test:
        files["test"] = folder / VERIFIED
    rows = (row for name, path in files.items() for row in _rows(path, name, len(indices)))
    classes = sorted(indices, key=lambda name: indices[name])
    return gather("movieclip/place", "multi_label_classification", rows, classes)


def _rows(path: Path, part: str, num_classes: int) -> Iterator[LabelRow]:
    known = {str(index): index for index in range(num_classes)}
    for number, line in enumerate(text_lines(path), 1):
        shot, *words = line.split() or [""]
        clip, _, file = shot.partition("/")
        if not file or not words or not set(words) <= known.keys():
            raise LabelError(
                f"{path}, line {number}: {line[:80]!r} is not <clip>/<shot>.mp4 and indices below {num_classes}"
            )
        video = file.removesuffix(".mp4")
        yield LabelRow(
            f"{path}, line {number}",
            LabeledScene(video, clip, video, SPLIT_NAMES[part]),
            [known[word] for word in words],
        )
