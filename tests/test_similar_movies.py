"""Similar films by each source: against written-out references, and through the command."""

import csv
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from scipy import sparse
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from transformers import BertConfig, BertModel, BertTokenizerFast

from data_scripts.make_catalog import main as make_catalog
from data_scripts.make_film_world import main as make_film_world
from data_scripts.similar_movies import SimilarMoviesArguments, main
from data_scripts.similarity import synopsis as synopsis_similarity
from data_scripts.similarity.films import Catalog, describe, draw_of_genre, similar_movies
from data_scripts.similarity.neighbors import best_neighbors, weighted
from data_scripts.similarity.synopsis import TextEncoder, inner_products, tf_idf
from data_scripts.stages.inputs import candidates_of
from modeling_m2s.dataset_cards_m2s import shards_digest
from modeling_m2s.storage_m2s import FilmDataset

FILMS = [
    ("tt0000001", "Alpha", ["War"], "A captain sails the stormy sea with his loyal crew."),
    ("tt0000002", "Beta", ["War", "Drama"], "A loyal crew sails a stormy sea; their captain is lost."),
    ("tt0000003", "Gamma", ["Drama"], "Two lovers meet in a quiet village at harvest."),
    ("tt0000004", "Delta", ["Drama"], "In a quiet village at harvest two lovers part."),
    ("tt0000005", "Epsilon", [], "A captain of police hunts a thief in the quiet city."),
    ("tt0000006", "Zeta", ["Musical"], ""),
]


def write_movies(folder: Path, films=FILMS, videos=(), excluded=(), **facts) -> Path:
    dataset = FilmDataset(folder, "movies")
    dataset.begin({})
    columns = ("movie_id", "title", "genres", "synopsis")
    rows = [dict(zip(columns, film, strict=True)) for film in films]
    for row in rows:
        reason = "by id" if row["movie_id"] in excluded else ""
        row |= {"year": 1999, "video": row["title"] if row["title"] in videos else "", "excluded": reason}
    dataset.write_all(rows, **facts)
    return folder


def write_ratings(folder: Path) -> list[str]:
    """Everybody watches film n+1 after film n; links.csv has ids as MovieLens has them."""
    rows = [f"{person},{film},4,{film}" for person in range(3) for film in range(1, 7)]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows, "0,77,4,9"]))
    (folder / "links.csv").write_text("\r\n".join(["movieId,imdbId,tmdbId", *(f"{n},000000{n}," for n in range(1, 7))]))
    return ["--ratings", str(folder / "ratings.csv"), "--links", str(folder / "links.csv")]


def pairs_of(folder: Path, source: str) -> list[tuple[str, str, int]]:
    rows = load_dataset(str(folder), split="train").filter(lambda row: row["source"] == source)
    return list(zip(rows["movie_id"], rows["similar_movie_id"], rows["rank"], strict=True))


def reference_of(scores: np.ndarray, top_k: int, threshold: float) -> list[tuple]:
    found = []
    for row, line in enumerate(scores):
        best = sorted((-score, column) for column, score in enumerate(line) if score > 0 and score >= threshold)
        found += [(row, column, rank, -score) for rank, (score, column) in enumerate(best[:top_k], 1)]
    return found


@pytest.mark.parametrize("top_k", [1, 3, 40])
@pytest.mark.parametrize("threshold", [None, 4.0])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_best_neighbors_are_those_of_sorted_rows(top_k, threshold, form):
    """With many ties, rows without a neighbor, and blocks that do not divide the rows."""
    scores = np.random.default_rng(0).integers(-2, 9, (23, 23)).astype(np.float32)
    scores[5] = 0
    blocks = [form(scores[first : first + 7]) for first in range(0, 23, 7)]
    found = best_neighbors(blocks, top_k, threshold)
    assert list(
        zip(found.movie.tolist(), found.similar.tolist(), found.rank.tolist(), found.score.tolist(), strict=True)
    ) == reference_of(scores, top_k, threshold or 0)


def test_the_popularity_correction_divides_what_enough_persons_watched():
    counts = np.random.default_rng(0).integers(0, 5, (6, 6)).astype(np.float32)
    weight = 1 / np.arange(1, 7) ** 0.5
    (found,) = weighted([sparse.csr_array(counts)], weight, lowest=2)
    expected = [[counts[a, b] / (b + 1) ** 0.5 if counts[a, b] >= 2 else 0 for b in range(6)] for a in range(6)]
    assert found.toarray() == pytest.approx(np.array(expected))


def test_tf_idf_neighbors_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr(synopsis_similarity, "FILMS_AT_ONCE", 7)
    random = np.random.default_rng(0)
    words = ["sea", "village", "captain", "harvest", "thief", "city", "lovers", "crew", "storm", "police"]
    texts = [" ".join([*random.choice(words, 12), f"only{n}"]) for n in range(40)]
    found = best_neighbors(inner_products(tf_idf(texts)), 3)
    rows = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2).fit_transform(texts)
    distance, nearest = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(rows).kneighbors(rows)
    assert (nearest[:, 0] == np.arange(40)).all()
    assert found.movie.tolist() == np.repeat(np.arange(40), 3).tolist()
    assert found.score.reshape(40, 3) == pytest.approx(1 - distance[:, 1:], abs=1e-5)
    assert (found.similar.reshape(40, 3) == nearest[:, 1:]).mean() > 0.95  # but for ties


def test_films_of_one_synopsis_tie_and_those_without_a_common_word_are_not_similar():
    texts = ["captain sea"] * 3 + ["lovers village"] * 2 + ["thief"]
    found = best_neighbors(inner_products(tf_idf(texts)), 3)
    pairs = list(zip(found.movie.tolist(), found.similar.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4), (4, 3)]
    assert set(found.score.tolist()) == {1.0}
    assert len(best_neighbors(inner_products(tf_idf(["sea", "land"])), 3)) == 0


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory) -> Path:
    """A BERT of random weights that knows the words of `FILMS`."""
    folder = tmp_path_factory.mktemp("texts") / "tiny-bert"
    folder.mkdir()
    words = sorted({word.strip(".;") for film in FILMS for word in film[3].lower().split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words) + 5, max_position_embeddings=300, **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_a_models_own_pooling_counts(text_encoder, tmp_path):
    folder = tmp_path / "by_first_token"
    modules = SentenceTransformer(str(text_encoder))
    SentenceTransformer(modules=[modules[0], Pooling(16, pooling_mode="cls")]).save(str(folder))
    text = FILMS[0][3]
    tokens = BertTokenizerFast.from_pretrained(text_encoder)(text, return_tensors="pt")
    with torch.no_grad():
        first = BertModel.from_pretrained(text_encoder).eval()(**tokens).last_hidden_state[0, 0]
    assert TextEncoder(str(folder))([text])[0] == pytest.approx((first / first.norm()).numpy(), abs=1e-5)


def test_text_embeddings_are_means_over_a_texts_own_tokens(text_encoder, monkeypatch):
    """Whatever it is batched with."""
    monkeypatch.setattr(synopsis_similarity, "BATCH_SIZE", 3)
    texts = [film[3] for film in FILMS[:5]] + ["captain " * 400]
    encoder = TextEncoder(str(text_encoder))
    model, tokenizer = BertModel.from_pretrained(text_encoder).eval(), BertTokenizerFast.from_pretrained(text_encoder)
    expected = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=300)
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    assert encoder(texts) == pytest.approx(np.array(expected), abs=1e-5)
    assert (encoder.name, len(encoder.revision)) == ("tiny-bert", 16)


def catalog_of(genres: dict[str, list[str]]) -> Catalog:
    names = sorted(genres)
    return Catalog(names, names, [0] * len(names), [genres[name] for name in names], [""] * len(names))


def drawn(genres: dict[str, list[str]], top_k: int, seed: int) -> dict[str, list[str]]:
    found, _ = draw_of_genre(catalog_of(genres), top_k, seed)
    names = sorted(genres)
    pairs: dict[str, list[str]] = {}
    for movie, similar in zip(found.movie, found.similar, strict=True):
        pairs.setdefault(names[movie], []).append(names[similar])
    return pairs


GENRES = {"a": ["War"], "b": ["War", "Drama"], "c": ["War"], "d": ["Drama"], "e": ["Musical"], "f": []}


def test_films_of_a_genre_are_drawn_evenly():
    """b draws its genre first: d alone has Drama, a and c share War."""
    counts = Counter(drawn(GENRES, 1, seed)["b"][0] for seed in range(2000))
    assert counts["d"] / 2000 == pytest.approx(1 / 2, abs=0.04)
    assert counts["a"] / 2000 == pytest.approx(1 / 4, abs=0.04)
    assert counts["c"] / 2000 == pytest.approx(1 / 4, abs=0.04)


def test_all_films_of_its_genres_are_drawn_once_when_they_are_few():
    found = drawn(GENRES, 3, 0)
    assert {movie: sorted(similar) for movie, similar in found.items()} == {
        "a": ["b", "c"],
        "b": ["a", "c", "d"],
        "c": ["a", "b"],
        "d": ["b"],
    }


def test_what_is_drawn_depends_on_the_seed_and_not_on_unrelated_films():
    genres = {f"m{n:02}": [["War", "Drama", "Noir"][n % 3]] for n in range(30)}
    found = drawn(genres, 3, 0)
    more = drawn({**genres, "a": ["Musical"], "m05b": ["Musical"], "z": []}, 3, 0)
    assert {movie: more[movie] for movie in found} == found
    assert drawn(genres, 3, 1) != found
    assert all(len(set(similar)) == 3 and movie not in similar for movie, similar in found.items())


def test_chance_is_the_share_of_all_pairs_of_these_films():
    random = np.random.default_rng(0)
    names = np.array(["War", "Drama", "Noir", "Musical", "Western"])
    genres = {f"m{n:02}": sorted(random.choice(names, random.integers(3), replace=False).tolist()) for n in range(30)}
    catalog = catalog_of(genres)
    scores = np.random.default_rng(1).random((30, 30)) * (1 - np.eye(30))
    scores[:3] = 0
    neighbors = best_neighbors([scores], 2)
    sets = [set(each) for each in catalog.genres]
    films = [n for n in range(3, 30) if sets[n]]
    everybody = [bool(sets[a] & sets[b]) for a in films for b in films if a != b]
    theirs = [
        bool(sets[a] & sets[b]) for a, b in zip(neighbors.movie, neighbors.similar, strict=True) if sets[a] and sets[b]
    ]
    assert describe(neighbors, catalog) == {
        "films": 27,
        "pairs": 54,
        "share_of_one_genre": round(float(np.mean(theirs)), 4),
        "chance": round(float(np.mean(everybody)), 4),
    }


def test_a_catalog_gets_similar_films_of_every_source(tmp_path, capsys):
    movies, ratings, output = write_movies(tmp_path / "movies"), write_ratings(tmp_path), tmp_path / "similar"
    sources = ["co_watch", "co_rating", "genre", "synopsis"]
    command = ["--movies", str(movies), "--output", str(output), *ratings, "--sources", *sources]
    main([*command, "--show", "alpha", "Zeta (1999)", "tt0000003"])
    said = capsys.readouterr().out
    ids = [film[0] for film in FILMS]
    assert pairs_of(output, "co_watch") == [(a, b, 1) for a, b in itertools.pairwise(ids)]
    assert [pair for pair in pairs_of(output, "co_rating") if pair[0] == "tt0000002"] == [
        ("tt0000002", ids[0], 1),
        ("tt0000002", ids[2], 2),
        ("tt0000002", ids[3], 3),
    ]
    assert ("tt0000001", "tt0000002", 1) in pairs_of(output, "genre")
    nearest = {a: b for a, b, rank in pairs_of(output, "synopsis") if rank == 1}
    assert (nearest["tt0000001"], nearest["tt0000003"]) == ("tt0000002", "tt0000004")
    record = json.loads((output / "m2s.json").read_text())
    assert record["counts"]["ratings"]["ratings_of_unknown_films"] == 1
    facts = record["counts"]["sources"]
    assert facts["genre"]["films_without_genre"] == facts["synopsis"]["films_without_synopsis"] == 1
    assert (facts["co_watch"]["films"], facts["co_watch"]["pairs"]) == (5, 5)
    assert "Alpha (1999)\n  co_rating  Beta (1999) " in said
    assert "Zeta (1999)\n  co_rating  Alpha (1999) " in said and "  synopsis   none" in said
    assert "Gamma (1999)\n" in said and "synopsis" in said and "1 ratings of unknown films" in said
    assert FilmDataset(output, "similar_movies").check() == []


def test_the_same_command_gives_the_same_bytes_and_another_is_refused(tmp_path):
    movies, ratings = write_movies(tmp_path / "movies"), write_ratings(tmp_path)
    command = ["--movies", str(movies), *ratings, "--sources", "genre", "co_watch", "--output"]
    main([*command, str(tmp_path / "a")])
    main([*command, str(tmp_path / "b")])
    names = ("m2s.json", "data/train-00000.parquet")
    first = [(tmp_path / "a" / name).read_bytes() for name in names]
    assert first == [(tmp_path / "b" / name).read_bytes() for name in names]
    main([*command, str(tmp_path / "a")])
    assert first == [(tmp_path / "a" / name).read_bytes() for name in names]
    with pytest.raises(SystemExit, match=r"data_scripts.similar_movies: error: .*seed is 0 there, 1 now"):
        main([*command, str(tmp_path / "a"), "--seed", "1"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_excluded_films_neither_get_nor_are_similar_films(tmp_path):
    ratings, output, excluded = write_ratings(tmp_path), tmp_path / "similar", ("tt0000002", "tt0000004")
    guard = {"lists": {"held_out.txt": 3}, "num_listed": 3, "excluded": {"by id": 2}}
    movies = write_movies(tmp_path / "movies", excluded=excluded, leak_guard=guard)
    files = {"ratings": Path(ratings[1]), "links": Path(ratings[3])}
    sources = ["co_watch", "genre", "synopsis"]
    record = similar_movies(SimilarMoviesArguments(movies=movies, output=output, sources=sources, top_k=5, **files))
    rows = load_dataset(str(output), split="train")
    assert not {*excluded} & {*rows["movie_id"], *rows["similar_movie_id"]}
    assert [pair[:2] for pair in pairs_of(output, "co_watch")] == [
        ("tt0000001", "tt0000003"),
        ("tt0000003", "tt0000005"),
        ("tt0000005", "tt0000006"),
    ]
    assert record["candidates"] == [film[0] for film in FILMS if film[0] not in excluded]
    assert record["counts"]["excluded"] == 2 and record["counts"]["candidates"] == 4
    catalog = {"num_films": 6, "digest": shards_digest(FilmDataset(movies, "movies"))}
    assert record["leak_guard"] == {**guard, "catalog": catalog}
    assert record["counts"]["ratings"]["ratings_of_unknown_films"] == 7


def test_only_films_with_shots_when_asked(tmp_path):
    movies = write_movies(tmp_path / "movies", videos=("Alpha", "Beta", "Gamma"))
    shots = FilmDataset(tmp_path / "shots", "shots")
    shots.begin({})
    times = {"start_frame": 0, "end_frame": 9, "start_seconds": 0.0, "end_seconds": 1.0}
    for movie_id in ("tt0000001", "tt0000002", "tt0000004"):
        row = {"movie_id": movie_id, "shot_index": 0, **times, "keyframe_frames": [4], "keyframes": []}
        shots.write_film(movie_id, [row], {})
    command = ["--movies", str(movies), "--sources", "synopsis", "--top_k", "9", "--output"]
    with pytest.raises(SystemExit, match="no finished shots dataset"):
        main([*command, str(tmp_path / "similar"), "--shots", str(shots.folder)])
    shots.finish(["tt0000001", "tt0000002", "tt0000004"], {})
    main([*command, str(tmp_path / "similar"), "--shots", str(shots.folder)])
    pairs = load_dataset(str(tmp_path / "similar"), split="train")
    assert {*pairs["movie_id"], *pairs["similar_movie_id"]} == {"tt0000001", "tt0000002"}
    counts = FilmDataset(tmp_path / "similar", "similar_movies").record["counts"]
    assert (counts["movies"], counts["without_shots"], counts["candidates"]) == (6, 3, 3)
    assert candidates_of(FilmDataset(tmp_path / "similar", "similar_movies")) == set(shots.films())


def test_films_without_synopsis_are_not_similar_by_synopsis(tmp_path):
    texts = ["captain sea", "", "lovers village", " ", "captain sea", "lovers village"]
    films = [(*film[:3], text) for film, text in zip(FILMS, texts, strict=True)]
    movies, output = write_movies(tmp_path / "movies", films), tmp_path / "similar"
    main(["--movies", str(movies), "--sources", "synopsis", "--output", str(output)])
    pairs = [(1, 5), (3, 6), (5, 1), (6, 3)]
    assert pairs_of(output, "synopsis") == [(f"tt000000{a}", f"tt000000{b}", 1) for a, b in pairs]
    facts = FilmDataset(output, "similar_movies").record["counts"]["sources"]["synopsis"]
    assert facts["films_without_synopsis"] == 2


def test_a_text_encoder_and_its_revision_are_recorded(text_encoder, tmp_path):
    movies, output = write_movies(tmp_path / "movies"), tmp_path / "similar"
    command = ["--movies", str(movies), "--sources", "synopsis", "--output", str(output)]
    main([*command, "--text_encoder", str(text_encoder)])
    settings = FilmDataset(output, "similar_movies").record["settings"]
    assert settings["text_encoder"] == "tiny-bert"
    assert settings["revision"] == TextEncoder(str(text_encoder)).revision
    with pytest.raises(SystemExit, match=r"text_encoder is 'tiny-bert' there, 'TF-IDF' now"):
        main(command)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sources", "cowatch"], "cowatch: not among co_rating, co_watch, genre, synopsis"),
        (["--sources", "co_watch"], "co_watch needs --ratings"),
        (["--sources", "genre", "--top_k", "0"], "top-k 0 must be at least 1"),
        (["--sources", "genre", "--thresholds", "genre=1"], "'genre' is not a source of this run that has scores"),
        (["--sources", "synopsis", "--thresholds", "synopsis=high"], "expected a number, as in synopsis=0.5"),
        (["--sources", "genre", "--popularity_correction", "1.5"], "1.5 is not from 0 to 1"),
        (["--sources", "genre", "--ratings", "r.csv"], "--ratings r.csv is for --sources co_rating or co_watch"),
        (["--sources", "synopsis", "--links", "l.csv"], "--links l.csv is for --sources"),
        (["--sources", "genre", "--popularity_correction", "0"], "--popularity-correction 0.0 is for --sources"),
        (["--sources", "genre", "--text_encoder", "some/model"], "text-encoder some/model is for --sources synopsis"),
        (["--sources", "genre", "--show", "Omega"], "'Omega': no film of this title or id"),
        (["--sources", "synopsis", "--text_encoder", "no/such/folder"], "no/such/folder"),
        (["--sources", "genre", "--max_burst", "0"], "max-burst 0 must be at least 1"),
        (["--sources", "genre", "--max_burst", "9"], "max-burst 9 is for --sources co_watch"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_anything_is_written(flags, words, tmp_path):
    movies = write_movies(tmp_path / "movies")
    with pytest.raises(SystemExit, match=f"data_scripts.similar_movies: error: .*{words}"):
        main(["--movies", str(movies), "--output", str(tmp_path / "similar"), *flags])
    assert not (tmp_path / "similar").exists()


def test_a_failed_run_does_not_stand_in_the_way(tmp_path):
    movies, ratings, output = write_movies(tmp_path / "movies"), write_ratings(tmp_path), tmp_path / "similar"
    command = ["--movies", str(movies), "--output", str(output), "--sources", "co_watch"]
    (tmp_path / "bad.csv").write_text("userId,movieId,timestamp\n1,1,soon\n")
    with pytest.raises(SystemExit, match=r"bad\.csv, line 2: .*soon"):
        main([*command, "--top_k", "9", "--ratings", str(tmp_path / "bad.csv"), *ratings[2:]])
    main([*command, *ratings])
    assert len(pairs_of(output, "co_watch")) == 5


def test_a_catalog_too_small_or_without_synopses_is_refused(tmp_path):
    one = write_movies(tmp_path / "one", FILMS[:1])
    silent = write_movies(tmp_path / "silent", [(*film[:3], " ") for film in FILMS])
    for movies, words in ((one, "1 of 1 films may be used"), (silent, "0 films with a synopsis")):
        with pytest.raises(SystemExit, match=words):
            main(["--movies", str(movies), "--sources", "synopsis", "--output", str(tmp_path / "similar")])


def test_films_of_a_film_world_are_similar_to_those_of_their_theme(tmp_path):
    small = ["--num_films", "48", "--film_seconds", "6", "--width", "64", "--height", "36", "--keyframes_only", "true"]
    make_film_world([*small, "--output", str(tmp_path / "world")])
    metadata = tmp_path / "world/metadata"
    make_catalog(["--metadata", str(metadata), "--output", str(tmp_path / "movies")])
    ratings = ["--ratings", str(metadata / "ratings.csv"), "--links", str(metadata / "links.csv")]
    sources = ["co_watch", "co_rating", "genre", "synopsis"]
    main(["--movies", str(tmp_path / "movies"), "--output", str(tmp_path / "s"), *ratings, "--sources", *sources])
    with open(tmp_path / "world/truth/films.csv", newline="") as file:
        theme = {row["movie_id"]: row["theme"] for row in csv.DictReader(file)}
    for source, least in (("co_watch", 0.8), ("co_rating", 0.9), ("genre", 0.4), ("synopsis", 0.5)):
        same = [theme[a] == theme[b] for a, b, _ in pairs_of(tmp_path / "s", source)]
        assert np.mean(same) > least, source  # chance: 0.15


def test_neighbors_of_well_known_films_are_sensible(assets, tmp_path, capsys):
    metadata = assets / "metadata/movielens_latest_small_2018"
    make_catalog(["--metadata", str(metadata), "--output", str(tmp_path / "movies")])
    ratings = ["--ratings", str(metadata / "ratings.csv"), "--links", str(metadata / "links.csv")]
    show = ["--show", "The Godfather", "Alien", "Goldfinger"]
    command = ["--movies", str(tmp_path / "movies"), "--output", str(tmp_path / "s"), *ratings, *show]
    main([*command, "--sources", "co_watch", "genre"])
    said = capsys.readouterr().out
    for first in ("The Godfather: Part II (1974)", "Aliens (1986)", "Dr. No (1962)"):
        assert f"\n  co_watch   {first}" in said
    sources = FilmDataset(tmp_path / "s", "similar_movies").record["counts"]["sources"]
    assert sources["co_watch"]["films"] > 9000
    assert sources["co_watch"]["share_of_one_genre"] > sources["co_watch"]["chance"] + 0.15
    assert sources["genre"]["share_of_one_genre"] == 1
