"""The fingerprints of what a run is made from: models, data, tokenizer, template and reward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from s2l_nemo.config.asking import Asking
from s2l_nemo.config.mix import training_sources
from s2l_nemo.config.schema import Config, Part
from s2l_nemo.config.validation import validation_sets
from s2l_nemo.data.chat import uses_template
from s2l_nemo.data.prompts import PromptSet
from s2l_nemo.models.open import Model, tokenizer_fingerprint
from s2l_nemo.records.identity import ROWS, TOKENS, Fingerprint, Identity
from s2l_nemo.trainer.validation_sets import SetPrompts
from s2l_nemo.types import Prompt

_SHORT = 12  # hex digits of a held-out prompt's fingerprint: each has its own


def identity_of(
    cfg: Config,
    learner: Model,
    train: PromptSet,
    valid: PromptSet,
    sets: Sequence[SetPrompts],
    reward_source: str | None,
) -> Identity:
    """Everything of a run whose change would go unnoticed by its configuration, but the explorers (`identity`).

    `reward_source` is that of `WorkerPool.source`.
    """
    model = f"model.path={cfg.model.path}"
    template = str(learner.tokenizer.chat_template) if uses_template(cfg.data, learner.tokenizer) else "none"
    identity = {
        Part.learner.name: Fingerprint(model, learner.fingerprint()),
        Part.tokenizer.name: Fingerprint(f"that of {model}", tokenizer_fingerprint(learner)),
        Part.template.name: Fingerprint(f"that of {model}", {"text": _sha256([template])}),
        Part.training_data.name: Fingerprint(_training_source(cfg), training_facts(train)),
    }
    if valid.prompts:
        file = cfg.data.valid_path
        held_out = f"data.task={cfg.data.task.name}" if file is None else f"data.valid_path={file}"
        facts = held_out_facts(valid.prompts) | rows_asked(valid, cfg.validation.prompts)
        identity[Part.validation_data.name] = Fingerprint(held_out, facts)
    options = {one.name: one.options for one in validation_sets(cfg)}
    for one in sets:
        file = f"{one.benchmark} of validation.data={cfg.validation.data}"
        facts = problem_facts(one.prompts, options[one.name])
        identity[f"{Part.validation_data.name}/{one.name}"] = Fingerprint(file, facts)
    if cfg.rewards.fn is not None and reward_source is not None:
        identity[Part.reward.name] = Fingerprint(f"rewards.fn={cfg.rewards.fn}", {"source": reward_source})
    return identity


def training_facts(train: PromptSet) -> dict[str, str]:
    """Of all training prompts together: how many there are, their texts and answers, and their tokens."""
    return {
        ROWS: str(len(train.prompts) + train.filtered),
        "texts": _sha256(_text(prompt) for prompt in train.prompts),
        TOKENS: _sha256(_tokens(prompt) for prompt in train.prompts),
    }


def held_out_facts(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Of each prompt by its id, so that a run may ask more of them, or fewer, than before."""
    facts = {}
    for prompt in prompts:
        facts[f"prompt {prompt.prompt_id}"] = _sha256([_text(prompt)])[:_SHORT]
        facts[f"prompt {prompt.prompt_id}/{TOKENS}"] = _sha256([_tokens(prompt)])[:_SHORT]
    return facts


def problem_facts(problems: Sequence[Prompt], asking: Asking) -> dict[str, str]:
    """Of each problem of a benchmark by its number, without tokens: they depend on the set's mode, which may change."""
    facts = {f"problem {one.prompt_id}": _sha256([_text(one)])[:_SHORT] for one in problems}
    if asking.limit is None:
        facts[ROWS if asking.proofs else f"{ROWS} without proofs"] = str(len(problems))
    return facts


def rows_asked(valid: PromptSet, asked: int) -> dict[str, str]:
    """How many rows the source has; with a `+` if it may have more than were asked for."""
    rows = len(valid.prompts) + valid.filtered
    return {ROWS: f"{rows}+" if rows >= asked else str(rows)}


def _training_source(cfg: Config) -> str:
    sources = training_sources(cfg.data)
    if not sources:
        return f"data.task={cfg.data.task.name}"
    return f"data.mix={','.join(cfg.data.mix)}" if cfg.data.mix else f"data.path={cfg.data.path}"


def _text(prompt: Prompt) -> str:
    return json.dumps([prompt.prompt_id, prompt.text, prompt.answer])


def _tokens(prompt: Prompt) -> str:
    return " ".join(map(str, prompt.token_ids))


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
