"""What the whole suite shares: the assets' place, one real CLIP, one tiny model with random weights.

Tests that need the films and weights of the assets folder read its place from `M2S_ASSETS` and skip without it.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
import torch
from accelerate.state import AcceleratorState
from make_videos import make_video
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, CLIPVisionConfig

from modeling_m2s import M2SSceneConfig, M2SSceneModel, M2SSceneProcessor


def pytest_configure(config):
    """Allow the markers of transformers' own tests, which `test_common_models.py` runs."""
    flash = ["flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"]
    for marker in ["accelerate_tests", "torch_compile_test", *flash]:
        config.addinivalue_line("markers", f"{marker}: set by transformers' own tests")


@pytest.fixture(scope="module", autouse=True)
def own_accelerator() -> None:
    """A test file's accelerators are not bound by the number format and device of another file's."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real films, weights and labels."""
    folder = os.environ.get("M2S_ASSETS")
    if not folder:
        pytest.skip("needs real films and weights: set M2S_ASSETS to the assets folder")
    return Path(folder)


@pytest.fixture(scope="session")
def videos(assets) -> list[Path]:
    """Every real video of the assets."""
    return sorted((assets / "videos").iterdir())


@pytest.fixture(scope="session")
def clip_folder(assets, tmp_path_factory) -> Path:
    """CLIP ViT-B/16's image tower as a transformers folder of type `clip_vision_model`."""
    folder = tmp_path_factory.mktemp("clip")
    subprocess.run([sys.executable, assets / "clip-vit-base-patch16/unpack.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A scene encoder of random weights that reads 32×32 frames as 4×4 patches, with its processor, on disk."""
    torch.manual_seed(0)
    vision_config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    folder = tmp_path_factory.mktemp("tiny")
    M2SSceneModel(M2SSceneConfig(vision_config=vision_config, projection_dim=16)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    M2SSceneProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A folder of films of 13, 5 and 1 shots; some test files have their own."""
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, num_shots) in enumerate({"long": 13, "short": 5, "single": 1}.items()):
        make_video(folder / f"{name}.mp4", [16] * num_shots, seed=seed)
    return folder


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory) -> Path:
    """A CLIP of random weights with both towers, its image processor and a tokenizer of the letters, on disk."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("words")
    letters = sorted(ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes["projection_dim"] = 16
    text = {"vocab_size": len(names), "max_position_embeddings": 24}
    text |= {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1}
    vision = {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**sizes, **text}, vision_config={**sizes, **vision}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder
