"""How alike synopses are: embeddings of a text encoder, or TF-IDF without one, and their inner products.

The paper [4.1] takes inner products of the embeddings of a pre-trained language model, which it does not describe
further. Ours is any model that sentence-transformers loads, its embeddings scaled to length one.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from modeling_m2s.pretrained_m2s import model_revision, name_without_folders

FILMS_AT_ONCE = 512
BATCH_SIZE = 32
DECIMALS = 5


class TextEncoder:
    """A text encoder of the Hub or of a folder, such as `sentence-transformers/all-MiniLM-L6-v2`.

    sentence-transformers loads it, so a model's own pooling and maximum text length apply. A model without these gets
    the mean over its tokens.

    Attributes:
        name, revision: these identify its weights; for a folder, its last part and a hash.

    Raises:
        OSError: there is no such model.
    """

    def __init__(self, name: str):
        from sentence_transformers import SentenceTransformer

        self.name = name_without_folders(name)
        self.model = SentenceTransformer(name, model_kwargs={"dtype": torch.float32})
        self.revision = model_revision(name, getattr(self.model[0].model.config, "_commit_hash", None))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of length one."""
        return self.model.encode(
            list(texts), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=sys.stderr.isatty()
        )


def tf_idf(texts: Sequence[str]) -> sparse.csr_array:
    """TF-IDF, float32 (texts, words), rows of length one: words in at least two texts, without English stop words."""
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2, dtype=np.float32)
    try:
        return sparse.csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # no word is in two texts
        return sparse.csr_array((len(texts), 1), dtype=np.float32)


def inner_products(rows: np.ndarray | sparse.csr_array) -> Iterator[np.ndarray]:
    """Blocks of rows of the matrix of inner products, in order: dense (`FILMS_AT_ONCE`, films), 0 with itself.

    Products are rounded, because their last bits depend on the place of a film: films of the same synopsis must tie.
    """
    for first in tqdm(range(0, rows.shape[0], FILMS_AT_ONCE), "nearest synopses", disable=None):
        products = rows[first : first + FILMS_AT_ONCE] @ rows.T
        block = np.round(products.toarray() if sparse.issparse(products) else products, DECIMALS)
        block[np.arange(len(block)), first + np.arange(len(block))] = 0
        yield block
