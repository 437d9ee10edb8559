"""YAML of a stranger: plain data as YAML 1.2 reads it, or one line that says why not."""

from __future__ import annotations

import re
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.plain_yaml import NotPlain, load_plain

MAX_BYTES = 4 * 2**20  # a model_config.yaml has some ten thousand
_LONGEST = 1000  # characters of a value that is shown or resolved
_REFERENCE = re.compile(r"\$\{\s*\.?(?:model\.)?(\w+(?:\.\w+)*)\s*\}")
_DEEPEST = 20  # references that follow each other


def read_yaml_mapping(content: bytes, shown: str) -> dict[str, Any]:
    """The mapping that a YAML file holds, with references to its own keys (`${.encoder_seq_length}`) replaced.

    A reference that leads nowhere stays the text that it is. `shown` names the file. Raises UserError where it is
    anything else.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"{shown} has {len(content):,} bytes, which no configuration has: give the checkpoint's own")
    try:
        loaded = load_plain(content)
    except NotPlain as error:
        raise UserError(f"{shown}{f':{error.line}' if error.line else ''}: {error}") from None
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UserError(f"{shown} is not a mapping of names: give the file as it was written")
    return {key: _resolved(value, loaded) for key, value in loaded.items()}


def _resolved(value: Any, config: dict[str, Any]) -> Any:
    """What a value that is one reference refers to. Lists and mappings, which hold no figures, stay as they are."""
    for _ in range(_DEEPEST):
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) and len(value) <= _LONGEST else None
        if match is None:
            return value
        found: Any = config
        for name in match[1].split("."):
            found = found.get(name, ...) if isinstance(found, dict) else ...
        if found is ...:
            return value
        value = found
    return value
