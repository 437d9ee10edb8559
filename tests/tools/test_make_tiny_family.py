from __future__ import annotations

import importlib.util
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_nemo.config.schema import DataConfig, Extract, RewardsConfig
from s2l_nemo.data import arithmetic
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import check_same_tokenizer, open_model
from s2l_nemo.models.tokenizer import load_tokenizer, stop_token_ids
from s2l_nemo.rewards.asked import start_warnings
from s2l_nemo.toy_worlds import plain
from s2l_nemo.toy_worlds import publish as publish_to
from s2l_nemo.toy_worlds.models import build_model, build_tokenizer
from s2l_nemo.toy_worlds.plain import PlainRecipe
from s2l_nemo.toy_worlds.training import Stage, answer_logits, distillation_loss, text_batches


def load_tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "make_tiny_family.py"
    spec = importlib.util.spec_from_file_location("make_tiny_family", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
QUICK = PlainRecipe(
    learner_steps=3, explorer_steps=3, batch_size=8, warmup_steps=2, measured_prompts=4, measured_samples=2
)


def publish(recipe: PlainRecipe, output: Path, force: bool = False) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    facts = publish_to.publish(recipe, output, force, Console(file=text, width=200))
    return facts, text.getvalue()


def text_batch(recipe: PlainRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    stage = Stage(1, recipe.batch_size, recipe.lr, recipe.warmup_steps)
    (batch,) = text_batches(recipe.draw, stage, build_tokenizer(), "seed")
    return batch


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "tiny"
    publish(QUICK, output)
    return output


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(family: Path, tmp_path: Path) -> None:
    publish(QUICK, tmp_path / "again")
    publish(replace(QUICK, seed=2), tmp_path / "other")
    for name in ("learner", "explorer"):
        first, again, other = (
            (folder / name / "model.safetensors").read_bytes()
            for folder in (family, tmp_path / "again", tmp_path / "other")
        )
        assert first == again != other


def test_both_are_ordinary_checkpoints_of_one_family(family: Path) -> None:
    check_same_tokenizer(*(open_model("model.path", str(family / name)) for name in ("learner", "explorer")))
    sizes = {}
    for name in ("learner", "explorer"):
        config = AutoConfig.from_pretrained(family / name)
        tokenizer = load_tokenizer(family / name)
        assert config.architectures == ["Qwen3ForCausalLM"]
        assert config.head_dim != config.hidden_size // config.num_attention_heads
        assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
        assert config.num_hidden_layers % 2 == 0
        assert config.vocab_size == len(tokenizer)
        assert config.vocab_size % 8 == 0
        assert config.tie_word_embeddings
        assert stop_token_ids(family / name, tokenizer) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
        weights = load_file(family / name / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        sizes[name] = AutoModelForCausalLM.from_pretrained(family / name).num_parameters()
    assert 0.8e6 < sizes["learner"] < 1.0e6
    assert 0.2 < sizes["explorer"] / sizes["learner"] < 0.3


def test_digits_and_words_of_the_task_are_single_tokens_and_any_text_survives() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.tokenize(arithmetic.worked_answer((78, 45))) == [
        *"8+5=13",
        "Ċ",
        *"7+4+1=12",
        "Ċ",
        "\\boxed",
        *"{123}",
    ]
    assert tokenizer.tokenize("What is 12 + 34?") == ["What", "Ġis", "Ġ", "1", "2", "Ġ+", "Ġ", "3", "4", "?"]
    text = "Ünïcode 漢字\r\n\n\t x²  \\frac{1}{2}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_nobody_need_ask_the_family_for_a_box() -> None:
    tokenizer, data = build_tokenizer(), DataConfig()
    sets = [load_prompts(data, tokenizer, 64, "valid", 3)]
    assert sets[0].unasked[Extract.boxed] == 3
    assert start_warnings(data, RewardsConfig(), tokenizer, sets) == []


def test_prompts_follow_chatml(family: Path) -> None:
    tokenizer = load_tokenizer(family / "learner")
    data = DataConfig(system_prompt="You are helpful.")
    (prompt,) = load_prompts(data, tokenizer, 64, "valid", 1).prompts
    assert tokenizer.decode(prompt.token_ids) == (
        "<|im_start|>system\nYou are helpful.<|im_end|>\n"
        f"<|im_start|>user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_training_text_has_its_share_of_slips_and_marks_only_answers() -> None:
    tokenizer = build_tokenizer()
    recipe = replace(QUICK, batch_size=400, slip_share=0.25)
    tokens_BT, is_answer_BS = text_batch(recipe)
    slips = 0
    for tokens_T, is_answer_S in zip(tokens_BT, is_answer_BS, strict=True):
        question = tokenizer.decode(tokens_T[:-1][~is_answer_S], skip_special_tokens=True)
        terms = tuple(int(word) for word in question.replace("?", " ").split() if word.isdigit())
        text = tokenizer.decode(tokens_T[1:][is_answer_S])
        assert text.endswith("}<|im_end|>")
        slips += text != arithmetic.worked_answer(terms) + "<|im_end|>"
    assert 60 <= slips <= 140  # 100 expected, standard deviation 8.7


def test_distillation_loss_is_zero_for_the_teacher_itself_and_follows_it_otherwise() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    teacher, student = (build_model(QUICK.explorer, tokenizer) for _ in range(2))
    tokens_BT, is_answer_BS = text_batch(QUICK)
    loss = distillation_loss(teacher)
    assert loss(teacher, tokens_BT, is_answer_BS).item() == pytest.approx(0.0, abs=1e-6)
    teacher_NV, student_NV = (answer_logits(model, tokens_BT, is_answer_BS).softmax(-1) for model in (teacher, student))
    by_hand = (teacher_NV * (teacher_NV / student_NV).log()).sum(-1).mean()
    assert loss(student, tokens_BT, is_answer_BS).item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_a_family_that_is_there_is_kept_until_the_recipe_changes_or_force(tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    facts, _ = publish(QUICK, output)
    mark = output / "mark"
    mark.touch()
    kept, said = publish(QUICK, output)
    assert "up to date" in said
    assert kept == facts == json.loads((output / "family.json").read_text())
    assert mark.exists()
    publish(replace(QUICK, slip_share=0.1), output)
    assert not mark.exists()
    mark.touch()
    publish(replace(QUICK, slip_share=0.1), output, force=True)
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_facts_name_recipe_versions_and_both_measurements(family: Path) -> None:
    facts = json.loads((family / "family.json").read_text())
    assert facts["recipe"]["seed"] == 1
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["chance"] == pytest.approx(1 / 1799, abs=1e-6)  # 200..1998
    for name in ("learner", "explorer"):
        assert 0 <= facts[name]["pass@1"] <= facts[name]["pass@2"] <= 1


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is no family of this tool"):
        publish(QUICK, tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert tool.main(["--output", str(tmp_path)]) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"key": 1}', '{"key": "a", "learner": {}}', "[" * 9999])
def test_a_damaged_family_json_is_one_line_and_force_makes_it_again(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "family.json").write_text(content)
    assert tool.main(["--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "family.json") in line
    assert line.endswith("--force makes the family again")
    assert (tmp_path / "family.json").read_text() == content


def test_a_failure_leaves_the_old_family_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    publish(QUICK, output)
    before = (output / "learner" / "model.safetensors").read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plain, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(replace(QUICK, seed=2), output)
    assert (output / "learner" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
