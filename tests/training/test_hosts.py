"""The exchange between processes, if there is only one."""

import pytest

from training import hosts


def test_a_single_process_exchanges_values_with_itself():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.gather("word") == ["word"]
    with pytest.raises(KeyError):
        hosts.call_on_all(lambda: {}["missing"])
