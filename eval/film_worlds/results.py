"""Results of `eval.experiments`: the seeds of this call and of earlier ones put together, and the claims judged."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from eval.film_worlds.retrieval import SPACES
from eval.film_worlds.rows import CEILING, CLAIMS, FROZEN, MINED, READ_BY_SHOT, TRAINED, UNTRAINED, Claim
from eval.metrics.retrieval import standard_error_of_sums
from modeling_m2s.storage_m2s import StorageError, atomic_write, read_json, write_json

PRECISION = "whitened/precision_at_1"
SCENE = ("movie_id", "first_shot")
FEWEST_SETS = 4  # for a rank correlation
FEWEST_SEEDS = 3  # for a standard error over seeds
Seeds = Mapping[str, Mapping[str, Any]]


def publish(results: dict[str, Any], tables: str, path: Path | None) -> None:
    """Print tables of results in Markdown. Given a JSON file, write the results there and the tables beside it."""
    if path:
        write_json(path, results)
        with atomic_write(path.with_suffix(".md")) as file:
            file.write(tables.encode())
    print(tables)


def combine(settings: dict[str, Any], rows: dict[str, Any], seeds: Seeds) -> dict[str, Any]:
    """All results in one: what was run, each seed, means over seeds, and the claims.

    Args:
        seeds: by seed, its figures as `ExperimentWorld.figures` gives them. Seeds may have different rows.
    """
    spaces = best_spaces(seeds)
    for figures in seeds.values():
        for name, share in share_of_gap(figures["encoders"]).items():
            figures["encoders"][name]["share_of_gap"] = share
    return {
        "settings": settings,
        "rows": rows,
        "spaces": spaces,
        "seeds": seeds,
        "over_seeds": [
            {"seeds": group, **summarize(_figures_to_average([seeds[seed] for seed in group]))}
            for group in groups_of_seeds(seeds)
        ],
        "claims": judge_claims(CLAIMS, seeds, spaces),
    }


def add_earlier(results: dict[str, Any], path: Path) -> dict[str, Any]:
    """The results with seeds and rows that an earlier call wrote into the file and this one did not run.

    Raises:
        StorageError: the file's worlds, recipes or scenes are others.
    """
    earlier = read_json(path)
    for name, value in results["settings"].items():
        if (found := earlier["settings"].get(name)) != value:
            raise StorageError(f"{path}: {name} is {found} there, {value} now; write into another file")
    seeds = {}
    for seed in sorted({*earlier["seeds"], *results["seeds"]}, key=int):
        before, now = (each["seeds"].get(seed, {}) for each in (earlier, results))
        both = [each["films"] for each in (before, now) if "films" in each]  # an early release wrote no hits by film
        if any(films[name] != both[0][name] for films in both for name in ("movie_id", "queries")):
            raise StorageError(f"{path}: seed {seed} was measured on other scenes; write into another file")
        seeds[seed] = _united(before, now)
    return combine(results["settings"], _in_order({**earlier["rows"], **results["rows"]}), seeds)


def _united(before: Any, now: Any) -> Any:
    """Nested dictionaries in one; where both have a value, the new one."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return now
    return {
        **before,
        **{name: _united(before[name], value) if name in before else value for name, value in now.items()},
    }


def _in_order(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rows[name] for name in (*UNTRAINED, *TRAINED, *READ_BY_SHOT) if name in rows}


def groups_of_seeds(seeds: Seeds) -> list[list[str]]:
    """The sets of seeds that have a row in common which no other seed has, the largest first."""
    rows = {name for figures in seeds.values() for name in figures["encoders"]}
    groups = {tuple(seed for seed, figures in seeds.items() if name in figures["encoders"]) for name in rows}
    return [list(group) for group in sorted(groups, key=lambda group: (-len(group), group))]


def best_spaces(seeds: Seeds) -> dict[str, str]:
    """By row, the space in which it is compared: whitened for encoders, for rivals the one where they do best.

    An encoder that reads as a rival does is compared in the rival's space.
    """

    def precision(name: str, space: str) -> float:
        encoders = [figures["encoders"] for figures in seeds.values()]
        return float(np.mean([each[name][f"{space}/precision_at_1"] for each in encoders if name in each]))

    rivals = {name for name, words in UNTRAINED.items() if words[0] == "--features"}
    rows = _in_order({name: None for figures in seeds.values() for name in figures["encoders"]})
    spaces = {name: max(SPACES, key=partial(precision, name)) if name in rivals else "whitened" for name in rows}
    return spaces | {name: spaces[READ_BY_SHOT[name].rival] for name in rows if name in READ_BY_SHOT}


def hits_by_film(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many queries of each film find the same place as their nearest neighbor, by row and space.

    Films and counts are joined by spaces, which keeps files of results short.

    Raises:
        ValueError: two rows were not measured on the same scenes.
    """
    first = next(iter(measurements))
    for name, each in measurements.items():
        if any(each["queries"][column] != measurements[first]["queries"][column] for column in SCENE):
            raise ValueError(f"{first} and {name} were measured on different scenes")
    films, numbers_N = np.unique(measurements[first]["queries"]["movie_id"], return_inverse=True)

    def joined(values_N: Sequence[float] | None) -> str:
        return " ".join(f"{count:.0f}" for count in np.bincount(numbers_N, values_N, len(films)))

    return {
        "movie_id": " ".join(films),
        "queries": joined(None),
        "hits": {
            name: {space: joined(each["queries"][f"{space}/precision_at_1"]) for space in SPACES}
            for name, each in measurements.items()
        },
    }


def judge_claims(claims: Sequence[Claim], seeds: Seeds, spaces: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each claim that these seeds can judge, with the difference of its rows in precision at 1 on the same scenes.

    Returns:
        `mean` difference and its `standard_error`; in how many seeds it is above zero; `verdict`: holds or fails if a
        t-test at 5 % tells the mean from zero, else open.

        `standard_error_by`: seed, if at least `FEWEST_SEEDS` have both rows. An error by film leaves out that worlds
        and training runs differ. So with fewer seeds the error is the larger one of that by film (films of two seeds
        are different films) and of `other claims`: the spread over seeds of the claims about two trained rows that have
        enough seeds. Without any such claim, the verdict is open. These claims share rows and seeds, so the test has
        only as many degrees of freedom as the one with the fewest seeds.
    """
    found = [(claim, _differences(claim, seeds, spaces)) for claim in claims]
    known = [
        each.by_seed
        for claim, each in found
        if each and len(each.by_seed) >= FEWEST_SEEDS and {claim.better, claim.worse} <= TRAINED.keys()
    ]
    spread = None
    if known:
        deviation = float(np.sqrt(np.mean([np.var(differences, ddof=1) for differences in known])))
        spread = Spread(deviation, min(map(len, known)) - 1)
    return [_judged(claim, each, spread) for claim, each in found if each]


class Spread(NamedTuple):
    """The standard deviation over seeds of a difference of two trained rows, and its degrees of freedom."""

    deviation: float
    degrees: int


class Differences(NamedTuple):
    """How much more the better row of a claim finds: by seed, and by film their mean and its error, if known."""

    by_seed: np.ndarray
    by_film: tuple[float, float] | None


def _differences(claim: Claim, seeds: Seeds, spaces: Mapping[str, str]) -> Differences | None:
    """None if no seed has both rows, or only one and without hits by film."""
    rows = {claim.better: spaces.get(claim.better), claim.worse: spaces.get(claim.worse)}
    chosen = [figures for figures in seeds.values() if rows.keys() <= figures["encoders"].keys()]
    better, worse = (
        np.array([figures["encoders"][name][f"{space}/precision_at_1"] for figures in chosen])
        for name, space in rows.items()
    )
    if all(rows.keys() <= figures.get("films", {"hits": {}})["hits"].keys() for figures in chosen) and chosen:
        more, fewer = (
            _numbers(figures["films"]["hits"][name][space] for figures in chosen) for name, space in rows.items()
        )
        queries = _numbers(figures["films"]["queries"] for figures in chosen)
        return Differences(better - worse, standard_error_of_sums(more - fewer, queries))
    return Differences(better - worse, None) if len(chosen) > 1 else None


def _judged(claim: Claim, found: Differences, spread: Spread | None) -> dict[str, Any]:
    count, degrees = len(found.by_seed), spread.degrees if spread else 1
    mean, errors = float(np.mean(found.by_seed)), {}
    if found.by_film:
        mean, errors["film"] = found.by_film
    if count >= FEWEST_SEEDS:
        errors = {"seed": float(scipy.stats.sem(found.by_seed))}
        mean, degrees = float(np.mean(found.by_seed)), count - 1
    elif spread:
        errors["other claims"] = spread.deviation / count**0.5
    elif count > 1 and not errors:
        errors["seed"] = float(scipy.stats.sem(found.by_seed))
    by = max(errors, key=errors.__getitem__)
    is_open = abs(mean) <= scipy.stats.t.ppf(0.975, degrees) * errors[by] or (count < FEWEST_SEEDS and not spread)
    return {
        **asdict(claim),
        "mean": round(mean, 4),
        "standard_error": round(errors[by], 4),
        "standard_error_by": by,
        "seeds_above_zero": int((found.by_seed > 0).sum()),
        "seeds": count,
        "verdict": "open" if is_open else "holds" if mean > 0 else "fails",
    }


def _numbers(joined: Iterable[str]) -> np.ndarray:
    return np.concatenate([np.array(numbers.split(), int) for numbers in joined])


def _figures_to_average(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures by seed, with the rank correlation between how often mined pairs share a place and what they teach.

    Only rows that all these seeds have and that differ by their mined pairs alone take part, not those of random
    windows or of true places. A seed whose sets are all equal in one of the two has no correlation.
    """
    numbers = [{name: value for name, value in figures.items() if name != "films"} for figures in seeds]
    in_all = set.intersection(*(set(figures["encoders"]) for figures in seeds))
    sets = [name for name in TRAINED if name in in_all and _differs_by_pairs_alone(name)]
    if len(sets) < FEWEST_SETS:
        return numbers
    for figures in numbers:
        precision = [figures["scene_pairs"][name]["all"]["place"] for name in sets]
        found = [figures["encoders"][name][PRECISION] for name in sets]
        if len(set(precision)) == 1 or len(set(found)) == 1:
            continue  # equal values have no ranks
        figures["rank_correlation"] = round(float(scipy.stats.spearmanr(precision, found).statistic), 4)
    return numbers


def _differs_by_pairs_alone(name: str) -> bool:
    row = TRAINED[name]
    mined = MINED[row.pairs]
    return not (row.flags or row.by_momentum or row.keyframes > 1) and mined.space not in ("random", "truth")


def share_of_gap(encoders: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """By trained row, the share of the way from the frozen encoder to true places that it goes; empty without a gap."""
    if CEILING not in encoders or (gap := encoders[CEILING][PRECISION] - encoders[FROZEN][PRECISION]) <= 0:
        return {}
    return {
        name: round((figures[PRECISION] - encoders[FROZEN][PRECISION]) / gap, 4)
        for name, figures in encoders.items()
        if name in TRAINED
    }


def summarize(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every number that all seeds have."""

    def merge(values: list[Any]) -> Any:
        if all(isinstance(value, dict) for value in values):
            return {name: merge([value[name] for value in values]) for name in values[0] if _in_all(name, values)}
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"mean": round(statistics.fmean(values), 4), "deviation": round(spread, 4)}

    return merge(seeds)


def _in_all(name: str, values: list[dict[str, Any]]) -> bool:
    return all(name in value for value in values)
