"""Names of films: IMDb ids, titles and years, in the spellings of different sources."""

import re
import unicodedata

ARTICLES = "the|a|an|le|la|les|un|une|el|los|las|il|lo|gli|der|die|das|den|det|o|os"


def imdb_id(text: object) -> str | None:
    """An id, known to be IMDb's, as `tt` and seven or more digits: `tt` may be missing; `None` if it is no id."""
    found = re.fullmatch(r"(?:tt)?(\d{1,9})(?:\.0)?", str(text or "").strip(), flags=re.IGNORECASE)
    return f"tt{int(found[1]):07d}" if found and int(found[1]) else named_imdb_id(text)


def named_imdb_id(text: object) -> str | None:
    """An id of any catalog, if it is IMDb's: it begins with `tt`, or is the address of a film's page there."""
    found = re.fullmatch(
        r"(?:.*\bimdb\.com/(?:\w+/)*title/)?tt(\d{5,9})(?:[/?#].*)?", str(text or "").strip(), re.IGNORECASE
    )
    return f"tt{int(found[1]):07d}" if found and int(found[1]) else None


def is_imdb_id(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"tt\d{7,9}", name) is not None


def title_key(title: str) -> str:
    """A key that all spellings of a title share: no case, accents or punctuation, `&` as and, the article in front.

    >>> title_key("Cité des enfants perdus, La") == title_key("La Cite des Enfants Perdus")
    True
    >>> title_key("8½") == title_key("8 1-2")
    True
    """
    article_moved = re.sub(rf"^(.+), ({ARTICLES}|l')$", r"\2 \1", title.strip(), flags=re.IGNORECASE)
    words_apart = re.sub(r"(?<=\w)(?=[¼-¾²³¹⁰-⁹⅐-⅞])", " ", article_moved.casefold().replace("&", " and "))
    letters = unicodedata.normalize("NFKD", words_apart)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = re.findall(r"[^\W_]+", re.sub(r"['’`´]", "", plain))
    return " ".join(words) or title.strip().casefold()


def split_year(text: str) -> tuple[str, int | None]:
    """Title and year of `Title (year)`; a span of years gives its first."""
    found = re.fullmatch(r"(.*?)\s*\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)", text.strip(), flags=re.DOTALL)
    return (found[1], int(found[2])) if found else (text.strip(), None)


def split_title(text: str) -> tuple[str, tuple[str, ...]]:
    """Title and other titles of MovieLens' `Seven (a.k.a. Se7en)`, articles moved to the front."""
    found = re.fullmatch(r"([^(]+?)\s*((?:\([^()]+\)\s*)+)", text)
    if not found:
        return _article_first(text), ()
    inside = re.findall(r"\((?:a\.?k\.?a\.?\s+)?([^()]+)\)", found[2], flags=re.IGNORECASE)
    return _article_first(found[1]), (text, *map(_article_first, inside))


def _article_first(title: str) -> str:
    moved = re.fullmatch(rf"(.+), ({ARTICLES})", title, flags=re.IGNORECASE)
    return f"{moved[2]} {moved[1]}" if moved else re.sub(r"^(.+), (L')$", r"\2\1", title)
