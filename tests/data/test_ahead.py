"""Reading ahead: what is read next is begun while the last is used."""

import numpy as np
import pytest

from ptd_core.data.ahead import read_ahead


def test_reading_ahead_is_one_ahead_and_in_order():
    begun = []

    def read(item):
        begun.append(item)
        if item == 3:
            raise OSError("the third")
        return 10 * item

    results = read_ahead(read, range(6))
    assert begun == []
    assert [next(results), next(results)] == [0, 10]
    assert next(results) == 20
    with pytest.raises(OSError, match="the third"):
        next(results)
    assert begun[:4] == [0, 1, 2, 3] and len(begun) <= 5
    begun.clear()
    stopped = read_ahead(read, iter(range(3)))
    next(stopped)
    stopped.close()
    assert begun in ([0], [0, 1]) and list(read_ahead(read, [])) == []
    assert np.array_equal(list(read_ahead(read, [5])), [50])
