"""Verdicts and answers from records that were made up."""

import dataclasses
import math
import statistics

import pytest
from made_up import made_up, operations

from ptd_core.chapter import evidence, judging, timing
from ptd_core.chapter.answers import QUESTIONS, RECORDS, answer, asked, questions
from ptd_core.chapter.judging import Difference, Faster, Interaction, Measured
from ptd_core.errors import OutputError, SweepError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.records.finished_runs import write_runs
from ptd_core.records.statistics import t_interval
from ptd_core.views.times import Times


@pytest.fixture
def records(monkeypatch):
    """Answers to be given in place of the published ones."""
    found = {}
    monkeypatch.setattr(judging, "answered", lambda question: found.get(question) or answer(question, RECORDS / "none"))
    return found


PLAIN = [40.0, 41.0, 39.0, 40.5, 40.2]


@pytest.mark.parametrize(
    ("differences", "claimed", "verdict"),
    [
        ([0.9, 1.1, 1.0, 1.2, 0.8], +1, "holds"),
        ([0.9, 1.1, 1.0, 1.2, 0.8], -1, "refuted"),
        ([-0.9, -1.1, -1.0, -1.2, -0.8], -1, "holds"),
        ([-0.9, -1.1, -1.0, -1.2, -0.8], +1, "refuted"),
        ([0.9, -1.1, 1.0, -1.2, 0.8], +1, "not supported"),
        ([0.9], +1, "not tested"),
    ],
)
def test_a_verdict_follows_from_the_interval(records, differences, claimed, verdict):
    arm = [plain + difference for plain, difference in zip(PLAIN, differences)]
    records["own_effect"] = made_up("own_effect", {"plain": PLAIN, "ptd_only": arm})
    found = Difference("own_effect", "ptd_only", "plain", claimed).found()
    assert found.verdict == verdict
    mean = sum(differences) / len(differences)
    assert f"{mean:+.2f} points" in found.text
    assert f"n = {len(differences)}" in found.text or "one seed" in found.text


def test_the_gap_is_that_of_clean_training_images_and_test_images(records):
    records["own_effect"] = made_up("own_effect", {"plain": PLAIN, "ptd_only": [value - 2 for value in PLAIN]})
    found = Difference("own_effect", "ptd_only", "plain", +1, result="gap").found()
    assert found == ("holds", "ptd_only against plain, gap: +2.00 points (+2.00 to +2.00, n = 5)")


def test_the_size_that_the_original_says_stands_beside_the_one_found(records):
    arm = [value - 1 + place / 4 for place, value in enumerate(PLAIN)]
    records["own_effect"] = made_up("own_effect", {"plain": PLAIN, "ptd_only": arm})
    found = Difference("own_effect", "ptd_only", "plain", -1, size=-2.76).found()
    assert found.text.endswith("; the original's, at its size: -2.76")
    records["own_effect"] = made_up("own_effect", {"plain": PLAIN[:1], "ptd_only": PLAIN[:1]})
    assert "original" not in Difference("own_effect", "ptd_only", "plain", -1, size=-2.76).found().text


def test_an_interaction_needs_all_four_cells(records):
    four = {"plain": PLAIN, "ptd_only": [v - 1 for v in PLAIN], "mix": PLAIN, "ptd_mix": [v + 0.5 for v in PLAIN]}
    test = Interaction("own_effect", "plain", "ptd_only", "mix", "ptd_mix", +1)
    records["own_effect"] = made_up("own_effect", four)
    assert test.found() == ("holds", "interaction: +1.50 points (+1.50 to +1.50, n = 5)")
    records["own_effect"] = made_up("own_effect", {**four, "mix": PLAIN[:4]})
    assert test.found().verdict == "not tested"


@pytest.mark.parametrize(("seconds", "verdict"), [(8.0, "holds"), (12.5, "refuted")])
def test_time_is_compared_seed_by_seed_with_what_operations_predict(records, seconds, verdict):
    arms = {"timed_all_tokens": PLAIN[:3], "timed_ptd": PLAIN[:3]}
    one = records["speed"] = made_up("speed", arms, {"timed_all_tokens": 10.0, "timed_ptd": seconds})
    found = Faster("speed", "timed_ptd", "timed_all_tokens").found()
    whole, dropped = operations(one.recipes["timed_all_tokens"]), operations(one.recipes["timed_ptd"])
    assert found.verdict == verdict
    assert found.text.startswith(f"{10 / seconds:.3f}x (") and found.text.endswith(f"predict {whole / dropped:.3f}x")
    (shown,) = [row for row in timing.times(one) if row.control == "timed_all_tokens"]
    assert shown == Times("timed_ptd", "timed_all_tokens", (10 / seconds,) * 3, whole / dropped)
    figure = evidence.times(one)
    figure.draw_without_rendering()  # which lays it out
    axes, inside = figure.axes[0], figure.bbox.get_points()
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        (left, _), (right, _) = text.get_window_extent().get_points()
        assert inside[0][0] <= left and right <= inside[1][0], text.get_text()
    points = {line.get_marker(): [float(x) for x in line.get_xdata()] for line in axes.lines}
    assert points["o"] == [10 / seconds] * 3 and points["D"] == [whole / dropped]
    assert f"| 3 | {10 / seconds:.3f}x |" in evidence.times_table(one).data
    elsewhere = [dataclasses.replace(run, device="E") if run.seed == 2 else run for run in one.runs]
    records["speed"] = dataclasses.replace(one, runs=elsewhere)  # each pair on one device, and still two devices
    assert Faster("speed", "timed_ptd", "timed_all_tokens").found().verdict == "not tested"
    assert evidence.times_table(records["speed"]).data == "*Too little is recorded of speed yet to show this.*"


def test_faster_needs_more_than_the_scatter_of_its_seeds(records):
    arms = {"timed_all_tokens": PLAIN[:3], "timed_ptd": PLAIN[:3]}
    one = made_up("speed", arms, {"timed_all_tokens": 10.0})

    def found(*seconds):
        of_seed = {f"evidence_timed_ptd_seed{seed}": value for seed, value in enumerate(seconds)}
        runs = [dataclasses.replace(run, train_seconds=of_seed.get(run.run, 10.0)) for run in one.runs]
        records["speed"] = dataclasses.replace(one, runs=runs)
        return Faster("speed", "timed_ptd", "timed_all_tokens").found()

    assert found(9.99, 9.0, 8.0).verdict == "not supported"  # all of them faster
    ratios = [10 / 9.1, 10 / 9.0, 10 / 9.05]
    verdict, text = found(9.1, 9.0, 9.05)
    low, high = t_interval([math.log(ratio) for ratio in ratios])
    assert verdict == "holds" and f"({math.exp(low):.3f} to {math.exp(high):.3f}, n = 3)" in text
    assert text.startswith(f"{math.prod(ratios) ** (1 / 3):.3f}x")


def test_an_open_question_may_name_its_differences(records):
    arms = {"scratch": PLAIN[:3], "all_then_all": PLAIN[:3], "ptd_then_all": [v + 1 for v in PLAIN[:3]]}
    records["transfer"] = made_up("transfer", arms)
    pairs = (("ptd_then_all", "all_then_all"), ("ptd_then_ptd", "scratch"))
    assert Measured("transfer", pairs).found() == (
        "measured", "ptd_then_all against all_then_all +1.00 points (+1.00 to +1.00, n = 3)"
    )  # fmt: skip
    assert Measured("transfer", pairs[1:]).found().verdict == "not tested"


def test_an_open_question_counts_what_can_be_told_from_chance(records):
    arms = {"all_tokens": PLAIN[:2], "ptd": [v + 1.0 for v in PLAIN[:2]], "block_1": [PLAIN[0] + 3, PLAIN[1] - 2.5]}
    records["place"] = made_up("place", {**arms, "block_2": PLAIN[:1]})  # one seed has no interval
    verdict, text = Measured("place").found()
    # ptd and block_1 against all tokens, block_1 against ptd: only the first is the same for both seeds
    assert (
        verdict == "measured"
        and text.startswith("so far, 7 of 12 runs: in place 1 of 3 intervals excludes zero")
        and "ptd against all_tokens +1.00" in text
    )


def test_what_has_no_records_says_which_file_asks(records):
    for test in (Difference("place", "ptd", "all_tokens", 1), Measured("place"), Faster("place", "ptd", "all_tokens")):
        verdict, text = test.found()
        assert verdict == "not tested" and "parameters/sweeps/evidence/place.yaml" in text
        assert (PROJECT_ROOT / "parameters/sweeps/evidence/place.yaml").is_file()


def test_whole_runs_are_drawn_at_their_operations():
    arms = {name: PLAIN for name in ("all_tokens", "all_tokens_15", "ptd", "ptd_mirrored", "sizes")}
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "pays_figure", lambda arms, stamp: shown.extend(arms))
        evidence.pays(made_up("direction", arms))
    costs = {arm.name: arm.cost for arm in shown}
    assert costs["all_tokens"] == 1 and costs["all_tokens_15"] == 15 / 20
    assert costs["ptd"] == costs["ptd_mirrored"] < 1
    assert [arm.name for arm in shown if arm.all_tokens] == ["all_tokens", "all_tokens_15"]


def test_all_tokens_in_fewer_epochs_are_those_of_other_questions_too():
    steeper = made_up("steeper", {name: PLAIN for name in ("all_tokens", "all_tokens_14", "steps_25")})
    ours = {name: [v + 1 for v in PLAIN] for name in ("all_tokens", "all_tokens_15", "all_tokens_11", "ptd", "sizes")}
    (line,) = (
        line for line in evidence.pays(steeper, made_up("direction", ours)).axes[0].lines if line.get_zorder() == 1
    )
    mean = sum(PLAIN) / 5
    assert line.get_xdata().tolist() == pytest.approx([11 / 20, 14 / 20, 15 / 20, 1])
    assert line.get_ydata().tolist() == pytest.approx([mean + 1, mean, mean + 1, mean])  # its own, where it has them
    shown = evidence.pays(steeper, made_up("direction", ours)).legends[0].get_texts()
    assert [text.get_text() for text in shown] == ["all tokens, by epochs", "steps_25 (n = 5)"]


def test_a_finding_has_its_numbers_and_verdicts_from_the_records():
    four = {"plain": PLAIN, "ptd_only": [v - 1 for v in PLAIN], "mix": PLAIN, "ptd_mix": [v + 0.5 for v in PLAIN]}
    one = made_up("own_effect", four)
    asked = "alone {ptd_only-plain}; {plain-ptd_only-mix-ptd_mix}; gap {ptd_only-plain:gap}; {plain}"
    said = evidence.finding(one, asked)
    assert said.data == (
        "alone -1.00 points (95 % interval -1.00 to -1.00, n = 5), worse; "
        "+1.50 points (95 % interval +1.50 to +1.50, n = 5), above zero; "
        f"gap +1.00 points (95 % interval +1.00 to +1.00, n = 5), above zero; {sum(PLAIN) / 5:.2f} %"
    )
    saved = one.cell("plain").runs[0].training_flops / one.cell("ptd_only").runs[0].training_flops
    assert evidence.finding(one, "{ptd_only-plain:saving}").data == f"{saved:.2f}x" != "1.00x"
    less = made_up("own_effect", {"plain": PLAIN[:1], "ptd_only": PLAIN[:1]})
    said = evidence.finding(less, "{ptd_only-plain}, {mix-plain}, {mix}, {mix-plain:saving}, {plain:sd}").data
    assert said == "+0.00 points, one seed" + 4 * ", (not recorded yet)"
    for sentence, words in (("{ptd_onyl-plain}", "did you mean ptd_only"), ("{plain-mix-ptd_mix}", "name one arm"),
                            ("{mix-plain:gpa}", "is no result"), ("{mix:saving}", "control size, range")):  # fmt: skip
        with pytest.raises(SweepError, match=words):
            evidence.finding(one, sentence)


def test_a_finding_has_more_than_means():
    one = made_up("own_effect", {"plain": PLAIN, "ptd_only": [v - 1 for v in PLAIN[:4]] + [PLAIN[4] + 2]})
    assert evidence.finding(one, "{ptd_only-plain:range}").data == "-1.00 to +2.00 points"
    assert evidence.finding(one, "{plain:sd}").data == f"{statistics.stdev(PLAIN):.2f} points"
    alike = made_up("own_effect", {"plain": PLAIN, "ptd_only": [v - 1 for v in PLAIN]}, seconds={"plain": 15.0})
    assert evidence.finding(alike, "{ptd_only-plain:size}").data == (
        "-1.00 points (95 % interval -1.00 to -1.00, n = 5)"
    )
    assert evidence.finding(alike, "{ptd_only-plain:clock}").data == "1.50x"


def test_nothing_is_shown_where_nothing_is_recorded():
    direction = answer("direction", RECORDS / "none")
    assert direction.runs == [] and len(direction.missing) == len(direction.plan.runs)
    for shown in (evidence.pays(direction), evidence.pays(made_up("direction", {"ptd": PLAIN}))):
        assert "Too little is recorded of direction yet" in shown.data


def test_answers_are_read_from_tables(tmp_path):
    whole = made_up("place", {"all_tokens": PLAIN[:2], "ptd": PLAIN[:1]})
    write_runs(whole.runs, tmp_path)
    read = answer("place", tmp_path)
    assert read.runs == whole.runs and len(read.missing) == len(read.plan.runs) - 3
    assert [one.mean for one in read.effects] == [0.0]
    (tmp_path / "runs.csv").write_text("nothing\n")
    with pytest.raises(OutputError):
        answer("place", tmp_path)
    with pytest.raises(SweepError, match="did you mean direction"):
        answer("directions")


def test_the_same_arms_of_two_questions_are_taken_together():
    """Seeds 0 to 4 of one, 5 to 19 of the other; what has the name of an arm and another recipe is not that arm."""
    accuracies = [40.0 + seed for seed in range(20)]
    arms = {"all_tokens": accuracies, "steps_40_block_0": [v + 1 for v in accuracies], "steps_25": accuracies}
    chose = made_up("steeper", arms)
    fresh = made_up("confirm", {arm: arms[arm] for arm in ("all_tokens", "steps_40_block_0")})
    both = evidence.together(fresh, chose)
    assert both.effect("steps_40_block_0", "all_tokens").seeds == tuple(range(20))
    assert both.cell("steps_25") is None and len(both.runs) == 40
    other = dataclasses.replace(chose, runs=[dataclasses.replace(run, fingerprint="other") for run in chose.runs])
    assert evidence.together(fresh, other).runs == fresh.runs
    again = dataclasses.replace(fresh, runs=[dataclasses.replace(run, test_accuracy=0.0) for run in fresh.runs])
    assert evidence.together(fresh, again).runs == fresh.runs


def test_every_question_says_what_it_asks():
    assert set(questions()) == {path.stem for path in QUESTIONS.glob("*.yaml")}
    for question in questions():
        text = asked(question)
        assert "?" in text and f"parameters/sweeps/evidence/{question}.yaml" in text and "#" not in text
