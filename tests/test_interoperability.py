"""Scene encoders called as other models are, against transformers' own classes and the model called by hand."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from make_videos import make_video
from peft import PeftModel
from PIL import Image
from sentence_transformers import SentenceTransformer
from test_modeling_m2s import ragged_mask, random_frames, tiny
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.video_utils import load_video

from modeling_m2s import (
    M2SSceneEnsembleModel,
    M2SSceneForClassification,
    M2SSceneForContrastiveLearning,
    M2SSceneModel,
    M2SSceneProcessor,
    tiny_model,
)

HEADS = [M2SSceneForContrastiveLearning, M2SSceneForClassification]
DOCUMENT = (Path(__file__).parent.parent / "docs/python.md").read_text()


def pictures(number: int, seed: int = 0) -> list[Image.Image]:
    """Random pictures of several sizes."""
    rng = np.random.default_rng(seed)
    sizes = [(37 + 3 * place % 20, 51 + 7 * place % 30, 3) for place in range(number)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A video file of 64 frames."""
    return make_video(tmp_path_factory.mktemp("video") / "film.mp4", [17, 30, 17])


@pytest.fixture(scope="module")
def model(tiny_folder) -> M2SSceneModel:
    return M2SSceneModel.from_pretrained(tiny_folder).eval()


@pytest.fixture(scope="module")
def processor(tiny_folder) -> M2SSceneProcessor:
    return M2SSceneProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def sentences(tiny_folder) -> SentenceTransformer:
    """The tiny scene encoder as sentence-transformers loads it."""
    return SentenceTransformer(str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def classifier(tiny_folder, processor, tmp_path_factory) -> Path:
    """A folder of a classifier with random weights, and its processor."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    M2SSceneForClassification.from_pretrained(tiny_folder, num_labels=4).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def by_hand(model, processor, scenes: list) -> np.ndarray:
    """`pooler_output` of each scene alone."""
    with torch.no_grad():
        return np.concatenate([model(**processor([scene])).pooler_output.numpy() for scene in scenes])


def middle_frames(path: Path, num_frames: int) -> list[np.ndarray]:
    """Frames of a file, by transformers' own reader: of so many equal parts the middles."""
    frames = load_video(str(path))[0]
    return [frames[int((part + 0.5) * len(frames) / num_frames)] for part in range(num_frames)]


def assert_near(found, expected, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=True)


# sentence-transformers


def test_sentence_transformers_encodes_pictures(sentences, model, processor, tmp_path):
    images = pictures(5)
    expected = by_hand(model, processor, [[image] for image in images])
    paths = [str(tmp_path / f"{place}.png") for place in range(5)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    for given in (images, paths, [np.asarray(image) for image in images]):
        assert_near(sentences.encode(given, batch_size=2), expected)


def test_sentence_transformers_encodes_lists_of_frames(sentences, model, processor):
    scenes = [pictures(9), pictures(4, seed=1), pictures(1, seed=2)]
    assert_near(sentences.encode([{"video": scene} for scene in scenes]), by_hand(model, processor, scenes))
    clip = np.random.default_rng(0).integers(0, 256, (12, 40, 60, 3), dtype=np.uint8)
    assert_near(sentences.encode([clip]), by_hand(model, processor, [clip]))


def test_sentence_transformers_encodes_video_files(sentences, model, processor, video):
    scenes = [middle_frames(video, 9)]
    assert_near(sentences.encode([str(video)]), by_hand(model, processor, scenes))
    found = sentences.encode([str(video)], processing_kwargs={"video": {"num_frames": 3}})
    assert_near(found, by_hand(model, processor, [middle_frames(video, 3)]))


def test_sentence_transformers_gives_the_pipelines_vectors(tiny_folder, sentences):
    images = pictures(3)
    expected = pipeline("scene-embedding", model=str(tiny_folder)).embed_images(images)
    assert np.array_equal(sentences.encode(images), expected)


def test_sentence_transformers_knows_the_width(sentences, tiny_folder):
    """Of the representation, not of the projection."""
    assert M2SSceneModel.from_pretrained(tiny_folder).config.projection_dim == 16
    assert sentences.encode(pictures(1)).shape == (1, 32)
    assert sentences.get_embedding_dimension() == 32
    assert set(sentences.modalities) == {"image", "video"}


def test_sentence_transformers_saves_what_it_loads(sentences, model, tmp_path):
    sentences.save(str(tmp_path))
    expected = sentences.encode(pictures(2))
    assert np.array_equal(SentenceTransformer(str(tmp_path), device="cpu").encode(pictures(2)), expected)
    saved = M2SSceneModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())
    pooling = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert (pooling["embedding_dimension"], pooling["pooling_mode"]) == (32, "cls")


def test_sentence_transformers_loads_ensembles(model, processor, tmp_path):
    ensemble = M2SSceneEnsembleModel.from_encoders([model, model], ["one", "two"])
    ensemble.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = SentenceTransformer(str(tmp_path), device="cpu")
    scenes = [pictures(3), pictures(2)]
    assert encoder.get_embedding_dimension() == 64
    assert_near(encoder.encode([{"video": scene} for scene in scenes]), by_hand(ensemble, processor, scenes))


def test_sentence_transformers_loads_the_encoder_that_ships():
    encoder = SentenceTransformer(tiny_model(), device="cpu")
    inputs = CLIPImageProcessor.from_pretrained(tiny_model())(pictures(3), return_tensors="pt")
    with torch.no_grad():
        tower = CLIPVisionModel.from_pretrained(tiny_model()).eval()
        assert_near(encoder.encode(pictures(3)), tower(**inputs).pooler_output.numpy())
    assert encoder.get_embedding_dimension() == 256


def test_classifiers_are_no_sentence_transformers(classifier):
    assert sorted(path.name for path in classifier.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
    ]


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "modules.json").exists() and not (tmp_path / "1_Pooling").exists()


# The model's other names


def test_image_features_are_a_call_on_one_frame():
    model, images = tiny(), random_frames(3)
    with torch.no_grad():
        expected = model(images[:, None])
        for found in (model(images), model.get_image_features(images), model.get_video_features(images[:, None])):
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_image_features_are_clips(tmp_path):
    """CLIP's method returns the projection, which has a name of its own here."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    vision = tiny().config.vision_config.to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()
    clip.save_pretrained(tmp_path)
    images = random_frames(3)
    with torch.no_grad():
        expected = clip.get_image_features(images)
        found = M2SSceneModel.from_pretrained(tmp_path).eval().get_image_features(images)
    torch.testing.assert_close(found.scene_embeds, expected.pooler_output)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert isinstance(found, transformers.modeling_outputs.BaseModelOutputWithPooling)


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_inputs_have_the_names_of_other_video_models(model_class):
    model, frames, mask = tiny(model_class), random_frames(2, 3), ragged_mask([3, 1])
    with torch.no_grad():
        expected = model(frames, frame_mask=mask)
        others = [
            model(pixel_values_videos=frames, padding_mask_videos=mask),
            model(pixel_values=frames, padding_mask_videos=mask.long()),
            model(pixel_values_videos=frames, frame_mask=mask),
        ]
        if model_class is M2SSceneModel:
            others.append(model.get_video_features(pixel_values_videos=frames, padding_mask_videos=mask))
            ensemble = M2SSceneEnsembleModel.from_encoders([model], ["one"])
            found = ensemble(pixel_values_videos=frames, padding_mask_videos=mask)
            torch.testing.assert_close(found.pooler_output, expected.pooler_output)
    for found in others:
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_inputs_by_two_names_or_none_are_refused(model_class):
    model, frames, mask = tiny(model_class), random_frames(2, 3), ragged_mask([3, 1])
    with pytest.raises(ValueError, match="pixel_values and pixel_values_videos are two names of one input"):
        model(frames, pixel_values_videos=frames)
    with pytest.raises(ValueError, match="frame_mask and padding_mask_videos are two names of one input"):
        model(frames, frame_mask=mask, padding_mask_videos=mask)
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(frame_mask=mask)


def test_images_and_videos_are_not_mixed_up():
    model = tiny()
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3, 24, 24\); images are .* get_video_features"):
        model.get_image_features(random_frames(2, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 24, 24\); videos are .* get_image_features"):
        model.get_video_features(random_frames(2))


# transformers' pipelines


@pytest.mark.parametrize("batch_size", [1, 2])
def test_image_feature_extraction_is_clips(batch_size):
    """The encoder that ships, against transformers' own image tower in the same pipeline."""
    ours = pipeline("image-feature-extraction", model=tiny_model())
    assert type(ours.model) is M2SSceneModel
    tower = CLIPVisionModel.from_pretrained(tiny_model())
    theirs = pipeline("image-feature-extraction", model=tower, image_processor=ours.image_processor)
    for pool in (False, True):
        options = {"pool": pool, "return_tensors": True, "batch_size": batch_size}
        for found, expected in zip(ours(pictures(4), **options), theirs(pictures(4), **options), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"num_frames": 1}, {"num_frames": 4, "frame_sampling_rate": 2}])
def test_video_classification_by_frames_alone_is_refused(classifier, video, options):
    classify = pipeline("video-classification", model=str(classifier))
    with pytest.raises(ValueError, match=r"M2SSceneForClassification reads \(scenes, .*processor\(videos=\[path\]\)"):
        classify(str(video), **options)


def test_image_classification_by_scenes_is_refused(classifier):
    model = M2SSceneForClassification.from_pretrained(classifier)
    extract = pipeline(
        "image-feature-extraction", model=model, image_processor=CLIPImageProcessor.from_pretrained(classifier)
    )
    with pytest.raises(ValueError, match="reads \\(scenes, frames"):
        extract(pictures(1))


def test_video_classification_by_the_processor_sees_every_frame(classifier, video):
    """As the error says, and by transformers' pipeline with the processor for its video processor."""
    model, processor = (
        M2SSceneForClassification.from_pretrained(classifier),
        M2SSceneProcessor.from_pretrained(classifier),
    )
    with torch.no_grad():
        expected = model(**processor([middle_frames(video, 9)])).logits[0].softmax(-1)
        assert torch.equal(model(**processor(videos=[str(video)])).logits[0].softmax(-1), expected)
    classify = pipeline(
        "video-classification",
        model=model,
        image_processor=processor.image_processor,
        video_processor=lambda path, **options: processor(videos=[path], **options),
    )
    found = {answer["label"]: answer["score"] for answer in classify(str(video), top_k=4)}
    assert found == pytest.approx(
        {model.config.id2label[place]: score for place, score in enumerate(expected.tolist())}
    )


# The processor


def test_images_are_what_clip_makes_of_them(processor, tmp_path):
    images = pictures(3)
    expected = processor.image_processor(images=images, return_tensors="pt").pixel_values
    images[1].save(tmp_path / "still.png")
    for given in (images, [images[0], str(tmp_path / "still.png"), np.asarray(images[2])]):
        inputs = processor(images=given)
        assert set(inputs) == {"pixel_values"}
        assert torch.equal(inputs["pixel_values"], expected)
    for given in (images[1], tmp_path / "still.png", str(tmp_path / "still.png")):
        assert torch.equal(processor(images=given)["pixel_values"], expected[1:2])
    assert isinstance(processor(images=images, return_tensors="np")["pixel_values"], np.ndarray)


class Decoder:
    """Used as torchcodec's VideoDecoder is."""

    def __init__(self, frames: np.ndarray):
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        self.metadata = SimpleNamespace(num_frames=len(frames), average_fps=24.0)

    def get_frames_at(self, indices):
        return SimpleNamespace(data=self.frames[indices])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("num_frames", [9, 4, 1])
def test_videos_are_read_in_the_middles_of_equal_parts(processor, video, tmp_path, num_frames, suffix):
    """Also of a container that does not say how many frames it holds, the second one."""
    path = make_video(tmp_path / f"film.{suffix}", [17, 30, 17])
    frames, middles = load_video(str(video))[0], middle_frames(video, num_frames)
    expected = processor([middles])
    for given in (str(path), path, [path], [str(path)], Decoder(frames), [Decoder(frames)]):
        inputs = processor(videos=given, num_frames=num_frames)
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    sampled = processor(videos=[frames], videos_kwargs={"video_metadata": [{"fps": 24.0}], "num_frames": num_frames})
    assert torch.equal(sampled["pixel_values"], expected["pixel_values"])


def test_videos_in_memory_are_read_whole(processor, video, tmp_path):
    """Nine frames are sampled of what is decoded, unless it is shorter or is to be read whole."""
    images, frames = pictures(12), load_video(str(video))[0]
    images[2].save(tmp_path / "still.png")
    with_path = [*images[:2], str(tmp_path / "still.png"), *images[3:]]
    expected = processor([images])
    for given in (images, [images], [with_path], [[images[:5], images[5:]]]):
        assert torch.equal(processor(videos=given)["pixel_values"], expected["pixel_values"])
    for given in (frames, [frames], torch.from_numpy(frames).permute(0, 3, 1, 2)):
        assert torch.equal(processor(videos=given)["pixel_values"], processor([frames])["pixel_values"])
    short = processor([frames[:5]])["pixel_values"]
    assert torch.equal(processor(videos=Decoder(frames[:5]))["pixel_values"], short)
    for given in (str(video), Decoder(frames)):
        whole = processor(videos=given, do_sample_frames=False)["pixel_values"]
        assert torch.equal(whole, processor([frames])["pixel_values"])
    sampled = processor(videos=frames, do_sample_frames=True, num_frames=2)["pixel_values"]
    assert torch.equal(sampled, processor([middle_frames(video, 2)])["pixel_values"])


def test_videos_of_several_lengths_are_padded_as_scenes_are(processor, video):
    together = processor(videos=[pictures(11), str(video), pictures(2)])
    expected = processor([pictures(11), middle_frames(video, 9), pictures(2)])
    assert all(torch.equal(together[name], expected[name]) for name in ("pixel_values", "frame_mask"))


def test_transformers_groups_of_options_are_taken(processor):
    """Those of other modalities too, as sentence-transformers passes them all."""
    others = {"text_kwargs": {"padding": True}, "audio_kwargs": {"padding": True}}
    plain = {"do_normalize": False, "do_rescale": False}
    expected = processor([pictures(2)], **plain)["pixel_values"].numpy()
    found = processor(videos=[pictures(2)], videos_kwargs=plain, common_kwargs={"return_tensors": "np"}, **others)
    assert np.array_equal(found["pixel_values"], expected)
    found = processor(images=pictures(2), images_kwargs=plain, videos_kwargs={"num_frames": 3}, **others)
    assert np.array_equal(found["pixel_values"].numpy(), expected[0])
    assert np.array_equal(processor([pictures(2)], images_kwargs=plain)["pixel_values"].numpy(), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected one of scenes, images and videos; got none of them"),
        ({"images": pictures(1), "videos": [pictures(2)]}, "got images and videos"),
        ({"scenes": [pictures(2)], "images": pictures(1)}, "got scenes and images"),
        ({"text": ["a place"]}, "got text"),
        ({"images": pictures(1), "text": ["a place"]}, "got images and text"),
        ({"images": []}, "images is empty"),
        ({"images": "missing.png"}, "missing.png cannot be read: "),
        ({"images": [None]}, "None is not a frame"),
        ({"images": [np.full((3, 4, 3), 2.0)]}, "a frame has values from 2 to 2"),
        ({"videos": []}, "expected videos: each a path"),
        ({"videos": pictures(1)[0]}, "expected videos: each a path"),
        ({"videos": 7}, "expected videos: each a path"),
        ({"videos": [7]}, "7 is not a frame"),
        ({"videos": [pictures(1), []]}, "video 1 has no frames"),
        ({"videos": "missing.mp4"}, "missing.mp4 cannot be read: "),
        ({"videos": [[Path("missing.png")]]}, "missing.png cannot be read: "),
        ({"videos": [pictures(2)], "num_frames": -1}, "num_frames=-1 must be at least 1"),
        ({"videos": [pictures(2)], "num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"videos": [pictures(2)], "video_metadata": [None, None]}, "video_metadata has 2 entries for 1 videos"),
    ],
)
def test_what_the_processor_cannot_read_is_named(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor(**given)


def test_files_that_are_no_video_are_named(processor, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"notes\.mp4 cannot be read: "):
        processor(videos=str(tmp_path / "notes.mp4"))
    endless = Decoder(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    endless.metadata.num_frames = None
    with pytest.raises(ValueError, match="does not know its number of frames"):
        processor(videos=endless)


# The documents, and fine-tuning


@pytest.fixture
def films(tmp_path, monkeypatch) -> None:
    """The films of the blocks, in the working directory."""
    for seed, name in enumerate(("film.mp4", "day.mp4", "night.mp4")):
        make_video(tmp_path / name, [17, 16], seed=seed)
    monkeypatch.chdir(tmp_path)


def document_block(first_line: str) -> str:
    """The code block that begins with this line."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if block.startswith(first_line))


def test_the_documents_calls_run(films):
    names = dict(zip(("frame_1", "frame_2", "frame_3"), pictures(3), strict=True))
    exec(document_block("import modeling_m2s\nfrom sentence_transformers"), names)
    assert names["vectors"].shape == (1, 256)
    assert names["features"][0].shape == (1, 256)


def test_the_documents_fine_tuning_trains_only_what_it_names(films):
    names: dict = {}
    exec(document_block("import torch\nfrom peft"), names)
    model, before = names["model"], M2SSceneModel.from_pretrained(tiny_model()).state_dict()
    encoder = model.get_base_model().scene_model.state_dict()
    kept = {name.replace(".base_layer", ""): weight for name, weight in encoder.items() if "lora_" not in name}
    assert kept.keys() == before.keys()
    assert all(torch.equal(weight.cpu(), before[name]) for name, weight in kept.items())
    assert all(weight.abs().sum() > 0 for name, weight in encoder.items() if "lora_B" in name)  # zeros at first

    torch.manual_seed(0)  # loading draws the classifier, which the adapter then replaces
    plain = M2SSceneForClassification.from_pretrained(tiny_model(), num_labels=2)
    loaded = PeftModel.from_pretrained(plain, "runs/day_or_night/adapter").eval()
    inputs = names["collate"](names["rows"])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval().cpu()(**inputs).logits)


def test_accumulated_batches_train_like_whole_ones(classifier, processor, tmp_path):
    rows = [{**processor([pictures(2, seed)]), "labels": torch.tensor(seed % 2)} for seed in range(4)]
    rows = [{name: value if name == "labels" else value[0] for name, value in row.items()} for row in rows]
    norms = []
    for size in (4, 2, 1):
        model = M2SSceneForClassification.from_pretrained(classifier, classifier_dropout=0.0)
        arguments = TrainingArguments(
            str(tmp_path / str(size)),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            logging_steps=1,
            use_cpu=True,
            report_to="none",
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        norms.append(next((each["loss"], each["grad_norm"]) for each in trainer.state.log_history if "loss" in each))
    assert norms[1] == pytest.approx(norms[0], rel=1e-3) and norms[2] == pytest.approx(norms[0], rel=1e-3)


def test_trainer_fine_tunes_the_whole_classifier(classifier, processor, tmp_path):
    """By transformers' own loop: the loss of two scenes falls, and what is saved gives the same logits."""
    model = M2SSceneForClassification.from_pretrained(classifier)
    rows = [{**processor([pictures(3, seed)]), "labels": torch.tensor(seed)} for seed in range(2)]
    rows = [{name: value if name == "labels" else value[0] for name, value in row.items()} for row in rows]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=20, learning_rate=3e-3, use_cpu=True, report_to="none", logging_steps=1, seed=0
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    trainer.save_model(tmp_path / "model")
    scenes = processor([pictures(3, seed) for seed in range(2)])
    with torch.no_grad():
        expected = model.eval()(**scenes).logits
        assert torch.equal(M2SSceneForClassification.from_pretrained(tmp_path / "model")(**scenes).logits, expected)
