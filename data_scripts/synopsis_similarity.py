"""How alike synopses are: embeddings of a text encoder, or TF-IDF without one, and their inner products.

The paper [4.1] takes inner products of the embeddings of a pre-trained language model, which it does not describe
further. Ours: mean over the tokens, scaled to length one, as sentence-transformers' models are meant to be used.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from modeling_m2s.pretrained_m2s import model_revision, name_without_folders

FILMS_AT_ONCE = 512
BATCH_SIZE = 32
# What sentence-transformers' models of this kind were trained with; longer synopses are cut.
MAX_TOKENS = 256
DECIMALS = 5


class TextEncoder:
    """A text encoder of the Hub or of a folder, such as `sentence-transformers/all-MiniLM-L6-v2`.

    Attributes:
        name, revision: what tells its weights from others; of a folder, its last part and a hash.

    Raises:
        OSError: there is no such model.
    """

    def __init__(self, name: str):
        self.name = name_without_folders(name)
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.revision = model_revision(name, getattr(self.model.config, "_commit_hash", None))

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of length one."""
        lengths = [len(text) for text in texts]
        # Texts of a length together, longest first: little padding, and if memory is short it shows at once.
        order = sorted(range(len(texts)), key=lambda n: -lengths[n])
        embeddings = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for first in tqdm(range(0, len(texts), BATCH_SIZE), "synopses", unit_scale=BATCH_SIZE, disable=None):
            batch = order[first : first + BATCH_SIZE]
            tokens = self.tokenizer(
                [texts[n] for n in batch], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            ).to(self.model.device)
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(hidden.dtype)
            total = (hidden * mask).sum(1)  # of the mean's direction
            embeddings[batch] = torch.nn.functional.normalize(total, dim=1).cpu().numpy()
        return embeddings


def tf_idf(texts: Sequence[str]) -> sparse.csr_array:
    """float32 (texts, words), rows of length one: words of two films at least, without English stop words."""
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2, dtype=np.float32)
    try:
        return sparse.csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # no word is in two texts
        return sparse.csr_array((len(texts), 1), dtype=np.float32)


def inner_products(rows: np.ndarray | sparse.csr_array) -> Iterator[np.ndarray]:
    """Blocks of rows of the matrix of inner products, in order: dense (`FILMS_AT_ONCE`, films), 0 with itself.

    Rounded, so that two films of one synopsis tie wherever they stand: a matrix product's last bits depend on that.
    """
    for first in tqdm(range(0, rows.shape[0], FILMS_AT_ONCE), "nearest synopses", disable=None):
        products = rows[first : first + FILMS_AT_ONCE] @ rows.T
        block = np.round(products.toarray() if sparse.issparse(products) else products, DECIMALS)
        block[np.arange(len(block)), first + np.arange(len(block))] = 0
        yield block
