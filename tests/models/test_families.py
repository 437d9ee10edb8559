"""A family is one entry: what its entry says, and one that is added from outside."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.compare import compare
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.families import FAMILIES, EngineForm, Family
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.models.hf_config import config_of_shape, shape_from_config_json
from s2l_nemo.models.names import LLAMA, Rule, Table
from s2l_nemo.models.nemo_config import architecture, check_same_figures, shape_from_nemo
from s2l_nemo.models.nemo_keys import with_nemo_defaults
from s2l_nemo.models.open import open_model
from s2l_nemo.models.rope import Llama3Scaling, RopeScaling, RopeType, YarnScaling
from s2l_nemo.models.shape import public_shape
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import VARIANTS, write_internlm2, write_variant
from tests.models.shapes import small_shape

PATH = Path("config.json")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(FAMILIES, "_choices", dict(FAMILIES._choices))


def renamed(name: str) -> str:
    return name.replace("model.", "transformer.").replace("self_attn", "attn").replace("embed_tokens", "wte")


def renamed_rule(rule: Rule) -> Rule:
    return replace(rule, hf=tuple(map(renamed, rule.hf)))


MINE = Table(
    embedding=renamed_rule(LLAMA.embedding),
    layer=tuple(map(renamed_rule, LLAMA.layer)),
    final_norm=renamed_rule(LLAMA.final_norm),
    output=renamed_rule(LLAMA.output),
    hf_layer="transformer.layers.{n}.",
)


def write_mine(folder: Path) -> Path:
    """A random model of the family `mymodel`: a Llama under other names, with a switch of its own."""
    llama = to_hf(write_internlm2(folder / "internlm2"), folder / "llama", engine_form=True)
    mine = folder / "mine"
    mine.mkdir()
    tensors = {renamed(name): tensor for name, tensor in load_file(llama / "model.safetensors").items()}
    save_file(dict(sorted(tensors.items())), mine / "model.safetensors", {"format": "pt"})
    config = json.loads((llama / "config.json").read_text())
    config |= {"model_type": "mymodel", "architectures": ["MyModelForCausalLM"], "use_alibi": False}
    (mine / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (mine / name).write_bytes((llama / name).read_bytes())
    return mine


def weights(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118  # not a mapping


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("form", Format)
def test_a_family_from_outside_goes_there_and_back(tmp_path: Path, form: Format) -> None:
    source = write_mine(tmp_path)
    with pytest.raises(
        UserError, match="model_type=mymodel is not supported: give a qwen3, internlm2, llama or qwen2 model"
    ):
        open_checkpoint(source)
    FAMILIES.register("mymodel", Family(table=MINE, architecture="MyModelForCausalLM", refused=("use_alibi",)))

    back = to_hf(to_nemo(source, tmp_path / "nemo", form), tmp_path / "back")
    assert "transformer.layers.1.attn.q_proj.weight" in weights(source)
    assert weights(back) == weights(source)
    for file in source.iterdir():
        if file.suffix == ".json":
            assert (back / file.name).read_bytes() == file.read_bytes()

    model = open_model("model.path", str(source))
    assert (model.shape.family, model.shape.engine_family) == ("mymodel", "mymodel")
    stored = sum(len(data) for data in weights(source).values()) // 4
    assert model.shape.parameters == stored
    llama = open_checkpoint(tmp_path / "llama")
    assert [one.what for one in compare(model.checkpoint, llama, lambda count: None)] == ["family"]


@pytest.mark.usefixtures("registry")
def test_a_family_may_run_as_another_one(tmp_path: Path) -> None:
    form = EngineForm("llama", dropped=("use_alibi",), added={})
    FAMILIES.register("mymodel", Family(table=MINE, architecture="MyModelForCausalLM", engine_form=form))
    source = write_mine(tmp_path)
    llama = to_hf(source, tmp_path / "as_llama", engine_form=True)
    assert weights(llama) == weights(tmp_path / "llama")
    config = json.loads((llama / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "use_alibi" not in config
    assert list(compare(open_checkpoint(source), open_checkpoint(llama), lambda count: None)) == []


@pytest.mark.usefixtures("registry")
def test_what_an_entry_refuses_and_accepts() -> None:
    config: dict[str, Any] = {
        "model_type": "mymodel", "vocab_size": 2, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 3, "max_position_embeddings": 8, "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
    }  # fmt: skip
    figures = {key: value for key, value in asdict(small_shape(vocab=7)).items() if key != "family"}
    entry = Family(
        table=MINE, architecture="A", refused=("use_alibi",), public={"Mine-1B": figures},
        rope_scaling=frozenset({RopeType.PLAIN, RopeType.DYNAMIC}),
    )  # fmt: skip
    FAMILIES.register("mymodel", entry)
    FAMILIES.register("strict", Family(table=MINE, architecture="A", states_head_dim=True))

    allowed = {"rope_scaling": {"type": "dynamic"}, "attention_bias": True}
    assert shape_from_config_json(PATH, config | allowed).head_dim == 2
    with pytest.raises(UserError, match=r"^config.json: use_alibi=True is not supported"):
        shape_from_config_json(PATH, config | {"use_alibi": True})
    with pytest.raises(UserError, match=r"^config.json: head_dim=None must be a positive integer"):
        shape_from_config_json(PATH, config | {"model_type": "strict"})
    with pytest.raises(UserError, match="type yarn is not supported: give a model with default or dynamic positions"):
        shape_from_config_json(PATH, config | {"rope_scaling": {"type": "yarn"}})
    scaled = config | {"model_type": "strict", "head_dim": 2, "rope_scaling": {"type": "dynamic"}}
    with pytest.raises(UserError, match="type dynamic is not supported"):
        shape_from_config_json(PATH, scaled)
    assert public_shape("models/Mine-1B-Base") == ("Mine-1B", small_shape(family="mymodel", vocab=7))


SCALINGS = (None, Llama3Scaling(8.0, 1.0, 4.0, 4), YarnScaling(2.0, 4, 32.0, 1.0, 1.25))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("family", "found"), [("qwen3", "qwen3"), ("llama", "llama"), ("internlm2", "llama"), ("qwen2", "qwen2")]
)
def test_nemo_figures_name_the_family_that_engines_know(family: str, found: str, scaling: RopeScaling | None) -> None:
    shape = small_shape(family=family, tied=False, rope_scaling=scaling)
    assert shape_from_nemo(PATH, architecture(shape), 2) == replace(shape, family=found)


def test_nemo_s_own_key_of_llama_3() -> None:
    """As NeMo's own converter writes it: figures that it leaves out are those of Llama 3.1."""
    config = architecture(small_shape(family="llama")) | {"scale_positional_embedding": True}
    assert shape_from_nemo(PATH, config, 2).rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("stated", SCALINGS)
@pytest.mark.parametrize("meant", SCALINGS)
def test_positions_of_both_configurations_must_agree(meant: RopeScaling | None, stated: RopeScaling | None) -> None:
    config = architecture(small_shape(rope_scaling=stated))
    if meant == stated:
        check_same_figures(PATH, config, small_shape(rope_scaling=meant))
        return
    with pytest.raises(UserError, match=r"positions are scaled by .* do not belong together"):
        check_same_figures(PATH, config, small_shape(rope_scaling=meant))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kv_channels": None, "num_attention_heads": 3, "num_query_groups": 3},
            "num_attention_heads=3 does not divide",
        ),
        ({"kv_channels": None, "hidden_size": 1}, "num_attention_heads=2 does not divide hidden_size=1"),
        ({"num_query_groups": 3}, "num_query_groups=3 does not divide num_attention_heads=2"),
        ({"rotary_base": 1}, "rotary_base=1 must be a number greater than 1"),
        ({"rotary_base": 2**64}, "rotary_base=a number of more than 64 bits must be"),
        ({"kv_channels": 10**400}, "kv_channels=a number of more than 64 bits must be"),
        ({"layernorm_epsilon": 10**400}, "layernorm_epsilon=a number of more than 64 bits must be"),
        ({"scale_positional_embedding": True, "scale_factor": 0}, "factor=0 must be a positive number"),
        ({"scale_positional_embedding": True, "scale_factor": "a"}, "factor=a must be a positive number"),
        ({"scale_positional_embedding": True, "low_freq_factor": 4.0}, "high_freq_factor=4.0 must be above"),
        ({"scale_positional_embedding": True, "old_context_len": 10**400}, "must be a positive integer"),
    ],
)
def test_figures_that_are_divided_by_or_overflow(change: dict[str, Any], message: str) -> None:
    config = architecture(small_shape(family="llama", hidden=4)) | change
    with pytest.raises(UserError, match=message):
        shape_from_nemo(PATH, with_nemo_defaults(PATH, config), 2)


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize("text", [f"{BOMB}activation: *a8\n", f"activation: 0x{'f' * 5000}\n"])
def test_a_value_that_cannot_be_shown(text: str) -> None:
    """Of a few bytes a hundred million names, or a number that Python does not print."""
    with pytest.raises(UserError, match=r"refers to an anchor|an integer of more than 64 bits"):
        read_yaml_mapping(text.encode(), "model_config.yaml")


def test_a_base_whose_logarithm_is_zero() -> None:
    config = config_of_shape(small_shape(), FLOAT32) | {"rope_theta": 1}
    with pytest.raises(UserError, match=r"rope_theta=1\.0 must be greater than 1"):
        shape_from_config_json(PATH, config)


@pytest.mark.parametrize("name", ["factor", "original_max_position_embeddings", "attention_factor", "beta_fast"])
def test_a_figure_of_positions_that_would_overflow(name: str) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4, name: 10**400}
    with pytest.raises(UserError, match=name):
        shape_from_config_json(PATH, config_of_shape(small_shape(), FLOAT32) | {"rope_scaling": scaling})


def test_nemo_figures_of_no_table() -> None:
    config = architecture(small_shape(family="qwen3")) | {"qkv_bias": True}
    with pytest.raises(UserError, match="no family has qk_layernorm=True and qkv_bias=True"):
        shape_from_nemo(PATH, config, 2)


# `total` of the safetensors on the hub
PARAMETERS = {
    "Qwen3-8B-Base": 8_190_735_360, "Qwen2.5-0.5B": 494_032_768, "Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688, "Qwen2.5-Math-7B": 7_615_616_512, "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352, "Qwen2.5-72B": 72_706_203_648, "Meta-Llama-3-8B": 8_030_261_248,
    "Llama-3.1-70B-Instruct": 70_553_706_496, "Llama-3.2-1B": 1_235_814_400, "Llama-3.2-3B": 3_212_749_824,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_public_models(name: str) -> None:
    found = public_shape(name)
    assert found is not None
    assert found[1].parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    folder = write_variant(tmp_path, name)
    stored = sum(len(data) for data in weights(folder).values()) // 4
    assert open_model("model.path", str(folder)).shape.parameters == stored


def test_positions_of_public_models() -> None:
    by_name = {name: found[1].rope_scaling for name in PARAMETERS if (found := public_shape(name))}
    assert by_name["Llama-3.2-1B"] == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    assert by_name["Meta-Llama-3-8B"] is by_name["Qwen2.5-0.5B"] is None


def test_nemo_figures_of_no_family() -> None:
    config = architecture(small_shape(family="llama")) | {"activation": "gelu"}
    with pytest.raises(
        UserError, match=r"^config\.json: activation=gelu is not supported: only activation=fast-swiglu"
    ):
        shape_from_nemo(PATH, config, 2)


@pytest.mark.parametrize("model_type", [None, "gpt2", ["qwen3"]])
def test_a_family_that_nobody_registered(model_type: Any) -> None:
    with pytest.raises(UserError, match="is not supported: give a qwen3, internlm2, llama or qwen2 model"):
        shape_from_config_json(PATH, {"model_type": model_type})


def test_rope_parameters_that_are_no_object() -> None:
    """Found by tests/models/test_fuzz.py."""
    with pytest.raises(UserError, match=r"rope_parameters=\[None\] must be an object"):
        shape_from_config_json(PATH, config_of_shape(small_shape(), FLOAT32) | {"rope_parameters": [None]})
