"""Cards say what their runs wrote down, and nothing typed by hand."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jinja2 import UndefinedError

from model_cards.distilled_clip import INPUTS, main, render

TINY = Path(__file__).parent.parent / "model_cards" / "m2s-clip-tiny"


@pytest.fixture
def facts() -> list[dict]:
    return [json.loads((TINY / f"{name}.json").read_text()) for name in INPUTS]


def test_the_committed_card_is_that_of_its_run(tmp_path):
    for name in INPUTS:
        (tmp_path / f"{name}.json").write_text((TINY / f"{name}.json").read_text())
    main([str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == (TINY / "README.md").read_text()


def test_the_card_has_the_hubs_header_and_the_figures(facts):
    run, evaluation, trials = facts
    card = render(*facts)
    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
    assert header["license"] == "other" and header["library_name"] == "transformers"
    for name, row in evaluation["encoders"].items():
        assert f"| {name} | {100 * row['places']['retrieval']:.1f} % |" in card
    for source in run["sources"]:
        assert f"| {source['name']} | {source['images']} |" in card
    for row in trials["rows"]:
        assert f"| {row['losses']} | {row['cosine']:.3f} |" in card


def test_the_recipe_on_the_card_is_the_one_that_ships(facts):
    recipe = yaml.safe_load((TINY.parent.parent / "train/configs/m2s_clip_tiny.yaml").read_text())
    for name in set(recipe) - {"images", "videos"}:
        assert facts[0]["recipe"][name] == recipe[name], name


def test_a_missing_figure_is_an_error_not_a_gap(facts):
    del facts[0]["held_out"]["nearest"]
    with pytest.raises(UndefinedError):
        render(*facts)
