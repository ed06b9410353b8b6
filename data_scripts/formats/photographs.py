"""Labeled photographs as scenes of one shot, or of several pictures of one class.

    <folder>/train/<class>/*.jpg, <folder>/test/<class>/*.jpg
    <folder>/manifest.tsv     columns file and group: `miniplaces/00000.jpg` and `a/abbey`

Pictures of a manifest whose number is divisible by three are the test part: no model here is trained on them.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_scripts.formats.label_files import LabelRow, draw_splits, gather, label_errors, shuffled
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError, Split
from data_scripts.stages.text_files import read_table

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Picture(NamedTuple):
    """A picture: where it was named, its path below the folder, its class, and whether it is in the test part."""

    place: str
    path: str
    group: str
    is_test: bool


@label_errors()
def read_photographs(
    folder: Path, data_set: str = "", pictures_per_scene: int = 1, validation_share: float = 0.25, seed: int = 0
) -> LabeledScenes:
    """Pictures with the class that their folder or the manifest names.

    A scene of several pictures is one picture with others of its class and split, drawn by `seed`. There are as many
    scenes as pictures, whatever `pictures_per_scene` is, and a scene of three pictures contains the two of the scene of
    two. Results for different numbers of pictures therefore compare the same scenes. Scenes share pictures within their
    split, so standard errors must be clustered by class.

    Args:
        folder: folder of class folders, or of a manifest.
        data_set: with a manifest, the folder whose pictures are used.
        validation_share: share of validation among the pictures of each class outside the test part.

    Raises:
        LabelError: no pictures, a class of too few, a picture twice.
    """
    if pictures_per_scene < 1 or not 0 < validation_share < 1:
        raise LabelError(
            f"pictures_per_scene={pictures_per_scene} must be at least 1, validation_share={validation_share} a share"
        )
    manifest = folder / "manifest.tsv"
    pictures = list(_in_manifest(manifest, data_set) if manifest.exists() else _in_folders(folder))
    classes = sorted({picture.group for picture in pictures})
    splits = {
        path: split for group in classes for path, split in _splits(pictures, group, validation_share, seed).items()
    }
    companions: dict[tuple[str, str], list[str]] = defaultdict(list)
    for picture in pictures:
        companions[picture.group, splits[picture.path]].append(picture.path)
    rows = []
    for place, path, group, _ in pictures:
        split = splits[path]
        shots = [path]
        if pictures_per_scene > 1:
            others = [other for other in companions[group, split] if other != path]
            if len(others) < pictures_per_scene - 1:
                raise LabelError(
                    f"{folder}: class {group} has {1 + len(others)} pictures in {split}, too few for scenes of "
                    f"{pictures_per_scene}; use fewer a scene, or another validation_share"
                )
            shots += shuffled(others, f"{seed} {path}")[: pictures_per_scene - 1]
        rows.append(LabelRow(place, LabeledScene(path, path, path, split, pictures=tuple(shots)), classes.index(group)))
    task = f"photographs/{data_set or folder.name}" + (f"/{pictures_per_scene}" if pictures_per_scene > 1 else "")
    return gather(task, "single_label_classification", rows, classes)


def _splits(pictures: list[Picture], group: str, validation_share: float, seed: int) -> dict[str, Split]:
    """Split of each picture of a class."""
    members = [picture for picture in pictures if picture.group == group]
    try:
        drawn = draw_splits((each.path for each in members if not each.is_test), {"validation": validation_share}, seed)
    except LabelError as error:
        raise LabelError(f"{members[0].place}, class {group}: {error}") from None
    return {each.path: "test" if each.is_test else drawn[each.path] for each in members}


def _in_manifest(manifest: Path, data_set: str) -> Iterator[Picture]:
    for line, row in read_table(manifest, ("file", "group"), "\t"):
        path, place = Path(row["file"]), f"{manifest}, line {line}"
        if data_set and path.parts[0] != data_set:
            continue
        if not path.stem.isdecimal():
            raise LabelError(f"{place}: {path} has no number for its name, so its part is not known")
        yield Picture(place, path.as_posix(), row["group"], int(path.stem) % 3 == 0)


def _in_folders(folder: Path) -> Iterator[Picture]:
    for part in ("train", "test"):
        for path in sorted(folder.glob(f"{part}/*/*")):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                yield Picture(str(path), path.relative_to(folder).as_posix(), path.parent.name, part == "test")
