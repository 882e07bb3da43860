"""A run of one process."""

import pytest

from training import hosts


def test_one_process_says_everything_to_itself():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.gather("word") == ["word"]
    with pytest.raises(KeyError):
        hosts.call_on_all(lambda: {}["missing"])
