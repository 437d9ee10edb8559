"""`run.save_before`: a time of day, or how long a run may take."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from s2l_nemo.fields import Range

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DURATION = re.compile(r"\+(?=\d)(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")


def _holds(text: str) -> bool:
    return _TIME.fullmatch(text) is not None or _DURATION.fullmatch(text) is not None


TIME_LIMIT = Range(_holds, "a time of day as '14:30' (in quotes in a YAML file), or a duration as +3h50m")


def limit_after(text: str, now: datetime) -> datetime:
    """When the limit is that a run begun at `now` has. A time of day that has passed means tomorrow's."""
    if (time := _TIME.fullmatch(text)) is not None:
        limit = now.replace(hour=int(time[1]), minute=int(time[2]), second=0, microsecond=0)
        return limit if limit > now else limit + timedelta(days=1)
    duration = _DURATION.fullmatch(text)
    assert duration is not None, text  # TIME_LIMIT holds
    hours, minutes, seconds = (int(part or 0) for part in duration.groups())
    return now + timedelta(hours=hours, minutes=minutes, seconds=seconds)
