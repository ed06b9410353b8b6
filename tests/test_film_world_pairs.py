"""The experiment on film worlds: what scene pairs share, counted by hand; the whole chain on a tiny world."""

import json

import pytest

from eval.film_world_pairs import main
from eval.film_worlds.results import summarize
from eval.film_worlds.truth import most_frequent, shares


def shot(place: str, event: str = "talk", light: str = "day", theme: str = "war") -> dict[str, str]:
    return {"theme": theme, "place": place, "event": event, "light": light}


def pair(a: str, first_a: int, b: str, first_b: int) -> dict:
    return {"movie_id_a": a, "first_shot_a": first_a, "movie_id_b": b, "first_shot_b": first_b, "num_shots": 3}


TRUTH = {
    "a": [shot("mill"), shot("mill"), shot("cave"), shot("cave", "game"), shot("cave", "game", "night")],
    "b": [shot("mill", "game"), shot("cave"), shot("mill"), shot("shore")],
    "c": [shot("cave", light="night", theme="love")] * 3,
}


def test_a_pair_shares_what_is_most_frequent_in_both_scenes():
    pairs = [pair("a", 0, "b", 0), pair("a", 2, "b", 0), pair("a", 2, "c", 0), pair("b", 1, "c", 0)]
    found = shares(pairs, TRUTH, ["b", "c"])
    # Scenes: a at 0 a mill, at 2 a cave and game; b at 0 a mill, at 1 a cave, the first of three; c a cave by night.
    assert found["all"] == {"scene_pairs": 4, "theme": 0.5, "place": 0.75, "event": 0.5, "light": 0.5}
    assert found["held_out"] == {"scene_pairs": 1, "theme": 0.0, "place": 1.0, "event": 1.0, "light": 0.0}
    assert "held_out" not in shares(pairs, TRUTH, ["a"])


def test_of_equally_frequent_labels_the_first_counts():
    assert most_frequent(["x", "y", "y", "x"]) == "x"
    assert most_frequent(["x", "y", "y"]) == "y"


def test_mean_and_deviation_of_what_all_seeds_have():
    seeds = [{"a": {"x": 1.0, "only": 2}, "b": 3}, {"a": {"x": 2.0}, "b": 3}]
    assert summarize(seeds) == {"a": {"x": {"mean": 1.5, "deviation": 0.7071}}, "b": {"mean": 3, "deviation": 0.0}}
    assert summarize(seeds[:1])["b"] == {"mean": 3, "deviation": 0.0}


@pytest.mark.slow
def test_the_chain_of_commands_runs_and_goes_on(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "max_shots: 64\naverage_kernel: 8\naverage_stride: 4\nmax_kernel: 8\nmax_stride: 4\nepochs: 2\nheld_out: 0.4\n"
    )
    words = ["--output", str(tmp_path / "run"), "--results", str(tmp_path / "results.json"), "--recipe", str(recipe)]
    words += ["--seeds", "1", "--sources", "genre", "--num_films", "36", "--film_seconds", "40", "--top_k", "4"]
    main(words)
    results = json.loads((tmp_path / "results.json").read_text())
    found = results["seeds"]["0"]["genre"]["scene_pairs"]
    assert found.keys() == {"model", "untrained", "features", "random"}
    assert (
        len({each["all"]["scene_pairs"] for each in found.values()}) == 1 and found["model"]["all"]["scene_pairs"] > 20
    )
    assert "held-out films: accuracy" in capsys.readouterr().out
    main(words)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    (tmp_path / "run/seed-0/world/truth/shots.csv").unlink()
    recipe.write_text("max_shots: 3\n")
    with pytest.raises(SystemExit, match=r"eval.film_world_pairs: error: .*train.train_mil.* ended with 1: "):
        main(words)
