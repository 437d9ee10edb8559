"""JSON of records: what is read, and what is refused before anything computes with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.files import parse_json, read_json_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_what_json_writes_is_read(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    assert parse_json(file) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 18446744073709551616}', "an integer of more than 64 bits"),
        (b'{"a": -1' + b"0" * 400 + b"}", "an integer of more than 64 bits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "4300 digits"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b"{", "line 1 column 2"),
        (b"[1]", "is no JSON object: make it anew"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_json_object(file, "make it anew")
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
