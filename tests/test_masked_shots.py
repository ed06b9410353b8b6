"""Masked shot modeling: the network sees no masked shot, learns from a film's other shots, and keeps films apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_mil import movie_ids, write_features

from data_scripts.check import main as check_dataset
from data_scripts.features.shot_features import ShotFeatures
from eval.film_worlds.masked_shot_model import MaskedShotModel, padded, read, train
from eval.masked_shots import MaskedShotsRecipe, main
from modeling_m2s.storage_m2s import FilmDataset

RECIPE = MaskedShotsRecipe(width=8, layers=1, heads=2, max_shots=7, steps=60, batch_size=5)


def test_what_is_masked_or_padding_is_not_read():
    torch.manual_seed(0)
    model = MaskedShotModel(RECIPE, 5).eval()
    windows = [torch.randn(6, 5), torch.randn(3, 5)]
    features, is_padding = padded(windows)
    assert features.shape == (2, 6, 5) and is_padding.tolist() == [[False] * 6, [False] * 3 + [True] * 3]
    is_masked = torch.tensor([[False, True, False, False, True, False], [False] * 6])
    found = model(features, is_padding, is_masked)
    changed = features.clone()
    changed[0, 1], changed[0, 4], changed[1, 4] = 9.0, -9.0, 9.0
    assert torch.equal(model(changed, is_padding, is_masked)[~is_padding], found[~is_padding])
    changed[0, 0] += 1
    assert not torch.allclose(model(changed, is_padding, is_masked)[0, 1], found[0, 1])
    alone = model(windows[1][None], torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(alone[0], model(features, is_padding)[1, :3])


def test_it_learns_what_other_shots_tell():
    """All shots of a film are alike, so a masked one can be told; where nothing is alike, it cannot."""
    generator = torch.Generator().manual_seed(0)
    alike = [torch.nn.functional.normalize(torch.randn(1, 8, generator=generator)).expand(9, 8) for _ in range(40)]
    unlike = [torch.nn.functional.normalize(torch.randn(9, 8, generator=generator)) for _ in range(40)]
    losses = [train(MaskedShotsRecipe(**{**vars(RECIPE), "steps": 200}), films)[1] for films in (alike, unlike)]
    assert losses[0] < 0.6 < 0.8 < losses[1]


def test_long_films_are_read_in_windows():
    torch.manual_seed(0)
    model = MaskedShotModel(RECIPE, 5).eval()
    shots = torch.randn(16, 5)
    shots[3] = 0
    found = read(model, shots, RECIPE)
    assert found.shape == (16, 5) and not found[3].any() and found[[0, 7, 15]].all()
    with torch.no_grad():
        second = model(shots[None, 7:14], torch.zeros(1, 7, dtype=torch.bool))[0]
    np.testing.assert_allclose(found[7:14], second, rtol=1e-5)


def test_the_command_writes_features_that_follow_from_the_seed(tmp_path, capsys):
    random = np.random.default_rng(0)
    films = {movie_id: random.normal(1, 1, (5 + n, 12)).astype("<f2") for n, movie_id in enumerate(movie_ids(9))}
    films[movie_ids(9)[2]][1] = 0
    write_features(tmp_path / "features", films)
    (tmp_path / "films.txt").write_text("\n".join(movie_ids(6)))

    def run(output: str, *more: str) -> Path:
        words = ["--features", tmp_path / "features", "--films", tmp_path / "films.txt", "--output", tmp_path / output]
        sizes = ["--width", "8", "--heads", "2", "--layers", "1", "--steps", "5", "--batch-size", "4"]
        main([str(word) for word in (*words, *sizes, *more)])
        return tmp_path / output

    one, again, other = run("one"), run("again"), run("other", "--seed", "1")
    check_dataset([str(one)])
    tables = [FilmDataset(folder, "shot_features").read() for folder in (one, again, other)]
    assert tables[0] == tables[1] != tables[2]
    found = ShotFeatures(one, tmp_path / "cache")
    assert found.movie_ids == sorted(films) and found.dim == 8
    assert found.num_shots.tolist() == [len(films[movie_id]) for movie_id in found.movie_ids]
    assert [bool(row.any()) for row in np.asarray(found[movie_ids(9)[2]])] == [n != 1 for n in range(7)]
    assert found.record["settings"]["masked_shots"]["width"] == 8 and found.record["settings"]["encoder"] == "clip"
    run("one")  # done already
    for more, message in (
        (["--seed", "2"], r"masked_shots is .* there"),
        (["--heads", "3"], "width 8 is not a multiple of heads 3"),
        (["--masked", "1"], "masked is 1.0; it must be between 0 and 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            run("one", *more)
    (tmp_path / "films.txt").write_text("tt1")
    with pytest.raises(SystemExit, match=r"names film tt1, of which .* has no features"):
        run("missing")
