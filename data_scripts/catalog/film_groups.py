"""Which facts of several sources are about the same film.

Entries are grouped by IMDb id, or by an id of another catalog that some source pairs with one; then groups without
IMDb id join others by title and year. A source's own ids keep its films apart, even of one title and year.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_scripts.catalog.film_names import is_imdb_id, title_key
from data_scripts.metadata.facts import FilmFacts
from data_scripts.stages.text_files import Problems

# How a source's film was found in other sources, or why it was not.
BY_ID, BY_OTHER_ID = "by id", "by another catalog's id"
BY_TITLE, BY_NEAR_YEAR = "by title and year", "by title and nearly the year"
ALONE, AMBIGUOUS, REPEATED = "in no other source", "not joined: several films of that title and year", "repeated"


@dataclass(eq=False)
class Source:
    """A source of facts; the lowest `order` wins. `ways` counts how its films were found in other sources."""

    name: str
    order: int
    problems: Problems
    is_lookup: bool = False
    is_video: bool = False
    ways: Counter[str] = field(default_factory=Counter)

    def record(self) -> dict[str, Any]:
        problems = {kind: {"count": n, "first": self.problems.first[kind]} for kind, n in self.problems.counts.items()}
        films = dict(sorted(self.ways.items()))
        return {"source": self.name, "lookup": self.is_lookup, "films": films, "problems": problems}


@dataclass(eq=False)
class Entry:
    """One source's facts about a film; `way` says how it joined the film's other entries, if not by its own name."""

    source: Source
    facts: FilmFacts
    way: str = ""


class SourceId(NamedTuple):
    """The name of a film without IMDb id: another catalog, and the film's id in it."""

    catalog: str
    number: str


class TitleYear(NamedTuple):
    """The name of a film without ids: its title's key, and its year."""

    title: str
    year: int | None


# Facts of the same name are about the same film.
Name = str | SourceId | TitleYear
Groups = dict[Name, list[Entry]]


class Relevance:
    """Whether facts can concern one of the films given, by an id or by title and year."""

    def __init__(self, films: Iterable[FilmFacts], year_tolerance: int):
        self.offsets = range(-year_tolerance, year_tolerance + 1)
        self.ids: set[str | tuple[str, str] | None] = set()
        self.titles: set[tuple[str, int]] = set()
        for film in films:
            self._learn_ids(film)
            self.titles.update(_titles_with_year(film))

    def __call__(self, facts: FilmFacts) -> bool:
        """The ids of facts that do become relevant themselves: one lookup may find what another one joins by."""
        titles = ((title, year + n) for title, year in _titles_with_year(facts) for n in self.offsets)
        relevant = not self.ids.isdisjoint({facts.movie_id, facts.source_id}) or any(
            each in self.titles for each in titles
        )
        if relevant:
            self._learn_ids(facts)
        return relevant

    def _learn_ids(self, film: FilmFacts) -> None:
        self.ids |= {film.movie_id, film.source_id} - {None}


def group_films(entries: Sequence[Entry], year_tolerance: int) -> Groups:
    """Group the entries of each film: by id first, then groups without IMDb id by title and year, surer kinds first.

    A group joins another if that is the only one of its title and year; films of the catalog take precedence over those
    that only a lookup knows. Films that a catalog tells apart by its ids never join the same film. With a tolerance,
    each remaining group joins the only film of its title in the years around, unless that film already has an entry
    from the same source or one that matches the exact year.
    """
    groups = _group_by_name(entries)
    by_title: dict[tuple[str, int], dict[Name, None]] = defaultdict(dict)
    catalogs = list(dict.fromkeys(name.catalog for name in groups if isinstance(name, SourceId)))
    kinds = {name: _kind(name, members, catalogs) for name, members in groups.items()}
    for kind in sorted(set(kinds.values())):
        names = [name for name in groups if kinds[name] == kind]
        if kind > 0:
            _join_by_title(groups, names, by_title, 0)
            if year_tolerance:
                _join_by_title(groups, [name for name in names if name in groups], by_title, year_tolerance)
        for name in names:
            for entry in groups.get(name, ()):
                for title in _titles_with_year(entry.facts):
                    by_title[title][name] = None
    return dict(groups)


def _kind(name: Name, members: list[Entry], catalogs: list[str]) -> int:
    """How sure a film's identity is, surest first: 0 IMDb id, 1 an id of one's own, then an id of each other catalog,
    then title and year, last only a file's name."""
    if is_imdb_id(name):
        return 0
    if _is_file(members):
        return len(catalogs) + 3
    if isinstance(name, SourceId):
        return 2 + catalogs.index(name.catalog)
    return 1 if isinstance(name, str) else len(catalogs) + 2


def _group_by_name(entries: Sequence[Entry]) -> Groups:
    """Entries of the same id, or else of the same title and year. Ids that any source pairs are the same film's."""
    tables = [entry.facts for entry in reversed(entries) if entry.facts.source_id and not entry.source.is_video]
    imdb_ids = {facts.source_id: facts.movie_id for facts in tables if is_imdb_id(facts.movie_id)}
    own_ids = {facts.source_id: facts.movie_id for facts in tables if facts.movie_id}
    listed = {facts.source_id for facts in tables}
    groups: Groups = defaultdict(list)
    for entry in entries:
        facts = entry.facts
        # A video's own name counts less than an id in it that some table has.
        movie_id = None if entry.source.is_video and facts.source_id in listed else facts.movie_id
        paired = imdb_ids.get(facts.source_id) or (None if movie_id else own_ids.get(facts.source_id))
        name: Name
        if is_imdb_id(facts.movie_id):
            name = str(facts.movie_id)
        elif paired:
            name, entry.way = paired, BY_OTHER_ID
        elif movie_id:
            name = movie_id
        elif facts.source_id:
            name = SourceId(*facts.source_id)
        else:
            name = TitleYear(title_key(facts.title), facts.year)
        groups[name].append(entry)
    return groups


def _join_by_title(
    groups: Groups, names: list[Name], by_title: dict[tuple[str, int], dict[Name, None]], year_tolerance: int
) -> None:
    way = BY_NEAR_YEAR if year_tolerance else BY_TITLE
    targets: dict[Name, Name] = {}
    for name in names:
        found = _films_of_title(groups, name, by_title, year_tolerance)
        if len(found) == 1:
            targets[name] = found[0]
        elif found:
            _mark_ambiguous(groups[name])
    takers = Counter(targets.values())
    is_id = {name for name in targets if not isinstance(name, TitleYear) and not _is_file(groups[name])}
    for name, target in targets.items():
        if name in is_id and (takers[target] > 1 or _has_other_id(groups[target], name)):
            _mark_ambiguous(groups[name])
            continue
        if year_tolerance:
            sources = {entry.source for entry in groups[name]}
            if takers[target] > 1 or any(e.way == BY_TITLE or e.source in sources for e in groups[target]):
                continue
        for entry in groups.pop(name):
            entry.way = way
            groups[target].append(entry)


def _mark_ambiguous(members: list[Entry]) -> None:
    for entry in members:
        entry.way = AMBIGUOUS


def _is_file(members: list[Entry]) -> bool:
    return all(entry.source.is_video for entry in members)


def _has_other_id(members: list[Entry], name: Name) -> bool:
    """Whether a film has another id in the catalog of a `SourceId`."""
    ids = {entry.facts.source_id for entry in members if entry.facts.source_id}
    return isinstance(name, SourceId) and any(
        catalog == name.catalog and number != name.number for catalog, number in ids
    )


def _films_of_title(
    groups: Groups, name: Name, by_title: dict[tuple[str, int], dict[Name, None]], year_tolerance: int
) -> list[Name]:
    """The surer films with the group's title; if it has several titles, with the first that any such film has."""
    for entry in groups[name]:
        for title, year in _titles_with_year(entry.facts):
            years = range(year - year_tolerance, year + year_tolerance + 1)
            found = list(dict.fromkeys(film for near in years for film in by_title.get((title, near), ())))
            if found:
                in_catalog = [film for film in found if any(not e.source.is_lookup for e in groups[film])]
                return in_catalog or found
    return []


def _titles_with_year(facts: FilmFacts) -> list[tuple[str, int]]:
    if facts.year is None:
        return []
    return [(title_key(title), facts.year) for title in (facts.title, *facts.other_titles) if title]


def count_ways(groups: Groups) -> None:
    """Count in each source how its films were found in other sources."""
    for name, members in groups.items():
        seen: set[Source] = set()
        for entry in members:
            others = [other for other in members if other.source is not entry.source]
            if entry.source in seen:
                way = REPEATED
            elif not others:
                way = entry.way if entry.way == AMBIGUOUS else ALONE
            elif entry.way:
                way = entry.way
            elif any(not other.way for other in others):
                way = BY_TITLE if isinstance(name, TitleYear) else BY_ID
            else:
                way = others[0].way
            seen.add(entry.source)
            entry.source.ways[way] += 1


def movie_ids(groups: Groups) -> dict[Name, str]:
    """Ids of films; a film without one is named by title and year, such as big-buck-bunny-2008."""
    ids: dict[Name, str] = {name: name for name in groups if isinstance(name, str)}
    taken = set(ids.values())
    unnamed = {_title_year(name, members): name for name, members in groups.items() if name not in ids}
    for (title, year, *_), name in sorted(unnamed.items()):
        words = "-".join([*title.split(), *([str(year)] if year else [])])
        numbered = (f"{words}-{number}" for number in itertools.count(2))
        ids[name] = next(movie_id for movie_id in itertools.chain([words], numbered) if movie_id not in taken)
        taken.add(ids[name])
    return ids


def _title_year(name: Name, members: list[Entry]) -> tuple[str, int, str, int, str]:
    """The title and year that a film's id is made of, 0 if it has no year, and what tells it from others of these."""
    if isinstance(name, TitleYear):
        return name.title, name.year or 0, "", 0, ""
    facts = [entry.facts for entry in sorted(members, key=lambda entry: entry.source.order)]
    title = next((film.title for film in facts if film.title), "")
    year = next((film.year for film in facts if film.year), 0)
    return title_key(title), year, name[0], len(name[1]), name[1]
