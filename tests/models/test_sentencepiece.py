"""A tokenizer.model gives the ids of SentencePiece itself, without its code, or it is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from s2l_nemo.errors import UserError
from s2l_nemo.models.open import open_model
from s2l_nemo.models.sentencepiece import PieceType, read_model, tokenizer_json
from s2l_nemo.models.tokenizer import load_tokenizer
from tests.distributed.conversion import to_hf
from tests.distributed.models import name_remote_code, write_internlm2

PATH = Path("tokenizer.model")
WORDS = [
    "the",
    "number",
    "of",
    "apples",
    "is",
    "twenty",
    "three",
    "and",
    "what",
    "remains",
    "eleven",
    "so",
    "answer",
    "box",
]
TEXT = [f"{a} {b} {c}, {len(a) * 37} + {len(b)}: {c}{a}" for a in WORDS for b in WORDS for c in WORDS[:5]]
UNUSED = ["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
CHAT = {"<|im_start|>": UNUSED[0], "<|im_end|>": UNUSED[1]}  # chat token: the piece whose id it has


def train_sentencepiece(**options: Any) -> bytes:
    """As InternLM2's, with a vocabulary of 304 pieces."""
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 304, "byte_fallback": True, "character_coverage": 0.99,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "user_defined_symbols": UNUSED,
        "minloglevel": 2, "num_threads": 1,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=model, **(settings | options))
    return model.getvalue()


@pytest.fixture(scope="module", params=[True, False], ids=["leading space", "no leading space"])
def model(request: pytest.FixtureRequest) -> bytes:
    return train_sentencepiece(add_dummy_prefix=request.param)


def processor(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def config_of(model: bytes) -> dict[str, Any]:
    """tokenizer_config.json as InternLM2.5 has it: chat tokens in the place of unused pieces."""
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2} | {
        chat: processor(model).piece_to_id(piece) for chat, piece in CHAT.items()
    }
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}, "add_bos_token": True,
        "added_tokens_decoder": {str(index): {"content": text, **flags} for text, index in ids.items()},
    }  # fmt: skip


def fast(model: bytes) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json(PATH, model, config_of(model)))


def test_pieces_are_those_of_sentencepiece(model: bytes) -> None:
    ours, theirs = read_model(PATH, model).pieces, processor(model)
    assert len(ours) == theirs.get_piece_size() == 304
    assert [piece.text for piece in ours] == [theirs.id_to_piece(index) for index in range(304)]
    assert [piece.score for piece in ours] == pytest.approx([theirs.get_score(index) for index in range(304)])
    assert [piece.kind is PieceType.BYTE for piece in ours] == [theirs.is_byte(index) for index in range(304)]


texts = st.lists(st.sampled_from([*WORDS, " ", "  ", "17", "+", "\n", "é", "数", "🍎", "_"]) | st.text(max_size=4)).map(
    "".join
)


@given(texts)
def test_ids_are_those_of_sentencepiece(model: bytes, text: str) -> None:
    assume(not any(token in text for token in ("<s>", "</s>", "<unk>")))  # in text they are the tokens
    tokenizer, theirs = fast_of(model), processor_of(model)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == theirs.encode(text)
    assert tokenizer.decode(ids) == theirs.decode(ids)


MADE: dict[tuple[str, bytes], Any] = {}


def fast_of(model: bytes) -> Tokenizer:
    if ("fast", model) not in MADE:
        MADE["fast", model] = fast(model)
    return MADE["fast", model]


def processor_of(model: bytes) -> Any:
    if ("theirs", model) not in MADE:
        MADE["theirs", model] = processor(model)
    return MADE["theirs", model]


def test_chat_tokens_have_the_ids_of_unused_pieces(model: bytes) -> None:
    tokenizer, theirs = fast_of(model), processor_of(model)
    start, end = (theirs.piece_to_id(piece) for piece in UNUSED)
    ids = tokenizer.encode("<|im_start|>user\nwhat is 7<|im_end|>\n").ids
    assert ids == [1, start, *theirs.encode("user\nwhat is 7"), end, *theirs.encode("\n")]  # 1: <s> comes first
    assert max(ids) < 304
    assert tokenizer.get_vocab_size() == 304


def test_no_token_comes_first_if_the_configuration_says_so(model: bytes) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json(PATH, model, config_of(model) | {"add_bos_token": False}))
    assert tokenizer.encode("the answer").ids == processor_of(model).encode("the answer")


@pytest.mark.parametrize("bos", ["<absent>", {"content": "<absent>"}, {"content": 3}, 3, "\ud800"])
def test_a_first_token_that_is_no_piece(model: bytes, bos: Any) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.model has no token .*, with which texts would begin"):
        tokenizer_json(PATH, model, config_of(model) | {"bos_token": bos})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"model_type": "unigram"}, "is not a BPE model"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text"),
        ({"remove_extra_whitespaces": True}, "drops spaces"),
        ({"treat_whitespace_as_suffix": True}, "takes a space as the end of a word"),
    ],
)
def test_models_that_would_get_other_ids(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=rf"^tokenizer\.model {fault}: add its tokenizer\.json"):
        read_model(PATH, train_sentencepiece(**options))


@given(st.binary(max_size=60))
def test_what_is_no_model_is_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.model (is not|has no|takes|normalises|drops)") as refused:
        read_model(PATH, content)
    assert "\n" not in str(refused.value)


def test_a_model_that_was_cut_short(model: bytes) -> None:
    for size in (1, 100, len(model) - 1):
        with pytest.raises(UserError):
            read_model(PATH, model[:size])


def test_an_added_token_beyond_the_pieces(model: bytes) -> None:
    config = config_of(model)
    token = config["added_tokens_decoder"]["0"] | {"content": "<|new|>"}
    config["added_tokens_decoder"]["304"] = token
    assert Tokenizer.from_str(tokenizer_json(PATH, model, config)).token_to_id("<|new|>") == 304
    config["added_tokens_decoder"]["400"] = token | {"content": "<|far|>"}
    with pytest.raises(UserError, match=r"gives '<\|far\|>' the id 400, which does not follow the 304 pieces"):
        tokenizer_json(PATH, model, config)


def give_tokenizer_model(folder: Path, model: bytes) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps(config_of(model) | {"chat_template": TEMPLATE}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    name_remote_code(folder)


@pytest.fixture
def internlm2(tmp_path: Path, model: bytes) -> Path:
    """As on the hub: a tokenizer.model, and code that must not run."""
    folder = write_internlm2(tmp_path / "internlm2")
    give_tokenizer_model(folder, model)
    return folder


Write = Callable[[Path], Path]


def as_llama(folder: Path) -> Path:
    return to_hf(folder, folder.parent / "llama", engine_form=True)


@pytest.mark.parametrize("form", [lambda folder: folder, as_llama], ids=["as on the hub", "as llama"])
def test_c02_a_folder_with_a_tokenizer_model_only(internlm2: Path, model: bytes, form: Write) -> None:
    folder = form(internlm2)
    opened = open_model("model.path", str(folder))
    text = "<|im_start|>the number is 17<|im_end|>"
    start, end = (processor_of(model).piece_to_id(piece) for piece in UNUSED)
    assert opened.tokenizer.encode(text) == [1, start, *processor_of(model).encode("the number is 17"), end]
    assert opened.tokenizer.chat_template == TEMPLATE
    assert (opened.tokenizer.eos_token_id, opened.stop_token_ids) == (2, (2, 257, 258))
    assert not list(internlm2.parent.rglob("EXECUTED"))


@pytest.mark.parametrize("name", ["OtherTokenizer", ["InternLM2Tokenizer"], 7])
def test_another_class_of_remote_code_is_refused(internlm2: Path, name: Any) -> None:
    config = json.loads((internlm2 / "tokenizer_config.json").read_text())
    (internlm2 / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    with pytest.raises(UserError, match=r"would need remote code, which is never run: add its tokenizer\.json"):
        load_tokenizer(internlm2)
