"""What is the same for all rollouts of a store: `store.json`, and how two sets of facts differ."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.files import parse_json, write_json_atomic
from s2l_nemo.types import Prompt, SamplingParams

FORMAT = 1  # must change if the columns of a shard change, or what they mean
NAME = "store.json"
NOT_IDENTITY = ("model", "versions")  # where things were; everything else decides what the rollouts are
_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "weight_hash": (str, type(None)),
    "precision": (str, type(None)),
    "vocab_size": (int,),
    "tokenizer_hash": (str,),
    "sampling": (dict,),
    "prompts": (int,),
    "prompts_hash": (str,),
    "seed": (int, type(None)),
    "explorer": (int, type(None)),
    "rewards": (dict,),
    "has_logprobs": (bool,),
    "versions": (dict,),
}
_SAMPLING_TYPES: dict[str, tuple[type, ...]] = {
    "max_response_length": (int,),
    "stop_token_ids": (list,),
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "presence_penalty": (int, float),
}


@dataclass(frozen=True)
class StoreFacts:
    """The facts of a store. Imported rollouts have no weight hash, precision, seed and explorer number."""

    model: str  # path of the explorer when it sampled
    weight_hash: str | None  # RolloutEngine.weight_hash
    precision: str | None
    vocab_size: int  # token ids are smaller
    tokenizer_hash: str  # models.open.tokenizer_hash
    sampling: SamplingParams  # its max_new_tokens is max_response_length
    prompts: int
    prompts_hash: str
    seed: int | None  # run_seed of `explorer_seed`
    explorer: int | None  # explorer of `explorer_seed`
    rewards: Mapping[str, str | None]  # how the stored rewards were made
    has_logprobs: bool  # False: the sampler's log-probs are unknown
    versions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object of store.json."""
        return {"format": FORMAT, **asdict(self), "sampling": sampling_json(self.sampling)}

    def hash(self) -> str:
        """SHA-256 of the identity, as lowercase hex: the same for a store that was extended or moved."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What two jobs must agree in to write into one store, one level deep, by dotted name."""
        flat: dict[str, Any] = {}
        for name, value in self.to_json().items():
            if name in NOT_IDENTITY:
                continue
            flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        return flat


def sampling_json(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters under the names of the configuration."""
    values = {**asdict(params), "stop_token_ids": list(params.stop_token_ids)}
    return {"max_response_length": values.pop("max_new_tokens"), **values}


def write_facts(folder: Path, facts: StoreFacts) -> None:
    """Writes store.json, whole or not at all."""
    write_json_atomic(folder / NAME, facts.to_json())


def read_facts(folder: Path) -> StoreFacts:
    """The facts in `folder`. Raises UserError if it is no store, or one of another format."""
    path = folder / NAME
    try:
        content = parse_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no store of rollouts: it has no {NAME}; recipes/sample_explorer.py makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): restore it, or sample anew") from None
    return facts_of_json(content, path)


def facts_of_json(content: Any, path: Path) -> StoreFacts:
    """The facts of a JSON object from `path`. Raises UserError if it is anything else."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: format {found!r}, this version reads format {FORMAT}: sample the store anew")
    values = {name: value for name, value in content.items() if name != "format"}
    _check_types(values, _TYPES, str(path))
    sampling = dict(values["sampling"])
    _check_types(sampling, _SAMPLING_TYPES, f"{path}: sampling")
    stops = sampling.pop("stop_token_ids")
    if not all(_is(stop, (int,)) for stop in stops):
        raise UserError(f"{path}: sampling.stop_token_ids are no integers: restore the file, or sample anew")
    params = SamplingParams(sampling.pop("max_response_length"), tuple(stops), **sampling)
    return StoreFacts(**values | {"sampling": params})


def _check_types(values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], where: str) -> None:
    wrong = sorted(values.keys() ^ types.keys()) or [
        name for name, allowed in types.items() if not _is(values[name], allowed)
    ]
    if wrong:
        raise UserError(f"{where}: {', '.join(wrong)} missing, unknown or of a wrong type: restore it, or sample anew")


def _is(value: Any, allowed: tuple[type, ...]) -> bool:
    return isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed)


def first_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first name whose values differ, or that only one of them has. None if all are equal."""
    names = [*expected, *(name for name in found if name not in expected)]
    return next((name for name in names if expected.get(name, ...) != found.get(name, ...)), None)


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first difference with both values: "sampling.top_p is 0.9 against 1.0". None if all are equal."""
    name = first_difference(expected, found)
    return name and f"{name} is {expected.get(name, 'absent')} against {found.get(name, 'absent')}"


class PromptsDigest:
    """SHA-256 over ids, texts, answers and token ids of prompts that are added in the order of their ids."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, prompt: Prompt) -> None:
        """Adds one prompt."""
        text, answer = prompt.text.encode(), prompt.answer.encode()
        tokens = struct.pack(f"<{len(prompt.token_ids)}q", *prompt.token_ids)
        self._digest.update(struct.pack("<4q", prompt.prompt_id, len(text), len(answer), len(prompt.token_ids)))
        self._digest.update(text + answer + tokens)

    def value(self) -> str:
        """As lowercase hex."""
        return self._digest.hexdigest()


def hash_prompts(prompts: Iterable[Prompt]) -> str:
    """The digest of prompts in any order."""
    digest = PromptsDigest()
    for prompt in sorted(prompts, key=lambda prompt: prompt.prompt_id):
        digest.add(prompt)
    return digest.value()


assert [field.name for field in fields(StoreFacts)] == list(_TYPES)
