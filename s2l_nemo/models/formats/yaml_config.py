"""YAML of a stranger: plain data as YAML 1.2 reads it, or one line that says why not."""

from __future__ import annotations

import re
from typing import Any

import yaml

from s2l_nemo.errors import UserError

MAX_BYTES = 4 * 2**20  # a model_config.yaml has some ten thousand
_LONGEST = 1000  # characters of a value that is shown or resolved
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_REFERENCE = re.compile(r"\$\{\s*\.?(?:model\.)?(\w+(?:\.\w+)*)\s*\}")
_DEEPEST = 20  # references that follow each other


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text, and `yes` as true. Merges (`<<`) can grow without bounds and are not needed."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys are not supported", key.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def read_yaml_mapping(content: bytes, shown: str) -> dict[str, Any]:
    """The mapping that a YAML file holds, with references to its own keys (`${.encoder_seq_length}`) replaced.

    A reference that leads nowhere stays the text that it is. `shown` names the file. Raises UserError where it is
    anything else.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"{shown} has {len(content):,} bytes, which no configuration has: give the checkpoint's own")
    try:
        loaded = yaml.load(content, _Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{shown} is not YAML ({_one_line(error)})") from None
    except Exception as error:  # PyYAML's constructors raise anything for a malformed int, float, date, ...
        raise UserError(f"{shown} is not YAML ({type(error).__name__}: {_one_line(error)})") from None
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


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
