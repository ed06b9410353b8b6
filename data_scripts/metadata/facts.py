"""`FilmFacts`, the facts that a source gives about a film, read from the cells of a `Row` in any usual spelling."""

import ast
import html
import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_scripts.catalog.film_names import imdb_id, named_imdb_id
from data_scripts.stages.text_files import Problems

# Cells that say that something is unknown.
EMPTY = {"", r"\n"}
UNKNOWN = {*EMPTY, "nan", "<na>", "none", "null", "n/a", "na", "unknown", "(no genres listed)"}
# Texts that stand for a missing synopsis, without their punctuation.
NO_SYNOPSIS = re.compile(
    r"(no|without) (plot |synopsis |overview |description |summary )?(overview|plot|synopsis|description|summary|"
    r"information|info|data)( (was |is )?(found|available|yet|exists|given|provided))*|"
    r"(the )?(plot|synopsis|overview|description|summary|details)( is| are)? (is )?(unknown|unavailable|missing|"
    r"not available|kept under wraps|under wraps|to be (announced|determined)|tba|tbd|coming soon)|"
    r"(synopsis|plot|overview|description) not (available|found)|not available|coming soon|to be announced|tba|tbd|"
    r"add a plot|we dont have an overview.*|missing|empty",
    flags=re.IGNORECASE,
)
# Names of the numbers that TMDB's lists of films give instead of genres.
TMDB_GENRES = {
    12: "Adventure",
    14: "Fantasy",
    16: "Animation",
    18: "Drama",
    27: "Horror",
    28: "Action",
    35: "Comedy",
    36: "History",
    37: "Western",
    53: "Thriller",
    80: "Crime",
    99: "Documentary",
    878: "Science Fiction",
    9648: "Mystery",
    10402: "Music",
    10749: "Romance",
    10751: "Family",
    10752: "War",
    10770: "TV Movie",
}


@dataclass(slots=True)
class FilmFacts:
    """One source's facts about one film; `None` or empty if unknown.

    Args:
        movie_id: `tt…` if it is an IMDb id; a table of one's own may have other ids.
        source_id: (catalog, id) in another catalog, such as ("TMDB", "841"). Two ids of one catalog are two films.
        other_titles: more titles of the same film, to join by.
        video: a file that the source names.
        line: line or entry in its file, for messages.
    """

    movie_id: str | None = None
    source_id: tuple[str, str] | None = None
    title: str = ""
    year: int | None = None
    genres: tuple[str, ...] = ()
    synopsis: str = ""
    video: str = ""
    other_titles: tuple[str, ...] = ()
    line: int | str = 0


@dataclass
class Row:
    """A row of a table, or an entry of another file, by casefolded names of columns.

    Cells are text, or what JSON and Parquet have: numbers, dates, lists, None. Each method reads the first of the given
    columns that says something; a cell that cannot be read counts as a problem and as unknown.
    """

    cells: dict[str, Any]
    path: Path
    place: int | str
    problems: Problems

    def cell(self, columns: Iterable[str]) -> Any:
        """The first cell that is not empty; the empty text if there is none."""
        for name in columns:
            cell = self.cells.get(name)
            if not is_unknown(cell, EMPTY):
                return cell
        return ""

    def text(self, columns: Iterable[str]) -> str:
        """A cell as text: entities of HTML decoded, in Unicode's composed form."""
        return plain_text(self.cell(columns))

    def imdb_id(self, columns: Iterable[str]) -> str | None:
        """The IMDb id in columns that hold such ids; `tt` may be missing there."""
        return self._known(self.cell(columns), imdb_id, "ids that are no IMDb ids")

    def named_imdb_id(self, columns: Iterable[str]) -> str | None:
        """The IMDb id in columns of any ids; only one that begins with `tt`, or a page of IMDb, is one."""
        return named_imdb_id(self.text(columns))

    def year(self, columns: Iterable[str]) -> int | None:
        return self._known(self.cell(columns), year_of, "years that cannot be read")

    def genres(self, columns: Iterable[str]) -> tuple[str, ...]:
        try:
            return genre_names(self.cell(columns))
        except (ValueError, TypeError, KeyError):
            self.problems.add("genres that cannot be read", self.path, self.place)
            return ()

    def synopsis(self, columns: Iterable[str]) -> str:
        """A text without HTML's tags; a text that stands for a missing synopsis is counted and empty."""
        text = re.sub(r"\s*</?[a-z][^<>]*>\s*", " ", self.text(columns), flags=re.IGNORECASE).strip()
        if text and says_nothing(text):
            self.problems.add("synopses that say nothing", self.path, self.place)
            return ""
        return text

    def _known(self, cell: Any, read: Any, kind: str) -> Any:
        if is_unknown(cell):
            return None
        value = read(cell)
        if value is None:
            self.problems.add(kind, self.path, self.place)
        return value


def is_unknown(cell: Any, unknown: Collection[str] = UNKNOWN) -> bool:
    """Whether a cell says nothing."""
    if isinstance(cell, str):
        return cell.strip().casefold() in unknown
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, list | tuple | dict) and not cell


def plain_text(cell: Any) -> str:
    """A cell as text: entities of HTML decoded, also if they were encoded twice, in Unicode's composed form."""
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def year_of(cell: Any) -> int | None:
    """The first year of a date or of a text, from 1800 to 2099: 1999, 1999-03-31, 3/31/1999, 19990331, 2003–."""
    found = re.search(r"(?<!\d)(1[89]\d\d|20\d\d)(?=\d{4}(?!\d)|(?!\d))", str(cell))
    return int(found[1]) if found else None


def says_nothing(text: str) -> bool:
    """Whether a synopsis is one of the texts that stand for a missing one."""
    if is_unknown(text):
        return True
    words = " ".join(re.findall(r"\w+", re.sub(r"['’]", "", text.casefold())))
    return not words or NO_SYNOPSIS.fullmatch(words) is not None


def genre_names(cell: Any) -> tuple[str, ...]:
    """Genres of a cell, each once.

    A list of names, of TMDB's numbers, or of dicts with a name; the same as text of JSON, Python, NumPy or PostgreSQL;
    Freebase's dict of names; or names between `|`, `,`, `;` or `/`.

    Raises:
        ValueError: a list that cannot be read.
    """
    if is_unknown(cell):
        return ()
    if isinstance(cell, str):
        cell = _parse_genres(cell.strip())
    if isinstance(cell, dict):
        cell = [cell] if "name" in cell else cell.values()
    names = [_genre_name(item) for item in cell]
    return tuple(dict.fromkeys(name for name in names if name.casefold() not in UNKNOWN))


def _genre_name(item: Any) -> str:
    if isinstance(item, dict):
        item = item["name"]
    return " ".join(plain_text(TMDB_GENRES.get(item, item) if isinstance(item, int) else item).split())


def _parse_genres(text: str) -> Any:
    if not text.startswith(("[", "{")):
        return re.split(r"[|,;/]", html.unescape(text))
    try:
        return json.loads(text)
    except ValueError:
        pass
    if not re.search(r"""['":]""", text) or (text.startswith("{") and not re.search(r"""['"]\s*:""", text)):
        return [name.strip(" \"'") for name in text.strip("[]{}").split(",")]  # bare words, or PostgreSQL's {a,"b c"}
    try:
        return ast.literal_eval(re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", text))  # NumPy writes no commas
    except SyntaxError as error:
        raise ValueError(str(error)) from None
