"""Helpers that several verbs share: errors, the pipeline of a model, memory."""

import contextlib
import ctypes
import shlex
import sys
from typing import Any

from m2s.endings import UsageError

TINY_MODEL = "m2s-clip-tiny"  # as in modeling_m2s.pretrained_m2s, which takes seconds to load


def print_error(message: str) -> None:
    print("m2s: error: " + " ".join(message.split()), file=sys.stderr)


def load_pipeline(model: str, device: str | None, dtype: str) -> tuple[Any, str]:
    """The scene-embedding pipeline of a model folder or Hub id, and the revision of its weights.

    Raises:
        UsageError: the model cannot be loaded; the message gives the reason in one line.
    """
    from modeling_m2s.pipeline_m2s import SceneEmbeddingPipeline
    from modeling_m2s.pretrained_m2s import ModelError, load_encoder

    try:
        encoder, image_processor, revision = load_encoder(model, dtype=dtype)
    except ModelError as error:
        raise UsageError(f"--{error}") from error
    return SceneEmbeddingPipeline(encoder, image_processor=image_processor, device=device), revision


def return_large_blocks() -> None:
    """Have glibc give freed blocks of 4 MiB and more back to the system.

    Otherwise glibc raises this threshold when the first activations are freed and keeps blocks of their size in its
    heap. The heap then fragments and grows with every scene.
    """
    M_MMAP_THRESHOLD = -3
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 4 * 2**20)


def quote(text: Any) -> str:
    """The text as one word of a shell's command, on one line: what cannot be printed is written as in bash and zsh."""
    text = str(text)
    if text.isprintable():
        return shlex.quote(text)

    def escaped(letter: str) -> str:
        if letter in "\\'":
            return "\\" + letter
        return letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in letter.encode())

    return "$'" + "".join(map(escaped, text)) + "'"


def one_line(text: str) -> str:
    """The text with escapes in place of line breaks and whatever else cannot be printed."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
