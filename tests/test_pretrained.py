"""The encoder that ships: it is CLIP's space in small, and the command line uses it unless told otherwise."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, CLIPImageProcessorPil, CLIPVisionModelWithProjection, pipeline

from eval.images.comparison import clip_encoder, random_student, read_classes
from eval.images.measures import classify
from m2s.main import main
from modeling_m2s import M2SSceneModel, tiny_model
from modeling_m2s.pretrained_m2s import TINY_MODEL, ModelError, computing_format, load_encoder, model_revision
from modeling_m2s.search_m2s import SceneIndex

ROOT = Path(__file__).parent.parent
CLIP_OF_THE_DEMO = ROOT / "tests/fixtures/big_buck_bunny_clip.mp4"


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection.from_pretrained(tiny_model()).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoImageProcessor.from_pretrained(tiny_model(), backend="pil")


def test_it_is_small_and_computes_in_float32(tower):
    path = Path(tiny_model()) / "model.safetensors"
    assert path.stat().st_size <= 9e6
    assert 3e6 <= sum(parameter.numel() for parameter in tower.parameters()) <= 4.4e6
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert tower.dtype == torch.float32 and tower.config.projection_dim == 512
    assert 300 <= 9 * (tower.config.image_size // tower.config.patch_size) ** 2 + 1 <= 450


def test_encoders_load_by_name_with_their_processor_and_revision(tiny_folder, tmp_path):
    encoder, processor, revision = load_encoder(str(tiny_folder), "mosaic")
    assert encoder.config.position_interpolation == "mosaic" and not encoder.training
    assert type(processor) is CLIPImageProcessorPil and processor.crop_size["height"] == 32
    assert load_encoder(TINY_MODEL)[2] == model_revision(tiny_model(), None) != revision
    with pytest.raises(ModelError, match="model m2s-clip-tiny cannot be loaded: position_interpolation='spiral'"):
        load_encoder(TINY_MODEL, "spiral")
    with pytest.raises(ModelError, match="model /nowhere cannot be loaded: "):
        load_encoder("/nowhere")
    cut = shutil.copytree(tiny_folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(ModelError, match=f"model {cut} cannot be loaded: "):
        load_encoder(str(cut))


def test_a_scene_of_one_shot_is_the_tower_itself(tower, processor):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 3, 150, 200), dtype=np.uint8))
    inputs = processor(list(pixels), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = tower(inputs).image_embeds
        for auto_class in (AutoModel, M2SSceneModel):
            model = auto_class.from_pretrained(tiny_model()).eval()
            assert type(model) is M2SSceneModel
            torch.testing.assert_close(model(inputs[:, None]).scene_embeds, expected, atol=1e-5, rtol=1e-5)


def test_its_folder_still_is_clips_image_tower(tower):
    """Nothing missing or left over, and the same number format as the scene encoder's."""
    loaded, info = CLIPVisionModelWithProjection.from_pretrained(tiny_model(), output_loading_info=True)
    assert not any(info.values())
    weights, expected = loaded.state_dict(), M2SSceneModel.from_pretrained(tiny_model()).state_dict()
    assert weights.keys() == expected.keys()
    assert all(
        torch.equal(weights[name], tensor) and tensor.dtype == torch.float32 for name, tensor in expected.items()
    )


@pytest.mark.slow
def test_it_knows_places_as_its_card_says(assets, tower, processor):
    gallery, gallery_classes = read_classes(assets / "images/scene15/train")
    queries, classes = read_classes(assets / "images/scene15/test")
    found = [
        classify(encode(gallery), gallery_classes, encode(queries), classes)
        for encode in (clip_encoder(model, processor) for model in (tower, random_student(tower)))
    ]
    card = json.loads((ROOT / "model_cards/m2s-clip-tiny/evaluation.json").read_text())["encoders"]
    for name, row in zip(("student", "random student"), found, strict=True):
        assert {key: row[key] for key in card[name]["places"]} == pytest.approx(card[name]["places"], abs=0.01), name
    assert found[0]["retrieval"] > 2 * found[1]["retrieval"]


def test_its_embeddings_are_in_the_teachers_space(assets, clip_folder, tower, processor):
    paths = sorted((assets / "images/scene15/test").glob("*/*.jpg"))[::15]
    images = [Image.open(path).convert("RGB") for path in paths]
    teacher = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    expected = clip_encoder(teacher, AutoImageProcessor.from_pretrained(clip_folder, backend="pil"))(images)
    found = clip_encoder(tower, processor)(images)
    lengths = np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0.7 < lengths.mean() < 1.15

    def own_and_others(a, b):
        """Mean cosine of embeddings less their means, of the same image and of different ones."""
        a, b = (x - x.mean(0) for x in (a, b))
        cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        return cosines.diagonal().mean(), (cosines.sum() - cosines.trace()) / (cosines.size - len(cosines))

    own, others = own_and_others(found, expected)
    assert own > 0.1 > 0.02 > others


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """What `m2s embed` makes of the bundled clip, in scenes of five shots that are read jointly."""
    output = tmp_path_factory.mktemp("bundled") / "index"
    flags = ["--shots-per-scene", "5", "--scene-vector", "joint", "--output", str(output)]
    assert main(["embed", str(CLIP_OF_THE_DEMO), *flags]) == 0
    return output


@pytest.mark.parametrize(
    "time, space, begin, end",
    [
        ("00:00:25", "whitened", 0, 95),  # rabbit and rodents on the meadow; the forest comes after
        ("00:00:25", "centered", 0, 95),
        ("00:04:40", "whitened", 226, 312),  # the squirrel: on its branch, in the air
        ("00:04:40", "centered", 226, 312),
        ("00:04:40", "raw", 226, 312),
    ],
)
def test_search_finds_scenes_of_the_same_place(index, capsys, time, space, begin, end):
    capsys.readouterr()
    assert main(["search", str(index), "--film", "bunny", "--at", time, "--top", "3", "--space", space, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["hits"]
    assert len(found) == 3
    for hit in found:
        assert begin - 1 <= hit["start_seconds"] < hit["end_seconds"] <= end + 1, hit


def test_the_command_says_which_encoder_and_how_to_name_another(tmp_path, capsys):
    command = ["embed", str(CLIP_OF_THE_DEMO), "--output", str(tmp_path / "index"), "--shots-per-scene", "50"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "m2s-clip-tiny" in line and "--model openai/" in line] == lines[:1]
    assert main(["info", str(tmp_path / "index")]) == 0
    assert "model: m2s-clip-tiny" in capsys.readouterr().out


def test_an_index_names_the_encoder_not_its_folder(index, capsys, tmp_path):
    assert SceneIndex(index).record["model"] == "m2s-clip-tiny"
    Image.new("RGB", (64, 48), "green").save(tmp_path / "still.png")
    assert main(["search", str(index), "--image", str(tmp_path / "still.png")]) == 0
    files = list(index.rglob("*.json"))
    assert files and not any(str(ROOT) in path.read_text() or os.sep + "modeling" in path.read_text() for path in files)


def test_another_model_does_not_get_the_line(tiny_folder, tmp_path, capsys):
    command = ["embed", str(CLIP_OF_THE_DEMO), "--output", str(tmp_path / "index"), "--model", str(tiny_folder)]
    assert main(command) == 0
    assert "m2s-clip-tiny" not in capsys.readouterr().out


def test_the_pipeline_takes_its_folder():
    scenes = pipeline("scene-embedding", model=tiny_model())(str(CLIP_OF_THE_DEMO))
    assert len(scenes) > 2 and all(scene["embedding"].shape == (256,) for scene in scenes)


def test_bfloat16_only_where_it_is_fast(monkeypatch):
    processor, gpu = torch.device("cpu"), torch.device("cuda")
    assert computing_format(False, processor) == computing_format(False, gpu) == torch.float32
    assert computing_format(True, gpu) == torch.bfloat16
    for has_it, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=has_it: answer)
        assert computing_format(True, processor) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert computing_format(True, processor) == torch.float32
