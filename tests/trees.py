"""A folder's files, to be compared with another's."""

from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
