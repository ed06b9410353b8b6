"""Make a catalog of films from a folder of videos, metadata in usual formats, or both.

    python -m data_scripts.make_catalog --videos films --metadata ml-latest-small --output catalog/movies
    python -m data_scripts.make_catalog --videos films --lookup title.basics.tsv.gz plots.csv --output catalog/movies
    … --exclude lvu_1.0 movie1K.split.v1.json           benchmarks' films are marked: no training draws from them

Every film of `--videos` and `--metadata` enters the catalog. `--lookup` only fills gaps of these films and adds none,
so it may be a table of all the films in the world. docs/catalog.md lists the formats.

Films are joined by IMDb id (or another catalog's id, if some source pairs the two), else by title and year, if exactly
one film has these. An id is IMDb's only where its column or file says so, or it begins with `tt`. A film's id is its
IMDb id if any source has it, else the `movie_id` of a table, else made of title and year: big-buck-bunny-2008. Title,
year, genres and synopsis each come from the first source that has one, in the order given, metadata before lookup
before file names. Genres of several sources are not united, because sources name the same genre differently.

A video is matched by a `tt…` or `[tmdbid-…]` in its name or its folder's name, else by title and year there ("Emma
(1996).mkv", "Emma.1996.1080p.mkv"), or by a table's `movie_id` that equals its name. A video without a match becomes a
film of its own under its name. If a film has several files, the catalog has the largest. Extras, samples and trailers
are no films (`catalog/video_files.py`). A summary of what was joined, and how, is printed and stored in m2s.json.

The column `excluded` says why a film takes no part in training (`catalog/leak_guard.py`), and all later stages obey it.
Titles of benchmarks' films are taken from all sources, lookups too. Excluding other films takes another folder, because
what was made from the first may hold them.

The paper's catalog has 30,340 films with co-watch, genre and synopsis [4.1]; the paper does not say how it was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class CatalogArguments:
    """Sources and options of a catalog."""

    output: Path = field(metadata={"help": "folder of the movies dataset, such as catalog/movies"})
    videos: list[Path] = field(
        default_factory=list, metadata={"help": "video files, or folders with videos at any depth"}
    )
    metadata: list[Path] = field(
        default_factory=list,
        metadata={"help": "metadata files or folders whose films enter the catalog; earlier ones win"},
    )
    lookup: list[Path] = field(
        default_factory=list, metadata={"help": "metadata files or folders that fill gaps, but add no films"}
    )
    year_tolerance: int = field(
        default=0, metadata={"help": "number of years that sources may differ by, if only one film has the title"}
    )
    exclude: list[Path] = field(
        default_factory=list,
        metadata={"help": "label files of benchmarks, or lists of IMDb ids, whose films take no part in training"},
    )
    require_imdb_id: bool = field(
        default=False,
        metadata={"help": "exclude from training all films without IMDb id, which benchmarks' lists cannot name"},
    )
    license: str | None = field(
        default=None,
        metadata={"help": "license of films and metadata, as text, for the cards of all that is made from them"},
    )


def main(argv: Sequence[str] | None = None) -> None:
    run_command("python -m data_scripts.make_catalog", CatalogArguments, run, argv)


def run(arguments: CatalogArguments) -> None:
    from data_scripts.catalog.building import make_catalog, print_summary

    print_summary(make_catalog(arguments), arguments.output)


if __name__ == "__main__":
    main()
