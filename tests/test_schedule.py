"""d(t), k and the learning rate against exact arithmetic."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptd_core.schedule import DropSchedule, Stages, learning_rate

PUBLISHED = DropSchedule(init=0.0, final=0.35, start=40, end=140, gamma=2.0)


def exact_published(epoch: int) -> Fraction:
    """The published curriculum in rational numbers, written out by hand."""
    if epoch < 40:
        return Fraction(0)
    if epoch >= 140:
        return Fraction(35, 100)
    return Fraction(epoch - 40, 100) ** 2 * Fraction(35, 100)


@pytest.mark.parametrize("patch_tokens", [1, 2, 49, 64, 100, 144, 196, 255, 256, 257, 576, 784, 1000])
def test_published_schedule_is_exact_in_every_epoch(patch_tokens):
    for epoch in range(201):
        d = exact_published(epoch)
        assert PUBLISHED.ratio(epoch) == pytest.approx(float(d), abs=1e-15)
        expected = patch_tokens if d <= Fraction(1, 10**6) else max(1, (patch_tokens * (1 - d)).__floor__())
        assert PUBLISHED.kept(epoch, patch_tokens) == expected


def test_published_schedule_has_74_token_counts_from_256_to_166():
    counts = [PUBLISHED.kept(epoch, 256) for epoch in range(200)]
    assert (counts[0], counts[40], counts[41], counts[-1], len(set(counts))) == (256, 256, 255, 166, 74)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_kept_tokens_do_not_slip_below_the_exact_floor(tenths):
    """(1 - 0.9) * 100 is 9.999... in floating point."""
    for patch_tokens in (10, 100, 1000):
        assert DropSchedule.tokens_at_ratio(tenths / 10, patch_tokens) == (10 - tenths) * patch_tokens // 10


@given(st.integers(0, 999), st.integers(1, 2000))
def test_kept_tokens_match_rational_arithmetic(thousandths, patch_tokens):
    kept = DropSchedule(init=thousandths / 1000, final=0.5, start=10, end=20).kept(0, patch_tokens)
    assert kept == max(1, (1000 - thousandths) * patch_tokens // 1000)


def test_tiny_ratio_is_no_drop_and_huge_ratio_keeps_one():
    assert DropSchedule.tokens_at_ratio(1e-6, 256) == 256
    assert DropSchedule.tokens_at_ratio(2e-6, 256) == 255
    assert DropSchedule(init=0.9999).kept(0, 256) == 1


def test_options_of_the_schedule():
    assert DropSchedule(hold=False).ratio(140) == 0.0
    assert DropSchedule(hold=False).ratio(139) > 0.34
    assert DropSchedule(start=5, end=5, final=0.5).ratio(4) == 0.0
    assert DropSchedule(start=5, end=5, final=0.5).ratio(5) == 0.5
    assert DropSchedule(init=0.5, final=0.1, start=0, end=10, gamma=1.0).ratio(5) == pytest.approx(0.3, abs=1e-15)
    assert DropSchedule(start=0, end=10, final=1 / 2, gamma=1.5).ratio(4) == pytest.approx(0.5 * 0.4**1.5, rel=1e-12)


@pytest.mark.parametrize("shape", ["reversed", "flat", "cyclic", "steps"])
def test_a_shape_that_holds_nothing_is_not_told_to_let_go(shape):
    needed = {"cyclic": {"cycle": 4}, "steps": {"stages": Stages((0.5, 1.0), (1.0, 1.0))}}.get(shape, {})
    shaped(shape, **needed)
    with pytest.raises(ValueError, match=f"hold = False is of shape = 'polynomial' or 'cosine'; got '{shape}'"):
        shaped(shape, hold=False, **needed)


def shaped(shape, **settings):
    return DropSchedule(**{"final": 0.5, "start": 2, "end": 8, "epochs": 10, "shape": shape, **settings})


def ratios(schedule, epochs=10):
    return [schedule.ratio(epoch) for epoch in range(epochs)]


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.floats(0.1, 4), st.floats(0, 0.9))
def test_reversed_is_the_polynomial_backwards_in_time(epochs, one, other, gamma, init):
    numbers = {"init": init, "start": min(one, other), "end": max(one, other), "gamma": gamma, "epochs": epochs}
    forward, backward = (ratios(shaped(shape, **numbers), epochs) for shape in ("polynomial", "reversed"))
    assert backward == forward[::-1]


def test_cosine_rises_along_half_a_period():
    expected = [0, 0, *(0.25 * (1 - math.cos(math.pi * k / 6)) for k in range(6)), 0.5, 0.5]
    assert ratios(shaped("cosine")) == pytest.approx(expected, abs=1e-15)
    assert ratios(shaped("cosine", init=0.4, final=0.0)) == pytest.approx(
        [0.4, 0.4, *(0.2 * (1 + math.cos(math.pi * k / 6)) for k in range(6)), 0, 0], abs=1e-15
    )


def test_flat_starts_at_once_and_cycles_return():
    assert ratios(shaped("flat", init=0.1)) == [0.1, 0.1, *[0.5] * 8]
    assert ratios(shaped("cyclic", cycle=4)) == pytest.approx([0, 0, 0, 0.25, 0.5, 0.25, 0, 0.25, 0.5, 0.25], abs=1e-15)


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=5),
)
def test_a_stage_holds_where_the_middle_of_the_epoch_lies(epochs, pairs):
    values, shares = zip(*((Fraction(value, 100), share) for value, share in pairs))
    stages = Stages(tuple(map(float, values)), tuple(map(float, shares)))
    for epoch in range(epochs):
        middle, end, expected = Fraction(2 * epoch + 1, 2 * epochs) * sum(shares), 0, None
        for value, share in zip(values, shares):
            end += share
            if middle < end:
                expected = value
                break
        if all(middle != sum(shares[:count]) for count in range(1, len(shares))):  # else a rounding decides
            assert stages.at(epoch, epochs) == float(expected)


def test_stages_of_a_run():
    schedule = shaped("steps", stages=Stages((0.5, 0.75, 1.0), (45.0, 40.0, 15.0)), epochs=20)
    assert [schedule.kept(epoch, 64) for epoch in range(20)] == [32] * 9 + [48] * 8 + [64] * 3


def test_a_tail_has_all_tokens_whatever_the_shape():
    stages = Stages((0.5,), (1.0,))
    for shape, needs in (("polynomial", {}), ("reversed", {}), ("steps", {"stages": stages}), ("flat", {}),
                         ("cosine", {}), ("cyclic", {"cycle": 3})):  # fmt: skip
        with_tail, without = (ratios(shaped(shape, tail=tail, **needs)) for tail in (3, 0))
        assert with_tail == [*without[:7], 0, 0, 0]


@given(st.integers(1, 300), st.integers(1, 40), st.floats(0, 0.99))
def test_kept_tokens_in_multiples(patch_tokens, multiple, final):
    kept = DropSchedule(start=0, end=0, final=final, multiple=multiple).kept(0, patch_tokens)
    plain = DropSchedule(start=0, end=0, final=final).kept(0, patch_tokens)
    if plain == patch_tokens:
        assert kept == patch_tokens
    elif plain >= multiple:
        assert kept % multiple == 0 and plain - multiple < kept <= plain
    else:
        assert kept == min(multiple, patch_tokens)


def test_learning_rate_at_its_corners():
    def lr(step):
        return learning_rate(step, peak=4e-4, warmup_steps=50, total_steps=250)

    assert lr(0) == 4e-4 / 50
    assert lr(24) == pytest.approx(2e-4, rel=1e-12)
    assert lr(49) == lr(50) == 4e-4
    assert lr(150) == pytest.approx(2e-4, rel=1e-12)  # half way down the cosine
    assert 0 < lr(249) < 1e-7
    assert lr(250) == 0.0
    assert all(lr(s) > lr(s + 1) for s in range(50, 250))


def test_learning_rate_without_warmup_and_with_nothing_else():
    assert learning_rate(0, peak=1.0, warmup_steps=0, total_steps=10) == 1.0
    assert learning_rate(9, peak=1.0, warmup_steps=50, total_steps=10) == 0.2
    steps = [learning_rate(s, peak=1.0, warmup_steps=0, total_steps=8) for s in range(8)]
    assert steps == pytest.approx([(1 + math.cos(math.pi * s / 8)) / 2 for s in range(8)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final": 35.0}, "final is a share of the patch tokens, from 0 to below 1; got 35.0"),
        ({"init": -0.1}, "init is a share"),
        ({"final": math.nan}, "final is a share"),
        ({"start": 50, "end": 10}, "0 <= start <= end; got 50 and 10"),
        ({"start": -1, "shape": "flat"}, "0 <= start <= end; got -1 and 140"),
        ({"gamma": 0.0}, "gamma must be above 0"),
        ({"shape": "linear"}, "shape must be one of polynomial, cosine, reversed, steps, flat, cyclic; got 'linear'"),
        ({"shape": "reversed"}, "epochs, the run's, must be known for shape = 'reversed'"),
        ({"tail": 2}, "epochs, the run's, must be known for .* tail = 2"),
        ({"shape": "steps", "epochs": 5}, "stages belong to shape = 'steps'; got None"),
        ({"stages": Stages((0.5,), (1.0,))}, "stages belong to shape = 'steps'"),
        ({"shape": "steps", "epochs": 5, "stages": Stages((0.0,), (1.0,))}, "kept shares, above 0 up to 1"),
        ({"shape": "cyclic"}, "cycle, at least 2 epochs"),
        ({"shape": "cyclic", "cycle": 1}, "cycle, at least 2 epochs"),
        ({"cycle": 4}, "belongs to shape = 'cyclic'"),
        ({"epochs": 5, "tail": -1}, "tail must be at least 0"),
        ({"multiple": 0}, "multiple at least 1"),
    ],
)
def test_impossible_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DropSchedule(**settings)


def test_a_shape_without_an_end_may_start_after_it():
    schedule = DropSchedule(shape="flat", start=150, final=0.5)
    assert [schedule.kept(epoch, 64) for epoch in (149, 150)] == [64, 32]


@pytest.mark.parametrize(("values", "shares"), [((), ()), ((1.0,), (1.0, 2.0)), ((1.0, 0.5), (1.0, 0.0))])
def test_stages_need_a_share_for_each_value(values, shares):
    with pytest.raises(ValueError, match="one share above 0 is needed for each value"):
        Stages(values, shares)
