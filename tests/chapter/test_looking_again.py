"""Verdicts from models that were looked at again: attention after each epoch, fewer tokens at evaluation."""

import dataclasses
import math
import statistics

import pytest

from ptd_core.chapter.looking_again import FEWER, Feedback, FewerTokens, NothingLost
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
    ("on_kept", "returned", "verdict"),
    [
        (0.1, 0.2, "holds in part"),
        (0.1, 0.0, "holds"),
        (0.001, 0.2, "refuted"),  # on average more, and its interval holds zero
        (0.001, 0.0, "holds in part"),
        (-0.1, 0.2, "refuted"),
        (-0.1, 0.0, "holds in part"),
    ],
)
def test_a_verdict_needs_concentration_and_no_return(tmp_path, on_kept, returned, verdict):
    feedback.write(attention_rows(on_kept, returned), tmp_path)
    found = Feedback(tmp_path).found()
    mean = statistics.mean(100 * (on_kept + 0.001 * seed) for seed in range(3))
    assert found.verdict == verdict and f"the last epoch: {mean:+.2f} points" in found.text and "n = 3" in found.text
    seen = {0.1: "more", 0.001: "no difference seen", -0.1: "less"}[on_kept]
    assert f"with all tokens, {seen}; of the tokens that" in found.text
    assert "attention on the 41 of 64 tokens that it would keep" in found.text
    same = f"{100 * returned:.1f}"
    assert f"while training drops as many, {same} % ({same} to {same}) would be kept an epoch later" in found.text
    assert "(without dropping 100.0 %, by chance 64 %)" in found.text
    assert Feedback(tmp_path, open=True).found() == ("measured", found.text)


@pytest.mark.parametrize(("more", "verdict"), [(0.0, "not supported"), (-0.1, "refuted"), (0.1, "holds in part")])
def test_a_token_that_returns_once_refutes_nothing_alone(tmp_path, more, verdict):
    rows = attention_rows(more, 0.0)
    once = [row for row in rows if (row.run, row.epoch, row.block) == ("evidence_ptd_seed1", 4, 0)]
    assert len(once) == 1
    rows[rows.index(once[0])] = dataclasses.replace(once[0], returned=0.04)
    feedback.write(rows, tmp_path)
    found = Feedback(tmp_path).found()
    mean, half = 2 / 3, 4.3027 * statistics.stdev([0, 2, 0]) / 3**0.5  # of 0, 2 and 0 %: two epochs drop
    assert f"{mean:.1f} % ({mean - half:.1f} to {mean + half:.1f})" in found.text
    assert found.verdict == verdict


def test_one_seed_decides_nothing(tmp_path):
    feedback.write(attention_rows(0.1, 0.2, seeds=1), tmp_path)
    assert Feedback(tmp_path).found().verdict == "not tested"


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
        f"half of the tokens, chosen by class attention: -3.10 points ({-3.1 - half:+.2f} to {-3.1 + half:+.2f}, n = 2)"
        " if trained with all; trained with PTD +2.00 points (+2.00 to +2.00, n = 2) against that"
    )
    table.write([*rows, evaluated("all_tokens", 0, 32, 39.0, score="random")], tmp_path)
    assert FewerTokens(tmp_path).found().text == (
        f"{text}; half of the tokens, chosen by chance: -1.00 points, one seed if trained with all; "
        "trained with PTD +1.50 points, one seed against that"
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
    """In words: in block 0, class attention did worse than chance in all six models, and no interval shows it."""
    rows = [row for row in table.read(FEWER) if (row.method, row.blocks, row.kept) == ("token_drop", "0", 16)]
    for arm in ("all_tokens", "ptd"):
        found = {(row.score, row.seed): row.accuracy for row in rows if row.run.startswith(f"evidence_{arm}_seed")}
        seeds = sorted({seed for _, seed in found})
        differences = [found["class_attention", seed] - found["random", seed] for seed in seeds]
        assert len(seeds) == 3 and max(differences) < 0 < t_interval(differences)[1], arm


def test_without_records_it_is_not_tested(tmp_path):
    assert {test(tmp_path).found().verdict for test in (Feedback, FewerTokens, NothingLost)} == {"not tested"}
