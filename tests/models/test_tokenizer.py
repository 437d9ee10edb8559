"""Tokenizers of models: they load without remote code, and two models share tokens or are refused."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model, check_same_tokenizer, tokenizer_hash
from s2l_nemo.models.tokenizer import load_tokenizer, stop_token_ids
from tests.character_tokenizer import character_tokenizer
from tests.models.shapes import small_shape

MakeCheckpoint = Callable[..., Path]


def model(folder: Path, *, vocab: int = 128) -> Model:
    return Model("model.path", str(folder), {}, small_shape(vocab=vocab), folder)


def test_a_saved_tokenizer_loads_and_encodes_the_same(checkpoint: MakeCheckpoint) -> None:
    tokenizer = character_tokenizer()
    loaded = load_tokenizer(checkpoint("learner"))
    assert loaded.is_fast
    characters = string.printable
    assert loaded.encode("1+2=3") == tokenizer.encode("1+2=3") == [characters.index(c) for c in "1+2=3"]
    assert loaded.chat_template == tokenizer.chat_template


def test_folders_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint folder at .*absent"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match="is no Hugging Face checkpoint"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the tokenizer of") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


EXECUTE = "from pathlib import Path\nPath(__file__).with_name('EXECUTED').touch()\n"
AUTO_MAP = '"auto_map": {"AutoTokenizer": ["remote.Remote", "remote.Remote"], "AutoConfig": "remote.Config"}'

REMOTE = '{"tokenizer_class": "InternLM2Tokenizer", ' + AUTO_MAP + "}"


@pytest.mark.parametrize(
    ("tokenizer_config", "config"),
    [
        ('{"tokenizer_class": "RemoteTokenizer", "eos_token": "|", %s}', '{"model_type": "remote"}'),
        ('{"tokenizer_class": "RemoteTokenizer", "eos_token": "|"}', '{"model_type": "remote", %s}'),
        ('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "|", %s}', '{"model_type": "qwen3", %s}'),
        ('{"eos_token": "|", %s}', '{"model_type": "remote", %s}'),
        ('{"eos_token": "|"}', '{"model_type": "remote", %s}'),
    ],
)
def test_r12_code_in_the_folder_never_runs(checkpoint: MakeCheckpoint, tokenizer_config: str, config: str) -> None:
    folder = checkpoint("learner", config=config.replace("%s", AUTO_MAP))
    (folder / "tokenizer_config.json").write_text(tokenizer_config.replace("%s", AUTO_MAP))
    (folder / "remote.py").write_text(EXECUTE)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("1+2=3") == [string.printable.index(c) for c in "1+2=3"]
    assert stop_token_ids(folder, tokenizer) == (string.printable.index("|"),)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"remote code|cannot load the tokenizer") as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "EXECUTED").exists()


def test_the_code_would_run_if_it_were_trusted(checkpoint: MakeCheckpoint) -> None:
    """The trap of the test above works."""
    folder = checkpoint("learner", config='{"model_type": "remote", ' + AUTO_MAP + "}")
    (folder / "remote.py").write_text(EXECUTE.replace("__file__", repr(str(folder / "remote.py"))))
    with pytest.raises(Exception, match="Config"):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (folder / "EXECUTED").exists()


def test_a_remote_tokenizer_without_its_json_names_the_fix(checkpoint: MakeCheckpoint) -> None:
    folder = checkpoint("learner")
    (folder / "tokenizer_config.json").write_text(REMOTE)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"would need remote code, which is never run: add its tokenizer\.json"):
        load_tokenizer(folder)


def test_a_remote_tokenizer_loads_without_a_word(
    checkpoint: MakeCheckpoint, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint("learner")
    (folder / "tokenizer_config.json").write_text(REMOTE)
    load_tokenizer(folder)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_stop_ids_are_the_union_of_tokenizer_and_generation_config(checkpoint: MakeCheckpoint) -> None:
    for name, text, extra in [("a", "[7, 3]", {7, 3}), ("b", "5", {5}), ("c", "null", set())]:
        folder = checkpoint(name, generation_config=f'{{"eos_token_id": {text}}}')
        tokenizer = load_tokenizer(folder)
        expected = tuple(sorted(extra | {tokenizer.convert_tokens_to_ids("|")}))
        assert stop_token_ids(folder, tokenizer) == expected


def test_without_any_end_of_sequence_token_there_is_an_error(checkpoint: MakeCheckpoint) -> None:
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="names no end-of-sequence token"):
        stop_token_ids(checkpoint("a", tokenizer), tokenizer)


def test_messages_name_the_model_and_not_where_it_was_unpacked(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^cannot load the tokenizer of a\.nemo: "):
        load_tokenizer(tmp_path, "a.nemo")


def test_a_tokenizer_file_that_is_no_json_is_named(checkpoint: MakeCheckpoint) -> None:
    folder = checkpoint("learner", generation_config="{")
    with pytest.raises(UserError, match=r"learner/generation_config\.json is not JSON: fetch the model again"):
        stop_token_ids(folder, load_tokenizer(folder))


def test_equal_tokenizers_pass(checkpoint: MakeCheckpoint) -> None:
    folders = [checkpoint(name, generation_config='{"eos_token_id": 3}') for name in ("learner", "explorer")]
    check_same_tokenizer(*map(model, folders))
    learner, explorer = folders
    check_same_tokenizer(model(learner, vocab=256), model(explorer, vocab=128))  # rows that belong to no token


@pytest.mark.parametrize(
    ("difference", "vocab", "make"),
    [
        (
            "vocabulary: '0' is 0 against 1",
            128,
            lambda write: write("b", character_tokenizer(alphabet=string.printable.replace("01", "10"))),
        ),
        ("EOS ids: (91,) against (3, 91)", 128, lambda write: write("b", generation_config='{"eos_token_id": 3}')),
        ("vocab_size: 128 against 256", 256, lambda write: write("b")),
    ],
)
def test_each_difference_is_named_with_both_folders(
    checkpoint: MakeCheckpoint, difference: str, vocab: int, make: Callable[[MakeCheckpoint], Path]
) -> None:
    learner, explorer = checkpoint("learner"), make(checkpoint)
    with pytest.raises(UserError) as error:
        check_same_tokenizer(model(learner), model(explorer, vocab=vocab))
    assert all(part in str(error.value) for part in (difference, str(learner), str(explorer)))


def test_models_of_equal_hash_share_tokens(checkpoint: MakeCheckpoint) -> None:
    learner = model(checkpoint("learner"))
    assert tokenizer_hash(learner) == tokenizer_hash(model(checkpoint("explorer")))
    others = [
        model(checkpoint("alphabet", character_tokenizer(alphabet=string.printable.replace("01", "10")))),
        model(checkpoint("eos", generation_config='{"eos_token_id": 3}')),
        model(checkpoint("vocab"), vocab=256),
    ]
    assert len({tokenizer_hash(one) for one in [learner, *others]}) == 4


def test_another_special_token_is_a_difference(checkpoint: MakeCheckpoint) -> None:
    other = character_tokenizer()
    other.eos_token = "!"
    with pytest.raises(UserError, match=r"special tokens: 'eos_token' is '\|' against '!'"):
        check_same_tokenizer(model(checkpoint("learner")), model(checkpoint("explorer", other)))
