"""The encoder that ships with the package, for a first try, for tests and for machines without a network."""

from pathlib import Path

TINY_MODEL = "m2s-clip-tiny"


def tiny_model() -> str:
    """The folder of m2s-clip-tiny, a CLIP image tower of 4.3 million parameters, distilled from CLIP ViT-B/16.

    For research and demonstration: `model_cards/m2s-clip-tiny/README.md` says what it was trained on and what it
    cannot do. It loads like any CLIP checkpoint: `M2SSceneModel.from_pretrained(tiny_model())`.
    """
    return str(Path(__file__).resolve().parent / "m2s_clip_tiny")


def model_source(name: str) -> str:
    """What transformers loads for a model's name: a folder or Hub id, as given, or the folder of m2s-clip-tiny."""
    return tiny_model() if name == TINY_MODEL else name


def model_name(source: str) -> str:
    """The other way round, for records: the folder of m2s-clip-tiny differs between machines, its name does not."""
    return TINY_MODEL if source == tiny_model() else source
