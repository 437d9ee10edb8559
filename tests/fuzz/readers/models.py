"""Readers of a stranger's checkpoint: safetensors, torch_dist, `.nemo`, configurations, tokenizers."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from s2l_nemo.data.chat import apply_template
from s2l_nemo.engines.hf_folder import HfFolder
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.places import find_torch_dist, foreign
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.files import hf_files_folder
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT32
from s2l_nemo.models.formats.manifest import read_manifest
from s2l_nemo.models.formats.regions import folder_regions
from s2l_nemo.models.formats.rows import Rows, blocks
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.torch_pickle import Call, Global, Persistent, pickled
from s2l_nemo.models.formats.torch_unpickle import IN_ITEM, IN_METADATA, unpickle
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.models.frequencies import inverse_frequencies
from s2l_nemo.models.hf_config import config_of_shape, engine_config, with_dtype
from s2l_nemo.models.nemo_config import architecture, shape_from_nemo
from s2l_nemo.models.nemo_keys import check_keys, with_nemo_defaults
from s2l_nemo.models.open import open_model
from s2l_nemo.models.rope import Llama3Scaling, YarnScaling
from s2l_nemo.models.sentencepiece import tokenizer_json
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.models.tokenizer import load_tokenizer, sentencepiece_json, stop_token_ids
from tests.character_tokenizer import TEMPLATE, character_tokenizer
from tests.fuzz.mutate import damage, json_damage, mixed, pickle_programs, safetensors_damage, tar_damage
from tests.fuzz.reader import Harness, Reader
from tests.models.formats.torch_dist import Box, write_by_torch
from tests.models.shapes import small_shape

GENERATION, TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"
SHAPES = [
    *(small_shape(family=family) for family in FAMILIES.names()),
    small_shape(family="llama", rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 8), tied=False),
    small_shape(family="qwen3", max_positions=32, rope_scaling=YarnScaling(4.0, 8, 32.0, 1.0, 1.1)),
]
WEIGHTS = [
    save({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, {"format": "pt"}),
    save({"a.b": torch.zeros(0, 3), "c": torch.ones((), dtype=torch.float16)}),
]


def bytes_of(rows: Rows) -> bytes:
    return b"".join(bytes(block) for block in blocks(rows, 1000))


def read_rows(folder: Path) -> None:
    weights = SafetensorsFolder(folder)
    for name in weights.tensors:
        bytes_of(weights.rows(name))


def safetensors(folder: Path) -> Harness:
    return Harness(
        WEIGHTS, lambda _: read_rows(folder), folder / "model.safetensors", mixed(damage, safetensors_damage)
    )


def safetensors_index(folder: Path) -> Harness:
    for name, tensors in (("x-1.safetensors", {"a": torch.zeros(2)}), ("x-2.safetensors", {"b": torch.ones(1, 2)})):
        (folder / name).write_bytes(save(tensors))
    index = {"metadata": {"total_size": 16}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
    path = folder / "model.safetensors.index.json"
    return Harness([json.dumps(index).encode()], lambda _: read_rows(folder), path, json_damage)


def engine_folder(folder: Path) -> Harness:
    """What engines of other libraries are given: the index may name nothing outside of the folder."""
    safetensors_index(folder)
    (folder / "config.json").write_text('{"tie_word_embeddings": false}')
    path = folder / "model.safetensors.index.json"
    seed = b'{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}'
    return Harness([seed], lambda _: HfFolder(folder).weight_hash(torch.float32), path, json_damage)


def older_config(shape: ModelShape) -> dict[str, Any]:
    """A config.json with every key that is looked for, as transformers 4 writes it."""
    absent = dict.fromkeys((*FAMILIES[shape.family].refused, "quantization_config", "auto_map"))
    return {**absent, "hidden_act": "silu", "eos_token_id": [1, 2], **config_of_shape(shape, FLOAT32)}


def newer_config(shape: ModelShape) -> dict[str, Any]:
    """The same as transformers 5 writes it."""
    config = older_config(shape)
    scaling = config.pop("rope_scaling") or {"rope_type": "default"}
    parameters = {**scaling, "rope_theta": config.pop("rope_theta")}
    return {**config, "rope_parameters": parameters, "dtype": config.pop("torch_dtype")}


def config_json(folder: Path) -> Harness:
    def read(_: bytes) -> None:
        model = open_model("model.path", str(folder))
        assert model.shape.heads % model.shape.kv_heads == 0
        json.dumps(engine_config(with_dtype(model.config, BFLOAT16), model.shape))
        inverse_frequencies(128, model.shape.rope_theta, model.shape.rope_scaling)

    seeds = [json.dumps(form(shape)).encode() for shape in SHAPES for form in (older_config, newer_config)]
    return Harness(seeds, read, folder / "config.json", json_damage)


def model_config_yaml(folder: Path) -> Harness:
    def read(content: bytes) -> None:
        path = folder / "model_config.yaml"
        config = with_nemo_defaults(path, read_yaml_mapping(content, str(path)))
        shape = shape_from_nemo(path, config, 8)
        check_keys(path, config, shape)
        assert shape.heads % shape.kv_heads == 0
        inverse_frequencies(128, shape.rope_theta, shape.rope_scaling)

    seeds = [json.dumps(architecture(shape)).encode() for shape in SHAPES if shape.family != "internlm2"]
    written = [{"encoder_seq_length": 32, **json.loads(seed)} for seed in seeds]  # by NeMo
    seeds += [json.dumps(with_nemo_defaults(folder, config)).encode() for config in written]
    plain = [yaml.safe_dump(json.loads(seed)).encode() for seed in seeds]
    return Harness([*seeds, *plain], read, None, json_damage)  # JSON is YAML


def stored(folder: Path) -> None:
    """The files of a torch_dist checkpoint: one tensor in two chunks that cut its rows, and one whole."""
    halves: list[Box] = [((0, 0), (3, 1)), ((0, 1), (3, 1))]
    write_by_torch(folder, {
        "a": (torch.arange(6.0).reshape(3, 2), halves), "b": (torch.ones(4, dtype=torch.bfloat16), [((0,), (4,))])
    })  # fmt: skip


def torch_dist(name: str, mutate: Any) -> Callable[[Path], Harness]:
    def prepare(folder: Path) -> Harness:
        stored(folder)

        def read(_: bytes) -> None:
            reader = TorchDistReader(folder_regions(folder), folder)
            for key in reader.tensors:
                bytes_of(reader.rows(key))
            find_torch_dist(folder)

        return Harness([(folder / name).read_bytes()], read, folder / name, mutate)

    return prepare


def pickles(folder: Path) -> Harness:
    storage = Persistent(("storage", Global("torch FloatStorage"), "0", "cpu", 4))
    item = pickled(Call(Global("torch._utils _rebuild_tensor_v2"), (storage, 0, (2, 2), (2, 1))))

    def read(content: bytes) -> None:
        unpickle(content, IN_ITEM, str(folder))
        unpickle(content, {**IN_METADATA, **IN_ITEM}, str(folder))

    return Harness([pickled([{"a": (1, None)}, "b", 2.5]), item], read, None, pickle_programs)


def nemo_files(folder: Path) -> dict[str, bytes]:
    """A whole checkpoint of a model of one layer, by the names of its members."""
    shape = small_shape(family="qwen3", vocab=8, hidden=2, ffn=2)
    hf = folder / "hf"
    hf.mkdir()
    (hf / "config.json").write_text(json.dumps(config_of_shape(shape, FLOAT32)))
    from s2l_nemo.models.fusion import hf_shapes
    from s2l_nemo.models.layout import entries
    from tests.distributed.conversion import to_nemo

    tensors = {
        name: torch.zeros(sizes)
        for entry in entries(shape)
        for name, sizes in zip(entry.hf_names(), hf_shapes(entry.rule, shape), strict=True)
    }
    (hf / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    made = to_nemo(hf, folder / "made.nemo")
    with tarfile.open(made) as archive:
        names = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
        files = {name: file.read() for name, file in names.items() if file is not None}
    files["whole"] = made.read_bytes()
    return files


def nemo_tar(folder: Path) -> Harness:
    path = folder / "x.nemo"
    seed = nemo_files(folder)["whole"]
    sparse = io.BytesIO()
    with tarfile.open(fileobj=sparse, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("huggingface/config.json", "huggingface/tokenizer.json", "x" * 120):
            info = tarfile.TarInfo(f"./{name}")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"{ }"))

    def read(_: bytes) -> None:
        unpacked = None
        try:
            unpacked = hf_files_folder("model.path", str(path))
            open_checkpoint(path)
        finally:
            if unpacked is not None:
                shutil.rmtree(unpacked)

    def mutate(random: Any, _seed: bytes, seeds: Any) -> bytes:
        return mixed(tar_damage, tar_damage, damage)(random, random.choice((seed, sparse.getvalue())), seeds)

    return Harness([seed], read, path, mutate, may_write=True)


def tracker(folder: Path) -> Harness:
    stored(folder / "iter_0000007")

    def read(_: bytes) -> None:
        find_torch_dist(folder)
        foreign(folder)

    return Harness([b"7", b" 7\n"], read, folder / "latest_checkpointed_iteration.txt")


def manifest(folder: Path) -> Harness:
    line = f"{'a' * 64}  model.safetensors\n".encode()
    return Harness([line, line + f"\\{'b' * 64} *a\\nb\n".encode()], lambda _: read_manifest(folder / "SHA256SUMS"),
                   folder / "SHA256SUMS")  # fmt: skip


def adapter(folder: Path) -> Harness:
    return Harness([b'{"base_model_name_or_path": "a/b", "r": 8}'], lambda _: foreign(folder),
                   folder / "adapter_config.json", json_damage)  # fmt: skip


def tokenizer_file(name: str) -> Callable[[Path], Harness]:
    """One file of a tokenizer's folder, the others being whole."""

    def prepare(folder: Path) -> Harness:
        character_tokenizer(alphabet="ab|?~ >").save_pretrained(folder)
        (folder / GENERATION).write_text('{"eos_token_id": [1, 2], "temperature": 0.6}')
        (folder / "config.json").write_text("{}")

        whole = load_tokenizer(folder)

        def read(_: bytes) -> None:
            stop_token_ids(folder, whole if name == GENERATION else load_tokenizer(folder))  # which does not read it

        seeds = [(folder / name).read_bytes()]
        if name == TOKENIZER_CONFIG:  # with the keys that are looked for, too
            classes: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": {}, "bos_token": None}
            seeds.append(json.dumps({**json.loads(seeds[0]), **classes, "added_tokens_decoder": {}}).encode())
        return Harness(seeds, read, folder / name, json_damage, may_write=True)

    return prepare


def chat_template(_folder: Path) -> Harness:
    tokenizer = character_tokenizer()
    chats = [[{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 + 1?"}]]

    def read(content: bytes) -> None:
        tokenizer.chat_template = content.decode(errors="replace")
        apply_template(tokenizer, chats, {})

    more = "{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{%- set n = 1 %}{% endif %}"
    return Harness([TEMPLATE.encode(), f"{more}{TEMPLATE}".encode()], read)


def sentencepiece(folder: Path) -> Harness:
    config = {"tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>"}
    return Harness([few_pieces()], lambda content: tokenizer_json(folder / "tokenizer.model", content, config))


def sentencepiece_config(folder: Path) -> Harness:
    """tokenizer_config.json of a model that has a tokenizer.model and no tokenizer.json."""
    model = few_pieces()

    def read(content: bytes) -> None:
        sentencepiece_json(str(folder), {"tokenizer.model": lambda: model, "tokenizer_config.json": lambda: content})

    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"261": {"content": "<|im_end|>", **token}, "1": {"content": "<s>", **token}}
    seeds = [
        {"tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>", "add_bos_token": True},
        {"tokenizer_class": "InternLM2Tokenizer", "bos_token": added["1"], "added_tokens_decoder": added},
    ]
    return Harness([json.dumps(seed).encode() for seed in seeds], read, None, json_damage)


def few_pieces() -> bytes:
    """A tokenizer.model of a few pieces, written by hand in protobuf's wire format."""

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes(
                [number * 8 % 128 + (128 if number > 15 else 0), *([number >> 4] if number > 15 else []), content]
            )
        return bytes([number * 8 + 2, len(content)]) + content

    def piece(text: str, score: float, kind: int) -> bytes:
        score_field = bytes([2 * 8 + 5]) + struct.pack("<f", score)
        return field(1, field(1, text.encode()) + score_field + field(3, kind))

    pieces = [piece("<unk>", 0, 2), piece("<s>", 0, 3), *(piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256))]
    pieces += [piece("a", -1, 1), piece("b", -2, 1), piece("ab", 0, 1)]
    return b"".join(pieces) + field(2, field(3, 2) + field(35, 1)) + field(3, field(3, 0) + field(4, 0))


READERS = (
    Reader("safetensors", ("models.formats.safetensors_folder",), safetensors),
    Reader("safetensors-index", ("models.formats.safetensors_folder",), safetensors_index),
    Reader("engine-folder", ("engines.hf_folder",), engine_folder),
    Reader("config-json", ("models.files", "models.open", "models.hf_config"), config_json),
    Reader("model-config-yaml", ("models.formats.yaml_config", "models.nemo_keys"), model_config_yaml),
    Reader(
        "torch-dist-metadata", ("models.formats.torch_dist",), torch_dist(".metadata", mixed(damage, pickle_programs))
    ),
    Reader("torch-dist-json", ("models.formats.torch_dist",), torch_dist("metadata.json", json_damage)),
    Reader("torch-dist-chunks", ("models.formats.torch_dist",), torch_dist("__0_0.distcp", damage)),
    Reader("pickles", ("models.formats.torch_unpickle",), pickles),
    Reader("nemo-tar", ("models.formats.regions", "models.files"), nemo_tar),
    Reader("tracker", ("models.checkpoints.places",), tracker),
    Reader("manifest", ("models.formats.manifest",), manifest),
    Reader("adapter-config", ("models.checkpoints.places",), adapter),
    Reader("tokenizer-json", ("models.tokenizer",), tokenizer_file("tokenizer.json"), 25),
    Reader("tokenizer-config", ("models.tokenizer",), tokenizer_file(TOKENIZER_CONFIG), 25),
    Reader("generation-config", ("models.tokenizer",), tokenizer_file(GENERATION)),
    Reader("chat-template", ("data.chat",), chat_template),
    Reader("sentencepiece", ("models.sentencepiece",), sentencepiece),
    Reader("sentencepiece-config", ("models.tokenizer", "models.sentencepiece"), sentencepiece_config),
)
