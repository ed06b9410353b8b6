"""MovieCLIP's places, several per shot: a public substitute for MovieNet's places, not in the paper.

CLIP chose these labels, so CLIP's figures are too good. The task `movieclip/verified` is tested on the shots that
people verified, which are from other clips.
"""

from pathlib import Path

from data_scripts.formats.movieclip import read_movieclip

from .figures import KINDS
from .task import ProbedTask


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: as `read_movieclip`."""
    labeled = read_movieclip(labels, verified_test=name == "verified")
    task = "movieclip/verified" if name else "movieclip"
    return ProbedTask(name=task, labeled=labeled, **KINDS[labeled.problem]._asdict(), probes=("mlp", "knn"))
