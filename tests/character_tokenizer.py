"""A tokenizer of single characters with a chat template."""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + '>' + m['content'] + '|' }}{% endfor %}"
    "{% if add_generation_prompt %}a>{% endif %}"
)


def character_tokenizer(
    chat_template: str | None = TEMPLATE, alphabet: str = string.printable
) -> PreTrainedTokenizerFast:
    """One token a character; EOS `|`."""
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="|", unk_token="?", pad_token="~")
    tokenizer.chat_template = chat_template
    return tokenizer
