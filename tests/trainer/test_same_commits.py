from __future__ import annotations

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.trainer.same_commits import compare_commits


def test_ranks_must_have_taken_the_same_commits() -> None:
    compare_commits([{}, {}])
    compare_commits([{"models/a/b@main": "1", "datasets/a/b@main": "3"}, {"models/a/b@main": "1"}])
    with pytest.raises(UserError, match=r"^a/b@main moved while the ranks started: they have its commits 1 and 2;"):
        compare_commits([{"models/a/b@main": "2"}, {}, {"models/a/b@main": "1"}])
