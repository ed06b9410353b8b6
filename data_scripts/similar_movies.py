"""Find similar films: by what people watched next, by genre, by synopsis.

    python -m data_scripts.similar_movies --movies catalog/movies --sources co_watch genre synopsis \\
        --ratings ratings.csv --links links.csv --output catalog/similar_movies
    … --sources synopsis --text-encoder sentence-transformers/all-MiniLM-L6-v2 --show "Toy Story" Heat

Writes the dataset `similar_movies`, directed pairs of films: by default three per film and source, as in the paper
[4.1]. Films that the catalog excludes from training are in no pair. The record lists the films that were drawn from,
`candidates`, and no later stage takes others.

    co_watch    films that the same persons watched next, most often first (the paper's)
    co_rating   films that the same persons rated, whatever the order (ours)
    genre       random films of the same genre (the paper's); if a film has several genres, one is drawn (ours)
    synopsis    inner product of embeddings of the synopses (the paper's), or TF-IDF without a text encoder (ours)

10 million ratings and 30,000 films take minutes. A killed run starts anew; an earlier dataset stays until it is done.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command

SOURCES = ("co_rating", "co_watch", "genre", "synopsis")
WATCHED = {"co_rating", "co_watch"}
# Plain counts for co-watch, as in the paper. Plain counts of co-rating would give every film the same popular
# neighbors; divided by the root of their watchers, they rank as the cosine does.
POPULARITY_CORRECTION = {"co_watch": 0.0, "co_rating": 0.5}


@dataclass(kw_only=True)
class SimilarMoviesArguments:
    """Which sources make films similar, and for which films."""

    movies: Path = field(metadata={"help": "the movies dataset, whose excluded films are left out"})
    output: Path = field(metadata={"help": "folder of the similar_movies dataset"})
    sources: list[str] = field(metadata={"help": f"sources of similarity: one or more of {', '.join(SOURCES)}"})
    ratings: Path | None = field(
        default=None,
        metadata={"help": "ratings or a watch log: a CSV of userId, movieId, timestamp; ratings.dat; u.data"},
    )
    links: Path | None = field(
        default=None,
        metadata={
            "help": "CSV of movieId, imdbId for the ids of --ratings; by default those of MovieLens' films beside the "
            "ratings, else the catalog's own"
        },
    )
    allow_few_matches: bool = field(
        default=False,
        metadata={"help": "accept ratings that know less than half of the catalog, or mostly films that it lacks"},
    )
    text_encoder: str | None = field(
        default=None,
        metadata={"help": "sentence-transformers model for synopses, a folder or Hub id; by default TF-IDF"},
    )
    top_k: int = field(default=3, metadata={"help": "largest number of similar films for each film and source"})
    thresholds: list[str] = field(
        default_factory=list,
        metadata={
            "help": "minimum score by source, such as co_watch=2 (persons, before the popularity correction) or "
            "synopsis=0.5 (inner product)"
        },
    )
    popularity_correction: float | None = field(
        default=None,
        metadata={
            "help": "0 to 1: divide co-watch and co-rating counts by this power of the similar film's watchers; "
            "by default 0 for co_watch, the paper's ranking, and 0.5 for co_rating"
        },
    )
    max_burst: int = field(
        default=20,
        metadata={
            "help": "largest number of films that a person rates at one time; more have no order and are left out"
        },
    )
    shots: Path | None = field(default=None, metadata={"help": "folder of a shots dataset: use only its films"})
    seed: int = field(default=0, metadata={"help": "seed of the random films of a genre"})
    show: list[str] = field(
        default_factory=list, metadata={"help": "titles or ids of films whose similar films are printed"}
    )

    def __post_init__(self) -> None:
        self.sources = sorted(set(self.sources))
        if unknown := set(self.sources) - set(SOURCES):
            raise ValueError(f"--sources {' '.join(sorted(unknown))}: not among {', '.join(SOURCES)}")
        if not self.sources:
            raise ValueError(f"--sources names none of {', '.join(SOURCES)}")
        if WATCHED.intersection(self.sources) and self.ratings is None:
            raise ValueError(f"--sources {' '.join(self.sources)} needs --ratings")
        if self.text_encoder and "synopsis" not in self.sources:
            raise ValueError(f"--text-encoder {self.text_encoder} is for --sources synopsis")
        if self.top_k < 1:
            raise ValueError(f"--top-k {self.top_k} must be at least 1")
        if self.max_burst < 1:
            raise ValueError(f"--max-burst {self.max_burst} must be at least 1")
        if self.max_burst != type(self).max_burst and "co_watch" not in self.sources:
            raise ValueError(f"--max-burst {self.max_burst} is for --sources co_watch")
        if not 0 <= (self.popularity_correction or 0) <= 1:
            raise ValueError(f"--popularity-correction {self.popularity_correction} is not from 0 to 1")
        for name in ("ratings", "links", "popularity_correction"):
            if (value := getattr(self, name)) is not None and not WATCHED.intersection(self.sources):
                raise ValueError(f"--{name.replace('_', '-')} {value} is for --sources {' or '.join(sorted(WATCHED))}")
        self.lowest()

    def lowest(self) -> dict[str, float]:
        """The thresholds by source."""
        lowest = {}
        for given in self.thresholds:
            source, _, value = given.partition("=")
            if source not in self.sources or source == "genre":
                raise ValueError(f"--thresholds {given}: {source!r} is not a source of this run that has scores")
            try:
                lowest[source] = float(value)
            except ValueError:
                raise ValueError(f"--thresholds {given}: expected a number, as in {source}=0.5") from None
        return lowest

    def correction(self, source: str) -> float:
        """The strength of the popularity correction of co_watch or co_rating."""
        return POPULARITY_CORRECTION[source] if self.popularity_correction is None else self.popularity_correction


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.similar_movies", SimilarMoviesArguments, run, argv)


def run(arguments: SimilarMoviesArguments) -> None:
    from data_scripts.similarity.films import similar_movies

    similar_movies(arguments)


if __name__ == "__main__":
    main()
