"""Verdicts from models that were looked at again: attention after each epoch, fewer tokens at evaluation."""

import dataclasses
import math
import re
import statistics

import pytest

from ptd_core.chapter.looking_again import FEWER, Concentration, Feedback, FewerTokens, NoReturn, NothingLost
from ptd_core.evaluation import feedback, table
from ptd_core.records.statistics import t_interval


def attention_rows(on_kept, returned, seeds=3, epochs=4):
    """Rows of two arms: `on_kept` of PTD's last epoch above that of all tokens, which have 0.7; PTD keeps 41 from
    epoch 3 on and 50 in the one before, and until then everything comes back."""
    rows = []
    for arm, more in (("all_tokens", 0.0), ("ptd", on_kept)):
        for seed in range(seeds):
            for epoch in range(epochs + 1):
                dropping = arm == "ptd" and epoch >= 3
                trained_with = 41 if dropping else 50 if arm == "ptd" and epoch == 2 else 64
                rows.append(feedback.Row(
                    run=f"evidence_{arm}_seed{seed}", cell=f"evidence_{arm}_seed0", seed=seed, epoch=epoch,
                    trained_with=trained_with, block=0, kept=41, tokens=64, images=10, entropy=0.9,
                    on_kept=0.7 + (more + 0.001 * seed if epoch == epochs and arm == "ptd" else 0.0),
                    changed=math.nan if epoch == 0 else 0.1, until_end=0.1,
                    returned=math.nan if epoch == 0 else returned if dropping else 1.0, torch="2", commit="abc",
                ))  # fmt: skip
    late = [dataclasses.replace(row, block=3, on_kept=0.0, returned=1.0) for row in rows]
    return rows + late


@pytest.mark.parametrize(
    ("on_kept", "late", "verdict", "seen"),
    [
        (0.1, 0.0, "holds", "more"),
        (0.1, -0.1, "holds", "more"),
        (0.001, 0.0, "not supported", "no difference seen"),  # on average more, and its interval holds zero
        (0.001, 0.1, "holds in part", "no difference seen"),
        (0.001, -0.1, "not supported", "no difference seen"),
        (-0.1, 0.0, "refuted", "less"),
        (-0.1, 0.1, "refuted", "less"),
    ],
)
def test_attention_concentrates_where_more_of_it_is_on_the_kept(tmp_path, on_kept, late, verdict, seen):
    """Student's interval of 0, 0.1 and 0.2 points more than `on_kept` is 0.25 wide to each side."""
    rows = attention_rows(on_kept, 0.2)
    ptd_ends = [row for row in rows if (row.block, row.epoch) == (3, 4) and "ptd" in row.run]
    assert len(ptd_ends) == 3
    rows = [dataclasses.replace(row, on_kept=late + 0.001 * row.seed) if row in ptd_ends else row for row in rows]
    feedback.write(rows, tmp_path)
    found = Concentration(tmp_path).found()
    first, last = (statistics.mean(100 * (more + 0.001 * seed) for seed in range(3)) for more in (on_kept, late))
    half = 4.3027 * 0.1 / 3**0.5
    assert found.verdict == verdict
    assert found.text == (
        "attention on the 41 of 64 tokens that it would keep, after the last epoch, models trained with PTD, which "
        "drops in block 0, against those trained with all tokens: "
        f"in block 0 {first:+.2f} points ({first - half:+.2f} to {first + half:+.2f}, n = 3), {seen}; "
        f"in block 3 {last:+.2f} points ({last - half:+.2f} to {last + half:+.2f}, n = 3), "
        f"{ {0.1: 'more', -0.1: 'less', 0.0: 'no difference seen'}[late] }"
    )


@pytest.mark.parametrize(("returned", "verdict"), [(0.2, "refuted"), (0.0, "holds")])
def test_a_dropped_token_returns_or_never_does(tmp_path, returned, verdict):
    feedback.write(attention_rows(0.1, returned), tmp_path)
    same = f"{100 * returned:.1f}"
    assert NoReturn(tmp_path).found() == (
        verdict,
        f"of the 23 tokens that attention in block 0 leaves out after an epoch, {same} % ({same} to {same}, n = 3) are "
        "kept after the next, while training with PTD drops as many; 100.0 % in models trained with all tokens, "
        "64 % by chance",
    )
    asked = Feedback(tmp_path).found()
    assert asked.verdict == "measured"
    assert asked.text == f"{Concentration(tmp_path).found().text}; {NoReturn(tmp_path).found().text}"


def test_a_token_that_returns_once_refutes_nothing_alone(tmp_path):
    rows = attention_rows(0.0, 0.0)
    once = [row for row in rows if (row.run, row.epoch, row.block) == ("evidence_ptd_seed1", 4, 0)]
    assert len(once) == 1
    rows[rows.index(once[0])] = dataclasses.replace(once[0], returned=0.04)
    feedback.write(rows, tmp_path)
    found = NoReturn(tmp_path).found()
    mean, half = 2 / 3, 4.3027 * statistics.stdev([0, 2, 0]) / 3**0.5  # of 0, 2 and 0 %: two epochs drop
    assert f"{mean:.1f} % ({mean - half:.1f} to {mean + half:.1f}, n = 3)" in found.text
    assert found.verdict == "not supported"


def test_one_seed_decides_nothing(tmp_path):
    feedback.write(attention_rows(0.1, 0.2, seeds=1), tmp_path)
    assert {test(tmp_path).found().verdict for test in (Concentration, NoReturn, Feedback)} == {"not tested"}


def test_what_the_chapter_says_of_attention_is_recorded():
    """In words: no difference in block 0, and a little more in block 3, the last."""
    found = Concentration().found()
    assert found.verdict == "holds in part"
    assert re.fullmatch(r".*: in block 0 .*, no difference seen; in block 3 \+[01]\..*, more", found.text)


def evaluated(arm, seed, kept, accuracy, score="class_attention", method="token_drop"):
    return table.Row(
        run=f"evidence_{arm}_seed{seed}", cell=f"evidence_{arm}_seed0", seed=seed, method=method, score=score,
        choice="top", fate="discard", attended="all", blocks="0", kept=kept, images=10, accuracy=accuracy, loss=1.0,
        object_kept=math.nan, images_per_second=math.nan, faster=math.nan, predicted=64 / kept, precision="fp32",
        device="D", torch="2", commit="abc",
    )  # fmt: skip


def test_half_of_the_tokens_is_compared_with_all_seed_by_seed(tmp_path):
    rows = [
        evaluated(arm, seed, kept, 40.0 + seed - (64 - kept) / 32 * (cost + 0.2 * seed))
        for arm, cost in (("all_tokens", 3.0), ("ptd", 1.0))
        for seed in (0, 1)
        for kept in (64, 32, 16)
    ]
    rows += [evaluated("ptd", 0, 32, 40.5, score="random"), evaluated("ptd", 0, 32, 0.0, score="", method="tome")]
    rows += [dataclasses.replace(row, blocks="2", accuracy=1.0) for row in rows if row.kept == 32]
    table.write(rows, tmp_path)
    verdict, text = FewerTokens(tmp_path).found()
    half = 12.7062 * statistics.stdev([-3.0, -3.2]) / 2**0.5
    assert verdict == "measured" and text == (
        "half of the tokens, chosen by class attention, change accuracy by -3.10 points "
        f"({-3.1 - half:+.2f} to {-3.1 + half:+.2f}, n = 2) if a model was trained with all; if it was trained with "
        "PTD, that change is higher by +2.00 points (+2.00 to +2.00, n = 2)"
    )
    table.write([*rows, evaluated("all_tokens", 0, 32, 39.0, score="random")], tmp_path)
    assert FewerTokens(tmp_path).found().text == (
        f"{text}; half of the tokens, chosen by chance, change accuracy by -1.00 points, one seed if a model was "
        "trained with all; if it was trained with PTD, that change is higher by +1.50 points, one seed"
    )
    for kept in ([32, 16], [64, 16]):  # nothing to compare
        table.write([row for row in rows if row.kept in kept], tmp_path)
        assert FewerTokens(tmp_path).found() == ("not tested", "half of the tokens was not evaluated")


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [(0.27, "holds"), (0.28, "not supported"), (0.32, "not supported"), (0.33, "refuted"), (-1.0, "holds")],
)
def test_nothing_is_lost_where_the_interval_lies_above_the_limit(tmp_path, lost, verdict):
    rows = [evaluated("all_tokens", seed, 64, 40.0 + seed) for seed in (0, 1, 2)]
    scatter = (0.0, 0.01, -0.01)
    half = 4.3027 * 0.01 / 3**0.5  # 0.025
    rows += [evaluated("all_tokens", seed, 32, 40.0 + seed - lost + s) for seed, s in enumerate(scatter)]
    assert ("holds" if lost + half < 0.3 else "refuted" if lost - half > 0.3 else "not supported") == verdict
    table.write(rows, tmp_path)
    found = NothingLost(tmp_path, also="with half {half:.2f} %").found()
    said = f"by class attention: {-lost:+.2f} points ({-lost - half:+.2f} to {-lost + half:+.2f}, n = 3); with half 8"
    assert found.verdict == verdict and said in found.text
    table.write([*rows, evaluated("all_tokens", 1, 32, 40.5, score="random")], tmp_path)
    text = NothingLost(tmp_path).found().text
    assert text.endswith("; by chance: -0.50 points, one seed")
    later = dataclasses.replace(evaluated("all_tokens", 2, 16, 41.75, score="random"), blocks="2")
    table.write([*rows, later, dataclasses.replace(later, kept=32, accuracy=0.0)], tmp_path)
    text = NothingLost(tmp_path).found().text
    assert "; by" not in text and text.endswith("; a quarter of them in block 2, by chance: -0.25 points, one seed")


def test_what_the_chapter_says_of_a_quarter_of_the_tokens_is_recorded():
    """In words: in block 0, class attention did worse than chance in all three seeds of both trainings, in one by two
    of 10,000 images, and no interval shows it."""
    least = []
    rows = [row for row in table.read(FEWER) if (row.method, row.blocks, row.kept) == ("token_drop", "0", 16)]
    for arm in ("all_tokens", "ptd"):
        found = {(row.score, row.seed): row.accuracy for row in rows if row.run.startswith(f"evidence_{arm}_seed")}
        seeds = sorted({seed for _, seed in found})
        differences = [found["class_attention", seed] - found["random", seed] for seed in seeds]
        assert len(seeds) == 3 and max(differences) < 0 < t_interval(differences)[1], arm
        least.append(max(differences))
    assert {row.images for row in rows} == {10_000} and max(least) == pytest.approx(-0.02)


def test_without_records_it_is_not_tested(tmp_path):
    assert {
        test(tmp_path).found().verdict for test in (Concentration, NoReturn, Feedback, FewerTokens, NothingLost)
    } == {"not tested"}
