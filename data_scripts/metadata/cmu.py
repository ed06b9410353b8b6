"""The CMU Movie Summary Corpus: `movie.metadata.tsv`, and the plots of `plot_summaries.txt` beside it."""

from collections.abc import Iterator

from data_scripts.metadata.facts import FilmFacts
from data_scripts.metadata.rows import Rows, SeparatedRows
from data_scripts.stages.text_files import Problems

# Tables without header.
METADATA = ("wikipedia_id", "freebase_id", "name", "released", "revenue", "runtime", "languages", "countries", "genres")
PLOTS = ("wikipedia_id", "plot_summary")


def read_cmu(rows: Rows) -> Iterator[FilmFacts]:
    """The films, by their number at Wikipedia; a film without a plot has no synopsis."""
    plots_path = rows.path.with_name("plot_summaries.txt")
    plots = SeparatedRows(plots_path, PLOTS, Problems(), separator="\t") if plots_path.exists() else ()
    synopses = {row.text(("wikipedia_id",)): row for row in plots}
    for row in rows:
        number = row.text(("wikipedia_id",))
        plot = synopses.get(number)
        yield FilmFacts(
            source_id=("Wikipedia", number),
            title=row.text(("name",)),
            year=row.year(("released",)),
            genres=row.genres(("genres",)),
            synopsis=plot.synopsis(("plot_summary",)) if plot else "",
            line=row.place,
        )
