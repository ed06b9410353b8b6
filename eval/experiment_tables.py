"""The results of `eval.experiments` as Markdown tables: encoders, scene pairs, film similarity, photographs, claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.film_worlds import LABELS

FIGURES = {
    "precision_at_1": "P@1",
    "precision_at_5": "P@5",
    "average_precision": "mAP",
    "probe": "place probe",
    "event_probe": "event probe",
    "boundaries": "boundary AP",
    "share_of_gap": "share of the gap",
}


def tables(results: Mapping[str, Any]) -> str:
    """All tables; figures are means ± standard deviations over seeds, in percent."""
    over_seeds, settings = results["over_seeds"], results["settings"]
    facts = (
        f"Worlds of {settings['films']} films ({settings['world']}), seeds {', '.join(results['seeds'])}, about "
        f"{over_seeds['queries']['mean']:.0f} queries in each. A random neighbor is right in "
        f"{percent(over_seeds['chance'])}. All figures are percent, means ± standard deviations over seeds."
    )
    parts = [
        facts,
        "## Encoders\n\n" + encoders(over_seeds["encoders"], results["spaces"]),
        "## Scene pairs: share with the same label\n\n" + scene_pairs(over_seeds["scene_pairs"]),
        "## Similar films: accuracy on held-out films\n\n" + similar_films(over_seeds["similar_films"]),
    ]
    if pictures := over_seeds["pictures"]:
        parts.append("## Photographs of other places: accuracy\n\n" + photographs(pictures))
    parts.append("## Claims, by P@1\n\n" + claims(results["claims"]))
    return "\n\n".join(parts) + "\n"


def encoders(rows: Mapping[str, Any], spaces: Mapping[str, str]) -> str:
    body = []
    for name, figures in rows.items():
        picked = [figures.get(f"{spaces[name]}/{each}", figures.get(each)) for each in FIGURES]
        body.append([words(name), spaces[name], *map(percent, picked)])
    return table(["", "space", *FIGURES.values()], body)


def scene_pairs(sets: Mapping[str, Any]) -> str:
    body = [
        [words(name), words(part), *(percent(figures[label]) for label in LABELS)]
        for name, parts in sets.items()
        for part, figures in parts.items()
    ]
    return table(["", "pairs", *LABELS], body)


def similar_films(networks: Mapping[str, Any]) -> str:
    judges = {"network": "network", "mean_features_cosine": "cosine of mean features", "majority": "majority"}
    body = [[words(name), *(percent(each[judge]["accuracy"]) for judge in judges)] for name, each in networks.items()]
    return table(["similar by", *judges.values()], body)


def photographs(rows: Mapping[str, Any]) -> str:
    probes = list(next(iter(rows.values())))
    return table(
        ["", *probes], [[words(name), *(percent(each[probe]) for probe in probes)] for name, each in rows.items()]
    )


def claims(judged: Sequence[Mapping[str, Any]]) -> str:
    body = [
        [
            claim["claim"],
            f"{100 * claim['mean']:+.1f} ± {100 * claim['standard_error']:.1f}",
            f"{claim['seeds_above_zero']} of {claim['seeds']}",
            claim["verdict"],
        ]
        for claim in judged
    ]
    return table(["claim", "difference ± standard error by film", "seeds above zero", "verdict"], body)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def percent(figure: Mapping[str, float] | None) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['deviation']:.1f}" if figure else "–"


def words(name: str) -> str:
    return name.replace("_", " ")
