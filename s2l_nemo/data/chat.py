r"""The texts that a model gets: question and instruction, in the chat template with a system message, or bare."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s2l_nemo.config.schema import DataConfig, Extract, PromptFormat
from s2l_nemo.data.rows import Row
from s2l_nemo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How prompts ask for an answer in each place; and a piece of it in small letters, by which most prompts are settled.
_ASKS = {
    Extract.boxed: (
        "box",
        re.compile(r"\\(?:boxed|fbox)(?![a-z])|\b(?:boxed|(?:in|inside|into|within) a box)\b", re.IGNORECASE),
    ),
    Extract.answer_line: ("answer", re.compile(r"\banswer\s*[:：]", re.IGNORECASE)),  # noqa: RUF001
    Extract.hashes: ("####", re.compile("####")),
    Extract.tag: ("<answer>", re.compile("<answer>", re.IGNORECASE)),
}


def uses_template(data: DataConfig, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether prompts go through a chat template: `data.format=chat`, and the tokenizer has one."""
    return data.format is PromptFormat.chat and tokenizer.chat_template is not None


def render(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, data: DataConfig) -> list[str]:
    """What the model gets of each row.

    Behind the question stands `data.instruction`, unless the question ends with that text. With a chat template, a
    system message comes first: the row's own, or else `data.system_prompt`; and the template has the variables of
    `data.chat_template_kwargs`.

    Raises UserError if there is no template for a system message or for variables, or if the template refuses them.
    """
    questions = [_with_instruction(row.question, data.instruction) for row in rows]
    systems = [row.system or data.system_prompt for row in rows]
    variables = template_variables(data.chat_template_kwargs)
    if not uses_template(data, tokenizer):
        _refuse_what_needs_a_template(rows, data, variables)
        return questions
    chats = [
        [*([] if system is None else [_turn("system", system)]), _turn("user", question)]
        for system, question in zip(systems, questions, strict=True)
    ]
    texts = apply_template(tokenizer, chats, variables)
    _refuse_a_lost_system_message(tokenizer, chats, texts, variables)
    return texts


def _refuse_a_lost_system_message(
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[list[dict[str, str]]],
    texts: Sequence[str],
    variables: Mapping[str, Any],
) -> None:
    """Raises UserError if the template makes the same text of a chat with a system message and of one without it."""
    found = next((index for index, chat in enumerate(chats) if len(chat) > 1 and chat[0]["content"].strip()), None)
    if found is None:
        return
    try:
        (without,) = apply_template(tokenizer, [chats[found][1:]], variables)
    except UserError:  # it needs one
        return
    if texts[found] == without:
        raise UserError(
            "the tokenizer's chat template leaves out the system message (data.system_prompt, data.system_key): set "
            "both to null and put its text into data.instruction, or give the tokenizer another template"
        )


def apply_template(
    tokenizer: PreTrainedTokenizerFast, chats: list[list[dict[str, str]]], variables: Mapping[str, Any]
) -> list[str]:
    """The chats as text, up to where the answer begins. Raises UserError if the template refuses them."""
    if not chats:
        return []
    try:
        texts: list[str] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False, **variables)
    except Exception as error:  # a template is a program of its author's, and fails in any way
        raise UserError(
            f"the tokenizer's chat template refuses the prompts: {error}; see data.system_prompt and "
            "data.chat_template_kwargs, or set data.format=base"
        ) from error
    if not all(text.strip() for text in texts):
        raise UserError(
            "the tokenizer's chat template makes an empty text of a prompt: give the tokenizer another template, or "
            "set data.format=base"
        )
    return texts


def template_variables(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The given ones: a null takes a variable back."""
    return {name: value for name, value in kwargs.items() if value is not None}


def unread_variables(tokenizer: PreTrainedTokenizerFast, data: DataConfig) -> list[str]:
    """Names in `data.chat_template_kwargs` that the chat template does not read."""
    template = str(tokenizer.chat_template)
    return [name for name in template_variables(data.chat_template_kwargs) if not re.search(rf"\b{name}\b", template)]


def count_unasked(texts: Iterable[str]) -> dict[Extract, int]:
    """How many prompts, as the model gets them, do not ask for an answer in each place; `anywhere`: in none of them."""
    unasked = dict.fromkeys([*_ASKS, Extract.anywhere], 0)
    for text in texts:
        lower = text.lower()
        asked = {place for place, (piece, pattern) in _ASKS.items() if piece in lower and pattern.search(text)}
        for place in _ASKS.keys() - asked:
            unasked[place] += 1
        unasked[Extract.anywhere] += not asked
    return unasked


def _with_instruction(question: str, instruction: str | None) -> str:
    if instruction is None or question.endswith(instruction):
        return question
    return f"{question}\n\n{instruction}"


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _refuse_what_needs_a_template(rows: Sequence[Row], data: DataConfig, variables: Mapping[str, Any]) -> None:
    what = "data.format=chat" if data.format is PromptFormat.base else "a tokenizer with a chat template"
    if data.system_prompt is not None:
        raise UserError(f"data.system_prompt needs {what}: set it to null")
    if variables:
        raise UserError(f"data.chat_template_kwargs.{next(iter(variables))} needs {what}: set it to null")
    if own := next((row for row in rows if row.system is not None), None):
        raise UserError(f"line {own.line} of the prompts has a system message, which needs {what}: remove it")
