"""The images that a student learns from: all of a folder except its test part and the groups in `leave_out`.

The test part is not even labeled. Labels do not depend on the groups left out, so students with and without some groups
share them.

A folder may have a `manifest.tsv` with the group of each image, in the columns `file` (its path below the folder) and
`group`. For other images, only the folders on their path count.
"""

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.distillation.crops import list_images

MANIFEST = "manifest.tsv"


@dataclass(frozen=True)
class ImageFilter:
    """The images that a student neither learns from nor is measured on in training.

    Args:
        test_part: `FOLDER/EVERY`, such as `miniplaces/3`: images in folders named miniplaces with a number divisible
            by 3.
        leave_out: names of groups, or of folders on an image's path.

    Raises:
        ValueError: `test_part` has another form.
    """

    test_part: str | None = None
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        folder, _, every = (self.test_part or "test/1").rpartition("/")
        if not (folder and every.isascii() and every.isdigit() and int(every)):
            raise ValueError(f"test_part is {self.test_part}; it must be FOLDER/EVERY, such as miniplaces/3")

    def images(self, folder: Path) -> list[str]:
        """Names of the images below a folder that are not in the test part, relative to it, in order.

        Raises:
            ValueError: all images are in the test part, or an image in the test part's folder has no number.
        """
        names = [name for name in list_images(folder) if not self.tests(folder, name)]
        if not names:
            raise ValueError(f"{folder}: all its images are of the test part")
        return names

    def left_out(self, folder: Path) -> set[str]:
        """Names of the images below a folder, relative to it, that belong to a group or folder in `leave_out`.

        Raises:
            ValueError: the manifest lacks a column.
        """
        if not self.leave_out:
            return set()
        groups = read_groups(folder)
        parts = {name: {*(folder / name).parts, *groups.get(name, "").split("/")} for name in list_images(folder)}
        return {name for name, names in parts.items() if names.intersection(self.leave_out)}

    def tests(self, folder: Path, name: str) -> bool:
        """Whether an image is in the test part."""
        if self.test_part is None:
            return False
        test_folder, _, every = self.test_part.rpartition("/")
        path = folder / name
        if path.parent.name != test_folder:
            return False
        if not (path.stem.isascii() and path.stem.isdigit()):
            raise ValueError(
                f"{path} has no number for a name, so test_part {self.test_part} cannot tell what it is for"
            )
        return int(path.stem) % int(every) == 0


def read_groups(folder: Path) -> dict[str, str]:
    """Group of each image by its name, from the folder's manifest; empty without a manifest.

    Raises:
        ValueError: the manifest lacks a column.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if missing := {"file", "group"} - {*(rows.fieldnames or ())}:
            raise ValueError(f"{path}: no column {sorted(missing)[0]}")
        return {row["file"]: row["group"] for row in rows}


def count_by_source(names: Collection[str], title: str) -> list[dict[str, str | int]]:
    """Number of images by source: the folder `title` itself and each folder inside it."""
    counts = Counter(Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names)
    return [{"name": f"{title}/{part}" if part else title, "images": count} for part, count in sorted(counts.items())]
