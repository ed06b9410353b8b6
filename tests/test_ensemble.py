"""An ensemble of scene encoders against its members, run one by one."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from make_videos import make_video
from safetensors.torch import save_file
from test_pipeline import make_film
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    pipeline,
)

from m2s.main import main as m2s
from modeling_m2s import (
    M2SSceneConfig,
    M2SSceneEnsembleConfig,
    M2SSceneEnsembleModel,
    M2SSceneModel,
    M2SSceneProcessor,
)
from modeling_m2s.pretrained_m2s import ModelError, load_encoder
from train import train_moco
from train.concatenate_encoders import main

ROOT = Path(__file__).parent.parent
NAMES = ["synopsis", "genre", "co-watch"]  # not sorted, as an order that a sorted table would lose
REMOTE_FILES = ["configuration_m2s.py", "ensemble_m2s.py", "images_m2s.py", "modeling_m2s.py", "processing_m2s.py"]
LOAD_ELSEWHERE = """
import sys, torch
from safetensors.torch import load_file
if sys.argv[3] == "without":
    sys.modules["modeling_m2s"] = None  # importing it now fails, wherever it is installed
else:
    import modeling_m2s
from transformers import AutoModel, AutoProcessor
remote = {"trust_remote_code": True} if sys.argv[3] == "without" else {}
example = load_file(sys.argv[2])
model = AutoModel.from_pretrained(sys.argv[1], **remote).eval()
assert type(model).__module__.startswith("transformers_modules." if remote else "modeling_m2s.")
inputs = AutoProcessor.from_pretrained(sys.argv[1], **remote)(list(example["frames"]))
with torch.no_grad():
    outputs = model(**inputs)
for name in ("pooler_output", "scene_embeds"):
    torch.testing.assert_close(outputs[name], example[name], rtol=1e-5, atol=1e-5)
"""


def random_encoder(seed: int, hidden_size: int = 24, projection_dim: int = 10, **tower) -> M2SSceneModel:
    """A small scene encoder of random weights for 32×32 frames, with position embeddings that show."""
    torch.manual_seed(seed)
    sizes = {"intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    frames = {"image_size": 32, "patch_size": 8}
    vision_config = CLIPVisionConfig(hidden_size=hidden_size, **{**sizes, **frames, **tower})
    model = M2SSceneModel(M2SSceneConfig(vision_config=vision_config, projection_dim=projection_dim))
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight)
    return model.eval()


@pytest.fixture(scope="module")
def members() -> list[M2SSceneModel]:
    """Encoders of different widths, depths, patches and position interpolations."""
    encoders = [random_encoder(1), random_encoder(2, 16, 7, patch_size=16), random_encoder(3, 32, 10)]
    encoders[2].config.position_interpolation = "mosaic"
    encoders[2].vision_model.embeddings.position_interpolation = "mosaic"
    return encoders


@pytest.fixture(scope="module")
def scenes() -> dict[str, torch.Tensor]:
    """Scenes of three, one and five frames, with padding in the middle of one of them."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    return {
        "pixel_values": torch.randn(3, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        "frame_mask": mask,
    }


def save_with_processor(model, folder: Path, **settings) -> Path:
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    M2SSceneProcessor(CLIPImageProcessor(**{**sizes, **settings})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(members, tmp_path_factory) -> list[Path]:
    """The members on disk; the first as a training run leaves it."""
    folder = tmp_path_factory.mktemp("members")
    paths = [folder / "run", folder / "second", folder / "third"]
    for member, path in zip(members, [paths[0] / "model", *paths[1:]], strict=True):
        save_with_processor(member, path)
    return paths


@pytest.fixture(scope="module")
def ensemble_folder(folders, tmp_path_factory) -> Path:
    """What the command makes of the members."""
    output = tmp_path_factory.mktemp("ensemble") / "all"
    main(["--encoders", *map(str, folders), "--names", *NAMES, "--output", str(output)])
    return output


@torch.no_grad()
def side_by_side(members, scenes, name: str, normalize: bool = False) -> torch.Tensor:
    """This vector of each scene and member, each computed alone, written next to one another."""
    rows = []
    for frames, mask in zip(scenes["pixel_values"], scenes["frame_mask"], strict=True):
        vectors = [member(frames[mask][None])[name][0] for member in members]
        rows.append([x for vector in vectors for x in (vector / vector.norm() if normalize else vector).tolist()])
    return torch.tensor(rows)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_vectors_are_those_of_the_members_in_order(members, scenes, count, normalize):
    ensemble = M2SSceneEnsembleModel.from_encoders(members[:count], NAMES[:count], normalize)
    with torch.no_grad():
        outputs = ensemble(**scenes)
    assert outputs.pooler_output.shape == (3, ensemble.config.hidden_size) == (3, [24, 40, 72][count - 1])
    assert outputs.scene_embeds.shape == (3, ensemble.config.projection_dim) == (3, [10, 17, 27][count - 1])
    for name in ("pooler_output", "scene_embeds"):
        expected = side_by_side(members[:count], scenes, name, normalize)
        torch.testing.assert_close(outputs[name], expected, rtol=1e-5, atol=1e-5)
    assert outputs.last_hidden_state is None
    first, second = ensemble(**scenes, return_dict=False)
    assert torch.equal(first, outputs.pooler_output)
    assert torch.equal(second, outputs.scene_embeds)


def test_members_are_copies_and_every_one_is_trained(members, scenes):
    before = {name: weight.clone() for name, weight in members[1].state_dict().items()}
    ensemble = M2SSceneEnsembleModel.from_encoders(members, NAMES).train()
    outputs = ensemble(**scenes)
    (outputs.pooler_output[:, ::3].sum() + outputs.scene_embeds[:, ::2].sum()).backward()
    assert [name for name, parameter in ensemble.named_parameters() if parameter.grad is None] == []
    assert all(member.vision_model.post_layernorm.weight.grad.abs().sum() > 0 for member in ensemble.members)
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in members[1].state_dict().items())
    assert members[1].vision_model.post_layernorm.weight.grad is None


def test_auto_classes_load_what_the_command_saved(ensemble_folder, members, scenes):
    assert sorted(path.name for path in ensemble_folder.iterdir()) == [
        "1_Pooling",
        "README.md",
        "config.json",
        "model.safetensors",
        "modules.json",
        "preprocessor_config.json",
        "processor_config.json",
        "sentence_bert_config.json",
        "training.json",
    ]
    assert "Made with `train.concatenate_encoders` from " in (ensemble_folder / "README.md").read_text()
    config = AutoConfig.from_pretrained(ensemble_folder)
    assert type(config) is M2SSceneEnsembleConfig
    assert (config.names, config.image_size) == (NAMES, 32)
    assert type(AutoProcessor.from_pretrained(ensemble_folder)) is M2SSceneProcessor
    model, info = AutoModel.from_pretrained(ensemble_folder, output_loading_info=True)
    assert type(model) is M2SSceneEnsembleModel
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(**scenes).pooler_output, side_by_side(members, scenes, "pooler_output"))


def test_configurations_hold_no_path(ensemble_folder, folders):
    text = (ensemble_folder / "config.json").read_text()
    assert str(folders[0].parent) not in text
    assert "_name_or_path" not in text


def test_saved_again_it_is_the_same(ensemble_folder, tmp_path):
    AutoModel.from_pretrained(ensemble_folder).save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (ensemble_folder / name).read_bytes()


def test_dtype_and_attention_reach_the_members(ensemble_folder, scenes):
    model = AutoModel.from_pretrained(ensemble_folder, dtype="bfloat16", attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {member.vision_model.config._attn_implementation for member in model.members} == {"eager"}
    assert model(**scenes).pooler_output.dtype == torch.bfloat16


def test_the_pipeline_gives_the_members_embeddings(ensemble_folder, folders):
    film = make_film([1] * 5)
    found = pipeline("scene-embedding", model=str(ensemble_folder))(film, shots_per_scene=3, scene_vector="joint")
    sources = [folders[0] / "model", *folders[1:]]
    options = {"shots_per_scene": 3, "scene_vector": "joint"}
    alone = [pipeline("scene-embedding", model=str(source))(film, **options) for source in sources]
    assert len(found) == 2
    for scene, *parts in zip(found, *alone, strict=True):
        expected = np.concatenate([part["embedding"] for part in parts])
        np.testing.assert_allclose(scene["embedding"], expected, rtol=1e-5, atol=1e-5)


def test_m2s_embed_and_search_take_an_ensemble(ensemble_folder, tmp_path, capsys):
    film = str(make_video(tmp_path / "bunny.mp4", [17, 30]))
    output = str(tmp_path / "index")
    assert m2s(["embed", film, "--model", str(ensemble_folder), "--output", output, "--shots-per-scene", "1"]) == 0
    assert m2s(["search", output, "--film", "bunny", "--at", "00:00:00", "--top", "1"]) == 0
    assert "distance" in capsys.readouterr().out


def test_training_refuses_an_ensemble(ensemble_folder, tmp_path):
    nothing = [
        "--pairs",
        str(tmp_path / "pairs"),
        "--shots",
        str(tmp_path / "shots"),
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit, match="all is an ensemble; train"):
        train_moco.main(["--model", str(ensemble_folder), *nothing])
    with pytest.raises(ModelError, match="whose members have a position interpolation each"):
        load_encoder(str(ensemble_folder), position_interpolation="mosaic")


@pytest.mark.parametrize("package", ["with", "without"])
def test_loads_in_a_clean_process(ensemble_folder, members, tmp_path, package):
    """With the package, and by the code that travels with the folder."""
    processor = M2SSceneProcessor.from_pretrained(ensemble_folder)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 41, 63, 3), dtype=np.uint8)
    inputs = processor(list(frames))
    expected = {name: side_by_side(members, inputs, name) for name in ("pooler_output", "scene_embeds")}
    save_file({"frames": torch.from_numpy(frames), **expected}, tmp_path / "example.safetensors")
    folder = ensemble_folder
    if package == "without":
        folder = tmp_path / "remote"
        with pytest.MonkeyPatch.context() as patch:
            for saved_class, auto_class in (
                (M2SSceneEnsembleConfig, "AutoConfig"),
                (M2SSceneEnsembleModel, "AutoModel"),
                (M2SSceneProcessor, "AutoProcessor"),
            ):
                patch.setattr(saved_class, "_auto_class", None)  # put back when the context ends
                saved_class.register_for_auto_class(auto_class)
            M2SSceneEnsembleModel.from_pretrained(ensemble_folder).save_pretrained(folder)
            processor.save_pretrained(folder)
        assert sorted(path.name for path in folder.glob("*.py")) == REMOTE_FILES
    finished = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_ELSEWHERE, folder, tmp_path / "example.safetensors", package],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr


def test_remote_code_needs_only_what_transformers_users_have():
    tree = ast.parse((ROOT / "modeling_m2s/ensemble_m2s.py").read_text())
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node.names[0].name != "torch"] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            siblings = {"configuration_m2s", "modeling_m2s"}
            known = siblings if node.level else {"collections", "torch", "transformers"}
            assert node.module.split(".")[0] in known


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({"image_size": 48}, r"synopsis reads frames of shape \(3, 32, 32\), genre of \(3, 48, 48\)"),
        ({"num_channels": 1}, r"synopsis reads frames of shape \(3, 32, 32\), genre of \(1, 32, 32\)"),
    ],
)
def test_members_that_read_other_frames_are_refused(members, tower, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        M2SSceneEnsembleModel.from_encoders([members[0], random_encoder(4, **tower)], NAMES[:2])


@pytest.mark.parametrize("names", [["genre"], ["genre", "genre"], ["genre", "synopsis", "co-watch"], []])
def test_every_member_needs_a_name_of_its_own(members, names):
    with pytest.raises(StrictDataclassClassValidationError, match="must be 2 different names"):
        M2SSceneEnsembleModel.from_encoders(members[:2], names)


def test_nothing_to_concatenate_is_refused():
    with pytest.raises(ValueError, match="an ensemble needs members"):
        M2SSceneEnsembleModel(M2SSceneEnsembleConfig())


def test_wrong_folders_are_named(ensemble_folder, folders, tmp_path):
    with pytest.raises(ValueError, match=r"second holds a model of type 'm2s_scene'; M2SSceneEnsembleConfig reads"):
        M2SSceneEnsembleModel.from_pretrained(folders[1])
    with pytest.raises(ValueError, match=r"all holds a model of type 'm2s_scene_ensemble'; M2SSceneConfig reads"):
        M2SSceneModel.from_pretrained(ensemble_folder)


def test_wrong_shapes_are_refused(members):
    ensemble = M2SSceneEnsembleModel.from_encoders(members, NAMES)
    with pytest.raises(ValueError, match=r"pixel_values has shape \(3, 32, 32\)"):
        ensemble(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"frame_mask has shape \(2, 2\)"):
        ensemble(torch.zeros(2, 3, 3, 32, 32), torch.ones(2, 2, dtype=torch.bool))


def command_error(capsys, *words: str | Path) -> str:
    """The line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert isinstance(ended.value.code, str)  # printed by Python, exit status 1
    assert "\n" not in ended.value.code
    return ended.value.code


def test_the_command_takes_clip_checkpoints_and_normalizes(folders, scenes, tmp_path, capsys):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    vision = M2SSceneModel.from_pretrained(folders[1]).config.vision_config.to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=5))
    clip.save_pretrained(tmp_path / "clip")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**sizes).save_pretrained(tmp_path / "clip")
    words = ["--encoders", str(tmp_path / "clip"), str(folders[0]), "--names", "frozen", "synopsis", "--normalize"]
    main([*words, "--output", str(tmp_path / "both")])
    assert f"{tmp_path / 'both'}: frozen + synopsis, vectors of 40 numbers" in capsys.readouterr().out
    members = [M2SSceneModel.from_pretrained(tmp_path / "clip"), M2SSceneModel.from_pretrained(folders[0] / "model")]
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path / "both")(**scenes).scene_embeds
    torch.testing.assert_close(found, side_by_side(members, scenes, "scene_embeds", normalize=True))


def test_the_command_names_what_differs(folders, members, ensemble_folder, tmp_path, capsys):
    blurred = save_with_processor(members[1], tmp_path / "other", resample=2, image_mean=[0.5, 0.5, 0.5])
    larger = save_with_processor(random_encoder(5, image_size=48), tmp_path / "larger")
    rest = ["--names", "a", "b", "--output", tmp_path / "out"]

    error = command_error(capsys, "--encoders", folders[0], blurred, *rest)
    assert f"{folders[0]} and {blurred} prepare frames differently" in error
    assert "image_mean is [0.48145466, 0.4578275, 0.40821073] and [0.5, 0.5, 0.5]; resample is 3 and 2" in error
    assert "b of (3, 48, 48)" in command_error(capsys, "--encoders", folders[0], larger, *rest)
    assert "all is an ensemble; name its members" in command_error(
        capsys, "--encoders", folders[0], ensemble_folder, *rest
    )
    missing = command_error(capsys, "--encoders", folders[0], tmp_path / "nowhere", *rest)
    assert "nowhere cannot be loaded" in missing
    assert not (tmp_path / "out").exists()


def test_the_command_overwrites_nothing(folders, ensemble_folder, capsys):
    before = json.loads((ensemble_folder / "config.json").read_text())
    error = command_error(capsys, "--encoders", folders[1], "--names", "b", "--output", ensemble_folder)
    assert f"{ensemble_folder} is not empty" in error
    assert json.loads((ensemble_folder / "config.json").read_text()) == before
