"""A store from rollouts that another program has sampled and written as JSONL texts.

The released code's form has a prompt with its responses and scores on a line. Its sampler's script writes one response
a line, with its token ids. Neither form has log-probs under the distribution that was sampled from, so the store has
none: only importance rules that do not read them may train on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2l_nemo.config.store import ImportConfig
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.data.rows import question_of
from s2l_nemo.data.sources import BadRow, read_records
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.console import console
from s2l_nemo.files import TEMPORARY, sync
from s2l_nemo.models.open import open_model, tokenizer_hash
from s2l_nemo.records.versions import versions
from s2l_nemo.store.facts import StoreFacts, hash_prompts, write_facts
from s2l_nemo.store.prompts import write_prompts
from s2l_nemo.store.sampling.run import check_and_index, sampling_params
from s2l_nemo.store.shards import FOLDER, Rollout, Shard, write_shard
from s2l_nemo.types import Prompt, SamplingParams

ENGINE = "imported"  # in the place of the kind of engine
SHARD_ROLLOUTS = 4096
_LARGEST = 3.4e38  # score that a store, which has float32, can hold


@dataclass
class Imported:
    """The responses of one prompt, in the order of the file."""

    responses: list[str | list[int]] = field(default_factory=list)  # texts or token ids
    scores: list[float] = field(default_factory=list)


def import_store(cfg: ImportConfig) -> None:
    """Makes the store `output` of the rollouts in `input`. It appears complete or not at all.

    Raises UserError, with file and line, for a line that is malformed or whose prompt is none of the data set's.
    """
    assert cfg.input is not None
    out, folder, source = console(), Path(cfg.output), Path(cfg.input)
    if folder.exists():
        raise UserError(f"output={folder} exists: an import makes a new store; give another folder")
    model = open_model("model", cfg.model)
    read = load_prompts(cfg.data, model.tokenizer, cfg.rollout.max_prompt_length, "train")
    found = read_rollouts(source, read.prompts)
    prompts = [prompt for prompt in read.prompts if prompt.prompt_id in found]
    params = sampling_params(cfg.rollout, model)
    facts = StoreFacts(
        model=cfg.model,
        weight_hash=None,
        precision=None,
        vocab_size=model.shape.vocab,
        tokenizer_hash=tokenizer_hash(model),
        sampling=params,
        prompts=len(prompts),
        prompts_hash=hash_prompts(prompts),
        seed=None,
        explorer=None,
        rewards={"imported": source.name},
        has_logprobs=False,
        versions=versions(),
    )
    count = publish(folder, facts, prompts, tokenise(found, model.tokenizer, params))
    left_out = len(read.prompts) - len(prompts)
    out.print(f"{folder}: {count:,} rollouts of {len(prompts):,} prompts, without log-probs", soft_wrap=True)
    check_and_index(folder, out)
    if left_out:
        out.print(
            f"{left_out:,} prompts of the data set have no rollouts in {source} and were left out", soft_wrap=True
        )


def publish(folder: Path, facts: StoreFacts, prompts: Sequence[Prompt], rollouts: Iterator[Rollout]) -> int:
    """Writes a whole store, which appears by a rename. Returns the number of its rollouts."""
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / FOLDER).mkdir(parents=True)
    count = write_shards(temporary, rollouts, facts)
    write_prompts(temporary, prompts)
    write_facts(temporary, facts)
    temporary.rename(folder)
    sync(folder.parent)
    return count


def read_rollouts(path: Path, prompts: Sequence[Prompt]) -> dict[int, Imported]:
    """Responses and scores by prompt id. Prompts are recognised by their text. Raises UserError, with file and line."""
    ids: dict[str, int] = {}
    for prompt in prompts:
        ids.setdefault(prompt.text.strip(), prompt.prompt_id)  # of equal questions, the first
    found: dict[int, Imported] = {}
    for line, record in read_records(str(path)):
        try:
            if isinstance(record, BadRow):
                raise ValueError(record.reason)
            text, responses, scores = _row(record)
            if text not in ids:
                raise ValueError(f"the prompt {text!r:.60} is none of the {len(ids)} of the data set; see data.path")
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        one = found.setdefault(ids[text], Imported())
        one.responses += responses
        one.scores += scores
    if not found:
        raise UserError(f"{path} holds no rollouts")
    return found


def _row(record: dict[str, Any]) -> tuple[str, list[str | list[int]], list[float]]:
    """Prompt, responses and scores of a line of either form."""
    if "responses" in record:
        responses, scores = record["responses"], record.get("scores")
    elif "response" in record:
        responses, scores = [record.get("response_ids") or record["response"]], [record.get("reward")]
    else:
        raise ValueError(f"neither 'responses' nor 'response', there are {sorted(record)}")
    if not isinstance(responses, list) or not responses or not all(map(_is_response, responses)):
        raise ValueError("'responses' must be a list of texts, one a sample")
    if not isinstance(scores, list) or len(scores) != len(responses) or not all(map(_is_score, scores)):
        raise ValueError(f"there must be one score, a number, for each of the {len(responses)} responses")
    text = question_of(record.get("prompt"), "prompt").strip()
    return text, responses, [float(score) for score in scores]


def _is_response(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_token_id, value)))


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST


def tokenise(found: dict[int, Imported], tokenizer: Any, params: SamplingParams) -> Iterator[Rollout]:
    """The rollouts, prompt ids ascending.

    A text says not how it ended. One that is shorter than the limit is taken to have ended by itself, and gets the
    tokenizer's stop token. A longer one is cut.
    """
    stop = params.stop_token_ids[0] if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)
    for prompt_id, one in sorted(found.items()):
        texts = [response for response in one.responses if isinstance(response, str)]
        encoded = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        for sample, (response, score) in enumerate(zip(one.responses, one.scores, strict=True)):
            ids = list(next(encoded)) if isinstance(response, str) else response
            if not ids or ids[-1] not in params.stop_token_ids:
                ids = [*ids, stop]
            ids = ids[: params.max_new_tokens]
            yield Rollout(
                prompt_id=prompt_id,
                sample=sample,
                token_ids=np.array(ids, np.int32),
                logprobs=None,
                finish_reason="stop" if ids[-1] in params.stop_token_ids else "length",
                reward=score,
                answer=None,
                grader_error=None,
                seed=None,
            )


def write_shards(folder: Path, rollouts: Iterator[Rollout], facts: StoreFacts) -> int:
    """Writes the rollouts in files of `SHARD_ROLLOUTS`. Returns their number. Raises UserError for a token id that the
    model does not have."""
    held: list[Rollout] = []
    files = count = 0

    def flush() -> None:
        nonlocal files
        write_shard(folder / FOLDER / f"import-{files:06}.parquet", Shard.of(held), facts, ENGINE)
        files += 1
        held.clear()

    for rollout in rollouts:
        if not 0 <= rollout.token_ids.min() <= rollout.token_ids.max() < facts.vocab_size:
            raise UserError(
                f"prompt {rollout.prompt_id} sample {rollout.sample} has token ids outside of the vocabulary of "
                f"{facts.vocab_size}: give the model that sampled"
            )
        held.append(rollout)
        count += 1
        if len(held) == SHARD_ROLLOUTS:
            flush()
    if held:
        flush()
    return count
