"""Films by their files: paths of video files and folders to film ids."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .storage_m2s import RECORD_NAME
from .video_m2s import VIDEO_SUFFIXES, VideoError, printable, title_files

EXPORTS = "exports"  # the folder of an index for lists, and for copies of films with chapters
# Folders in which systems keep thumbnails, versions and what was deleted.
TRASH = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler", "lost+found"),
    *("system volume information", ".trashes", ".appledouble", ".snapshot"),
}


def find_films(paths: Sequence[str | os.PathLike], trash: list[Path] | None = None) -> dict[str, Path]:
    """Absolute paths of video files by film id: given files as they are, given folders with all videos below them.

    A film's id is its file's name below the given folder, without suffix. If two files would share it, the id is the
    first of these that no other file has: name with suffix, whole path, whole path with a hash of its bytes. Links to
    folders are followed, each folder once. The files of a DVD's title are one film. Files that only systems make, such
    as `._Heat.mkv`, are left out, and so are the copies of films in an index's `exports`.

    Args:
        trash: filled with the files that are left out.

    Raises:
        VideoError: a folder cannot be read or holds no video.
    """
    found: dict[Path, tuple[str, ...]] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            videos = sorted(file for file in _walk(path) if file.suffix.lower() in VIDEO_SUFFIXES)
            files = [file for file in videos if not _is_trash(file.relative_to(path))]
            if trash is not None:
                trash += sorted(set(videos) - set(files))
            if not files:
                raise VideoError(path, "no video files in this folder, by their names; give other files one by one")
        for file in files:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            file = Path(os.path.abspath(file))
            digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
            whole = printable(file)
            found[file] = (printable(name.with_suffix("")), printable(name), whole, f"{whole} ({digest})")
    for part in [part for file in found for part in title_files(file)[1:]]:
        found.pop(part, None)
    # All kinds of names are counted together, so no id of one film is any name of another.
    shared = Counter(name for names in found.values() for name in set(names))
    films = {next(name for name in names if shared[name] == 1): file for file, names in found.items()}
    return dict(sorted(films.items()))


def _is_trash(name: Path) -> bool:
    folders = [folder.casefold() for folder in name.parts[:-1]]
    return name.name.startswith("._") or any(each in TRASH or each.startswith(".trash") for each in folders)


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError):
        raise VideoError(error.filename or folder, error.strerror or str(error))

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that was read
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if os.path.exists(os.path.join(parent, "shots", RECORD_NAME)) and EXPORTS in folders:
            folders.remove(EXPORTS)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        yield from (Path(parent) / name for name in names)
