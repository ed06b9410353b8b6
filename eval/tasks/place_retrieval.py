"""LVU's places by nearest neighbors [4.3.1, table 2]: validation scenes are queries, training scenes the gallery.

Each scene has one embedding, and the distance is Euclidean. The main figure is the mean over all queries, not over
classes. The paper's table has 114 queries, the files 120: six clips were gone. For 46 of the 120, the gallery contains
scenes of the same film, in 39 cases of the same place. The paper does not leave these out, so we also give figures
without them. MA-LMM's labels do not name films: each clip counts as a film, and the second figures are left out.

Shapes: Q queries, G scenes of the gallery, D dimensions, k neighbors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_scripts.formats.lvu import read_lvu
from eval.metrics.neighbors import class_means, gallery_chance, gallery_precision_at_k, nearest_neighbors

from .embeddings import Embedded
from .figures import mean_figure
from .task import Baselines, Task

K = (1, 5, 10)


class RetrievalTask(Task):
    """A task without training: is a query's label that of its neighbors?"""


def read(labels: Path, name: str = "") -> RetrievalTask:
    """Raises: LabelError: as `read_lvu`."""
    labeled = read_lvu(labels, "scene")
    used = [scene.scene_id for scene in labeled.scenes if scene.split != "test"]
    return RetrievalTask(name="lvu_place_retrieval", labeled=labeled.only(used), figure="precision_at_1")


class Retrieved(NamedTuple):
    """Figures and chance for each way to search, in JSON's form, and the nearest scenes (Q, k) of each query."""

    figures: dict[str, dict[str, Any]]
    trivial: Baselines
    neighbors_Qk: np.ndarray


def retrieve(embedded: Embedded) -> Retrieved:
    """Search with scenes of the query's own film, and without them if some film has several scenes.

    Raises:
        RetrievalError: all training scenes are from a query's film.
    """
    labeled = embedded.labeled
    query_Q, gallery_G = labeled.of_split("validation"), labeled.of_split("train")
    films_N = np.array([scene.movie_id for scene in labeled.scenes])
    vectors_QD, vectors_GD = (embedded.embeddings_ED[embedded.rows_NW[chosen, 0]] for chosen in (query_Q, gallery_G))
    labels_Q, labels_G = labeled.labels[query_Q], labeled.labels[gallery_G]
    figures, trivial = {}, {}
    ways: dict[str, tuple] = {"": ()}
    if len(set(films_N.tolist())) < len(films_N):
        ways["_of_other_films"] = films_N[query_Q], films_N[gallery_G]
    for way, films in ways.items():
        hits = gallery_precision_at_k(vectors_QD, labels_Q, vectors_GD, labels_G, K, "euclidean", *films)
        figures[f"retrieval{way}"] = summarize(hits, labels_Q, films_N[query_Q], labeled.classes)
        chance = float(gallery_chance(labels_Q, labels_G, *films).mean())
        trivial[f"chance{way}"] = {f"precision_at_{k}": chance for k in K}
    neighbors_Qk = nearest_neighbors(vectors_QD, vectors_GD, min(max(K), len(gallery_G)))
    scene_ids_N = np.array([scene.scene_id for scene in labeled.scenes])
    return Retrieved(figures, trivial, scene_ids_N[gallery_G][neighbors_Qk])


def summarize(
    hits: Mapping[int, np.ndarray], labels_Q: np.ndarray, films_Q: Sequence | np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Means over all queries, with intervals by film, and means by class.

    Args:
        hits: for each k, the share (Q,) of a query's k nearest scenes that have its label.
    """
    by_class = {k: class_means(hits_Q, labels_Q) for k, hits_Q in hits.items()}
    return {
        "figures": {f"precision_at_{k}": mean_figure(hits_Q[None], films_Q).as_json() for k, hits_Q in hits.items()},
        "by_class": {
            f"precision_at_{k}": {classes[index]: round(mean, 6) for index, mean in means.items()}
            for k, means in by_class.items()
        },
    }
