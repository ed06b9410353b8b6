"""Datasets and models that someone else made to do harm: no name in them leads out of their folder, no pickle runs."""

import json
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_datasets_hub import rows_of

from data_scripts.check import main as check
from data_scripts.readers.stored_shots import ParquetShots
from modeling_m2s.pretrained_m2s import ModelError, load_encoder
from modeling_m2s.storage_m2s import FilmDataset, StorageError, file_name

ELSEWHERE = ["../../x", "/etc/x", "..", ".", "", "a/../../x", "..\\..\\x", "x\0y", "~/x", "\n", "-rf", "x" * 3000]
SHARDS = ["../../secret.parquet", "/secret.parquet", "train-00000.parquet/../../../secret.parquet", "", None, 7]


@pytest.mark.parametrize("movie_id", ELSEWHERE)
def test_films_of_any_name_stay_in_the_folder(movie_id, tmp_path):
    name = file_name(movie_id)
    assert not set(name) & set("/\\\0\n") and not name.startswith(".") and len(name) < 100
    dataset = FilmDataset(tmp_path / "deep/er/films", "shot_features")
    dataset.begin({})
    dataset.write_film(movie_id, rows_of("shot_features", movie_id, 2), {})
    dataset.write_failure(f"{movie_id} ", "broken")
    (part,) = (dataset.folder / "parts").glob("*.parquet")
    assert part.resolve().parent == (dataset.folder / "parts").resolve()
    dataset.finish([movie_id], {})
    assert dataset.check() == [] and list(dataset.films()) == [movie_id]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.fixture
def shots(tmp_path):
    """A dataset beside a file that its record must not lead to."""
    dataset = FilmDataset(tmp_path / "shots", "shots")
    dataset.begin({})
    dataset.write_film("tt1", rows_of("shots", "tt1", 2), {})
    dataset.finish(["tt1"], {})
    shutil.copy(dataset.shard_path(0), tmp_path / "secret.parquet")
    return dataset.folder


def edit_record(folder, shards) -> None:
    record = json.loads((folder / "m2s.json").read_text())
    (folder / "m2s.json").write_text(json.dumps({**record, "shards": shards}))


@pytest.mark.parametrize("name", SHARDS)
def test_no_record_leads_readers_out_of_the_folder(name, shots):
    edit_record(shots, [{"file": name, "films": 1}])
    message = f"{shots}/m2s.json: {name!r} is no name of a shard"
    for read in (ParquetShots, lambda folder: FilmDataset(folder, "shots").check()):
        with pytest.raises(StorageError) as refused:
            read(shots)
        assert str(refused.value) == message
    with pytest.raises(SystemExit) as ended:
        check([str(shots)])
    assert ended.value.code == f"data_scripts.check: error: {message}"


@pytest.mark.parametrize("shards", [None, 7, ["train-00000.parquet"], [{}], [None]])
def test_records_without_shards_are_named(shards, shots):
    edit_record(shots, shards)
    with pytest.raises(StorageError, match=r"m2s\.json: names no shards; make the dataset again"):
        ParquetShots(shots)


@pytest.mark.parametrize(
    "index",
    [
        "not JSON",
        "7",
        "[7]",
        '[{"movie_id": "tt1"}]',
        '[{"movie_id": "tt1", "first_row": 0, "num_rows": 2, "path": "../../secret.parquet"}]',
    ],
)
def test_no_index_of_films_names_files(index, shots):
    path = shots / "data/train-00000.parquet"
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"m2s.films": index})
    with pytest.raises(StorageError, match=r"train-00000\.parquet: holds no films"):
        FilmDataset(shots, "shots").films()


class Poison:
    """Whoever unpickles this makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("safe_weights", [True, False])
def test_poison_beside_the_weights_is_never_unpickled(safe_weights, tiny_folder, tmp_path):
    """Names of pickles that transformers, peft, sentence-transformers and PyTorch know."""
    model, trace = shutil.copytree(tiny_folder, tmp_path / "model"), tmp_path / "trace"
    names = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin", "training_args.bin"]
    for name in [*names, "model.pt", "model.ckpt", "1_Pooling/pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"]:
        (model / name).write_bytes(pickle.dumps(Poison(trace)))
    if safe_weights:
        encoder, _, _ = load_encoder(str(model))
        expected, _, _ = load_encoder(str(tiny_folder))
        for name, tensor in expected.state_dict().items():
            np.testing.assert_array_equal(encoder.state_dict()[name].numpy(), tensor.numpy())
        adapter = {"peft_type": "LORA", "base_model_name_or_path": str(model), "r": 2, "target_modules": ["q_proj"]}
        (model / "adapter_config.json").write_text(json.dumps(adapter))
    else:
        (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="adapter_model.safetensors" if safe_weights else "only as a pickle"):
        load_encoder(str(model))
    assert not trace.exists()
