"""YAML of others as plain data: what it may hold, and one parser that both checks and reads it.

libyaml parses, ten times as fast as Python, and never deeper than it is told to. Sources: YAML 1.1, with the floats of
YAML 1.2, as OmegaConf has them.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 20  # mappings and lists in each other
_LARGEST = 2**64  # integers: longer ones cannot be computed with, and some not even be shown
_MERGE, _TEXT = "tag:yaml.org,2002:merge", yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG
_FLOAT = re.compile(r"(?:[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")


class NotPlain(ValueError):
    """Why a text is not read, in one line. `line` counts from 1; None: it is not known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 reads `1e-5` as text. Merges (`<<`) can grow without bounds, and of two equal keys one would be lost."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Called by PyYAML for each mapping before its values are made."""
        known = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                raise NotPlain("<< merges a mapping into another: write it out", _line(key.start_mark))
            if key.tag == _TEXT and key.value in known:
                raise NotPlain(f"not valid YAML: found duplicate key {key.value}", _line(key.start_mark))
            known.add(key.value if key.tag == _TEXT else None)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if abs(value) >= _LARGEST:
            raise NotPlain("an integer of more than 64 bits", _line(node.start_mark))
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load_plain(content: bytes) -> dict[Any, Any] | None:
    """The mapping that a YAML text in UTF-8 holds; None if it holds nothing.

    Raises NotPlain for anything else: references, which can double a document with every line, merges, repeated keys,
    Python's objects, nesting deeper than MAX_DEPTH, integers of more than 64 bits, NUL characters.
    """
    try:
        text = content.decode("utf-8")
        _check_events(text)
        loaded: dict[Any, Any] | None = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
        return loaded
    except UnicodeDecodeError:
        raise NotPlain("not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or _first_line(error)
        raise NotPlain(f"not valid YAML: {reason}", _line(mark) if mark else None) from None
    except NotPlain:
        raise
    except Exception as error:  # PyYAML's constructors raise anything for a malformed int, float, bool, date, ...
        raise NotPlain(f"not valid YAML: {type(error).__name__}: {_first_line(error)}") from None


def _check_events(text: str) -> None:
    """Before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise NotPlain(f"*{event.anchor} refers to an anchor: write it out", _line(event.start_mark))
        if depth == 0 and isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.MappingStartEvent):
            raise NotPlain("must hold key: value pairs")
        if isinstance(event, yaml.ScalarEvent) and "\0" in event.value:
            raise NotPlain("a NUL character: take it out", _line(event.start_mark))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise NotPlain(f"nested more than {MAX_DEPTH} levels deep", _line(event.start_mark))


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
