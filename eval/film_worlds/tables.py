"""The results of `eval.experiments` as Markdown tables: encoders, scene pairs, film similarity, photographs, claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.film_worlds.retrieval import SPACES
from eval.film_worlds.rows import READ_BY_SHOT
from eval.film_worlds.truth import LABELS

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
    settings = results["settings"]
    parts = [
        f"Worlds of {settings['films']} films ({settings['world']}). All figures are percent, means ± standard "
        "deviations over seeds. Each seed has a world of its own."
    ]
    for figures in results["over_seeds"]:
        title = "" if len(results["over_seeds"]) == 1 else f", {seeds_of(figures)}"
        parts += seed_tables(figures, results["spaces"], title)
    parts.append("## Claims, by P@1\n\n" + claims(results["claims"]))
    return "\n\n".join(parts) + "\n"


def seeds_of(figures: Mapping[str, Any]) -> str:
    return f"seed{'s' if len(figures['seeds']) > 1 else ''} {', '.join(figures['seeds'])}"


def seed_tables(figures: Mapping[str, Any], spaces: Mapping[str, str], title: str) -> list[str]:
    """The tables of some seeds, for all rows that each of them has; `title` ends their headings."""
    facts = (
        f"{seeds_of(figures).capitalize()}, about {figures['queries']['mean']:.0f} queries in each. A random neighbor "
        f"is right in {percent(figures['chance'])}."
    )
    if READ_BY_SHOT.keys() & figures["encoders"].keys():
        facts += (
            " In rows that end in `by learned` or `by whitened`, the encoder trained on these pairs reads each shot by "
            "itself, and its vectors are averaged like those of the rival of the same name."
        )
    parts = [f"## Encoders{title}\n\n{facts}\n\n" + encoders(figures["encoders"], spaces)]
    parts.append(f"## P@1 in each space{title}\n\n" + by_space(figures["encoders"]))
    if pairs := figures["scene_pairs"]:
        parts.append(f"## Scene pairs{title}: share with the same label\n\n" + scene_pairs(pairs))
    if correlation := figures.get("rank_correlation"):
        spread = f" ± {correlation['deviation']:.2f}" if correlation["deviation"] else ""
        parts.append(
            "Between the share of mined pairs with the same place and the P@1 of what is trained on them, the rank "
            f"correlation over sets is {correlation['mean']:.2f}{spread}."
        )
    if networks := figures["similar_films"]:
        parts.append(f"## Similar films{title}: accuracy on held-out films\n\n" + similar_films(networks))
    if pictures := figures["pictures"]:
        parts.append(f"## Photographs of other places{title}: accuracy\n\n" + photographs(pictures))
    return parts


def encoders(rows: Mapping[str, Any], spaces: Mapping[str, str]) -> str:
    body = []
    for name, figures in rows.items():
        picked = [figures.get(f"{spaces[name]}/{each}", figures.get(each)) for each in FIGURES]
        body.append([words(name), spaces[name], *map(percent, picked)])
    return table(["", "space", *FIGURES.values()], body)


def by_space(rows: Mapping[str, Any]) -> str:
    body = [
        [words(name), *(percent(figures.get(f"{space}/precision_at_1")) for space in SPACES)]
        for name, figures in rows.items()
    ]
    return table(["", *SPACES], body)


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
            f"{100 * claim['mean']:+.1f} ± {100 * claim['standard_error']:.1f} by {claim['standard_error_by']}",
            f"{claim['seeds_above_zero']} of {claim['seeds']}",
            claim["verdict"],
        ]
        for claim in judged
    ]
    said = (
        "A claim holds or fails if a t-test at 5 % tells its difference from zero. Standard errors are over seeds. "
        "With fewer than three seeds, they are clustered by film, or taken from how much the other claims about two "
        "trained rows vary over seeds, whichever is larger."
    )
    return f"{said}\n\n" + table(["claim", "difference ± standard error", "seeds above zero", "verdict"], body)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def percent(figure: Mapping[str, float] | None) -> str:
    """Mean and deviation in percent; the mean alone if all seeds have the same value, or there is one seed."""
    if not figure:
        return "–"
    spread = f" ± {100 * figure['deviation']:.1f}" if figure["deviation"] else ""
    return f"{100 * figure['mean']:.1f}{spread}"


def words(name: str) -> str:
    return name.replace("_", " ")
