"""How figures look."""

from matplotlib.colors import to_hex

from ptd_core.views.style import look


def test_the_first_hundred_lines_of_a_picture_look_all_different():
    looks = [look(number) for number in range(100)]
    assert len({(to_hex(colour), marker) for colour, marker in looks}) == 100
    for begin in range(0, 100, 10):  # neighbours differ in both
        assert len({to_hex(colour) for colour, _ in looks[begin : begin + 10]}) == 10
        assert len({marker for _, marker in looks[begin : begin + 10]}) == 10
