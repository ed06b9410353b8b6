"""Which images are learned from: never those of the test part, nor of groups that are left out."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from train.distillation.recipe import DistillationRecipe
from train.distillation.sources import ImageFilter, count_by_source, read_groups

RECIPE = Path(__file__).parent.parent / "train/configs/m2s_clip_tiny.yaml"
NAMES = ["food/007.jpg", "food/pizza.jpg", "places/00000.jpg", "places/00007.jpg", "places/00009.jpg", "top.jpg"]


@pytest.fixture
def photographs(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def write_manifest(folder: Path, groups: dict[str, str], columns: str = "file\torigin\tgroup") -> None:
    rows = [f"{name}\tsomewhere\t{group}" for name, group in groups.items()]
    (folder / "manifest.tsv").write_text("\n".join([columns, *rows]) + "\n")


def test_all_images_are_used_unless_told_otherwise(photographs):
    assert ImageFilter().images(photographs) == NAMES


def test_the_test_part_is_left_out_however_the_folder_is_named(photographs):
    without = ImageFilter("places/3")
    assert without.images(photographs) == ["food/007.jpg", "food/pizza.jpg", "places/00007.jpg", "top.jpg"]
    assert without.images(photographs / "places") == ["00007.jpg"]
    assert without.images(photographs / "food") == ["007.jpg", "pizza.jpg"]
    assert ImageFilter("places/7").images(photographs / "places") == ["00009.jpg"]


def test_groups_and_folders_are_left_out(photographs):
    write_manifest(
        photographs, {"places/00007.jpg": "b/bedroom", "places/00009.jpg": "bedroom_suite", "top.jpg": "food"}
    )
    assert ImageFilter(leave_out=["bedroom"]).left_out(photographs) == {"places/00007.jpg"}
    assert ImageFilter(leave_out=["food", "nothing"]).left_out(photographs) == {*NAMES[:2], "top.jpg"}
    assert ImageFilter().left_out(photographs) == set()
    assert ImageFilter(leave_out=["food"]).images(photographs) == NAMES  # their labels serve other recipes


def test_what_cannot_be_told_is_refused(photographs):
    with pytest.raises(ValueError, match=r"pizza\.jpg has no number for a name, so test_part food/3 cannot tell"):
        ImageFilter("food/3").images(photographs)
    with pytest.raises(ValueError, match="places: all its images are of the test part"):
        ImageFilter("places/1").images(photographs / "places")
    write_manifest(photographs, {}, columns="file\torigin")
    with pytest.raises(ValueError, match=r"manifest\.tsv: no column group"):
        ImageFilter(leave_out=["x"]).left_out(photographs)


@pytest.mark.parametrize("test_part", ["places", "places/0", "/3", "places/-3", "places/three", "places/"])
def test_a_test_part_names_a_folder_and_a_number(test_part):
    with pytest.raises(ValueError, match=f"test_part is {test_part}; it must be FOLDER/EVERY"):
        DistillationRecipe(test_part=test_part)


def test_images_are_counted_by_source():
    assert count_by_source(NAMES, "photographs") == [
        {"name": "photographs", "images": 1},
        {"name": "photographs/food", "images": 2},
        {"name": "photographs/places", "images": 3},
    ]


def test_the_recipe_on_photographs_never_uses_the_test_part(assets):
    """A third of MiniPlaces, of each of its groups."""
    folder = assets / "images/photographs"
    groups = read_groups(folder)
    recipe = yaml.safe_load(RECIPE.read_text())
    kept = set(ImageFilter(recipe["test_part"]).images(folder))
    left_out = groups.keys() - kept
    assert (len(groups), len(left_out)) == (13509, 2044)
    assert all(name.startswith("miniplaces/") for name in left_out)
    shares = Counter(groups[name] for name in left_out)
    assert len(shares) == 100 and 16 <= min(shares.values()) <= max(shares.values()) <= 25
    assert not {name for name in kept if name.startswith("miniplaces/") and int(Path(name).stem) % 3 == 0}
