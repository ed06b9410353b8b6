"""MovieNet's places, several per scene [4.3.2, table 4]: mean average precision over the classes of the test scenes.

    MOVIENET/annotation/tt….json, MOVIENET/movie1K.split.v1.json

The paper does not say how it computes the mean; here, classes without test scenes are left out.
"""

from pathlib import Path

from data_scripts.formats.movienet_labels import read_place_tags

from .figures import KINDS
from .task import ProbedTask


def read(labels: Path, name: str = "") -> ProbedTask:
    """Raises: LabelError: as `read_place_tags`."""
    labeled = read_place_tags(labels / "annotation", labels / "movie1K.split.v1.json")
    # Ninety logistic regressions for each strength take longer than all MLPs, so a linear probe must be asked for.
    kind = KINDS[labeled.problem]._replace(recipe="movienet_place.yaml")
    return ProbedTask(name="movienet_places", labeled=labeled, **kind._asdict(), probes=("mlp", "knn"))
