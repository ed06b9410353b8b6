"""Checksums of the files that a dataset consists of: SHA-256 in hex, as `sha256sum` prints it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


class ChecksummedFile:
    """A binary file that is written from its start to its end, and the checksum of what was written."""

    def __init__(self, file: IO[bytes]):
        self._file, self._hash = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def checksum(self) -> str:
        return self._hash.hexdigest()


def checksum_of(path: Path) -> str:
    """The checksum of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_digest(record: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change with a dataset's shards, by the checksums in its record."""
    return hashlib.sha256(json.dumps(record["shards"], sort_keys=True).encode()).hexdigest()[:16]
