"""`run.save_before`: which texts it takes, and which moment they mean."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.time_limit import TIME_LIMIT, limit_after

NOW = datetime(2026, 2, 28, 22, 15, 30)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("23:00", datetime(2026, 2, 28, 23, 0)),
        ("22:16", datetime(2026, 2, 28, 22, 16)),
        ("22:15", datetime(2026, 3, 1, 22, 15)),  # half a minute ago
        ("9:05", datetime(2026, 3, 1, 9, 5)),
        ("00:00", datetime(2026, 3, 1)),
        ("+3h50m", datetime(2026, 3, 1, 2, 5, 30)),
        ("+90s", datetime(2026, 2, 28, 22, 17)),
        ("+100m", datetime(2026, 2, 28, 23, 55, 30)),
        ("+36h", datetime(2026, 3, 2, 10, 15, 30)),
    ],
)
def test_by_hand(text: str, limit: datetime) -> None:
    assert TIME_LIMIT.holds(text)
    assert limit_after(text, NOW) == limit


@pytest.mark.parametrize(
    "text", ["", "24:00", "12:60", "12", "12:3", "750", "3h50m", "+", "+h", "+50", "-1h", "+50m3h", "12:30:00", "+1h "]
)
def test_other_texts_are_refused(text: str) -> None:
    assert not TIME_LIMIT.holds(text)


@given(hour=st.integers(0, 23), minute=st.integers(0, 59), seconds=st.integers(0, 86399))
def test_a_time_of_day_is_the_next_one(hour: int, minute: int, seconds: int) -> None:
    now = datetime(2026, 12, 31) + timedelta(seconds=seconds)
    limit = limit_after(f"{hour:02}:{minute:02}", now)
    assert (limit.hour, limit.minute, limit.second) == (hour, minute, 0)
    assert timedelta(0) < limit - now <= timedelta(days=1)
