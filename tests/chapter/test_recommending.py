"""The rule that recommends a way of training, on records that were made up."""

import dataclasses
import math

import pytest
from made_up import made_up

from ptd_core.chapter import answers, evidence
from ptd_core.chapter.answers import RECORDS, answer
from ptd_core.chapter.recommending import candidates, recommended
from ptd_core.paths import PROJECT_ROOT

WHOLE = [40.0, 41.0, 39.0, 40.5, 40.2]
FULL_TIME = ("all_tokens_17", "all_tokens_16", "all_tokens_15", "all_tokens_13", "all_tokens_11")
SCATTER = [0.05, -0.05, 0.1, -0.1, 0.0]  # a mean of zero and an interval of 0.1 about it
ARMS = ("ptd", "ptd_mirrored", "steps_50", "steps_40", "steps_50_fuse", "steps_50_merge", "steps_50_no_tail", "flat",
        "sizes", "sizes_and_steps")  # fmt: skip


def direction(seeds=5, equal_time=-1.0, **arms):
    """All arms a point worse than all tokens but for those given; all tokens in less time, worse by equal_time."""
    worse = dict.fromkeys(ARMS, -1.0) | dict.fromkeys(FULL_TIME, equal_time) | {"all_tokens": 0.0} | arms
    whole = [*zip(WHOLE, SCATTER)]
    return made_up(
        "direction",
        {arm: [w + d + (s if arm in ARMS else 0) for w, s in whole][:seeds] for arm, d in worse.items()},
    )


def chosen(one):
    return recommended(candidates(one)).rpartition("**")[0].rpartition("**")[2]


def test_all_arms_that_save_are_asked_those_that_save_most_first():
    found = candidates(direction())
    assert {one.arm for one in found} == set(ARMS)
    savings = [one.loss.predicted for one in found]
    assert savings == sorted(savings, reverse=True) and min(savings) > 1 and found[0].arm == "sizes_and_steps"
    assert {one.gain.control.removeprefix("evidence_") for one in found} == set(FULL_TIME)
    assert all(one.loss.control == "evidence_all_tokens" and one.decided for one in found)


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        (
            dict.fromkeys(ARMS, -0.22),
            "None of 10 arms passes: of 10 it is not known whether they lose more than 0.3 points; 10 of these lose "
            "something.",
        ),
        ({}, "None of 10 arms passes: 10 lose more than 0.3 points."),
        ({"steps_50": -0.1}, "1 of 10 arms pass; the one that saves most is steps_50,"),
        ({"steps_50": -0.1, "ptd": 0.3}, "2 of 10 arms pass; the one that saves most is steps_50,"),
        ({"steps_50": -0.19}, "1 of 10 arms pass"),
        (
            {"steps_50": -0.22},
            "None of 10 arms passes: 9 lose more than 0.3 points, of 1 it is not known; 1 of these loses something.",
        ),  # Student's interval reaches below -0.3, the bootstrap's not
        ({"steps_50": -0.1, "equal_time": -0.21}, "1 of 10 arms pass"),
        (
            {"steps_50": -0.1, "equal_time": -0.18},
            "None of 10 arms passes: 9 lose more than 0.3 points, 1 with no loss would not beat ",
        ),  # better on average, not surely
        ({"seeds": 4, "steps_50": 2.0}, "Not decided: fewer than 5 seeds are recorded of sizes_and_steps, "),
    ],
)
def test_an_arm_is_chosen_that_loses_nothing_and_beats_equal_time(arms, says):
    assert chosen(direction(**arms)).startswith(says)


def confirmed(one):
    """The arm that other seeds should confirm, None if there is none."""
    said = chosen(one)
    return said.partition("Worth confirming on other seeds: ")[2].partition(",")[0] or None


@pytest.mark.parametrize(
    ("arms", "arm"),
    [
        ({"steps_50": -0.25}, "steps_50"),  # 2.1448 * 0.0791 / sqrt(15) = 0.044: down to -0.294
        ({"steps_50": -0.26}, None),  # -0.304
        ({"steps_50": -0.25, "equal_time": -0.36}, "steps_50"),  # better by 0.11 (0.098)
        ({"steps_50": -0.25, "equal_time": -0.34}, None),
        ({"steps_50": -0.25, "ptd": 0.3}, "steps_50"),  # saves more than what passes
        ({"steps_50": -0.1, "ptd": 0.3}, "steps_50"),
        ({"seeds": 4, "steps_50": 2.0}, None),
    ],
)
def test_other_seeds_are_to_confirm_what_could_pass_with_fifteen_of_them(arms, arm):
    assert confirmed(direction(**arms)) == arm


@pytest.mark.parametrize(("shift", "arm"), [(0, "ptd"), (10, "ptd"), (11, None), (15, None)])
def test_nothing_is_to_be_confirmed_without_five_seeds_that_had_no_part(shift, arm):
    """Seeds are 0 to 19."""
    one = direction(ptd=0.3)
    runs = [dataclasses.replace(run, seed=run.seed + shift) for run in one.runs]
    assert confirmed(dataclasses.replace(one, runs=runs)) == arm


@pytest.mark.parametrize(
    ("seeds", "difference", "says"),
    [
        (20, -0.25, "steps_40_block_0 passes (1.47x by operations, 15 seeds)."),  # 2.1448 * 0.0732 / sqrt(15) = 0.041
        (20, -0.27, "steps_40_block_0 is undecided, its interval contains -0.3 points (1.47x by "),
        (20, -0.33, "steps_40_block_0 is undecided, "),  # up to -0.289
        (20, -0.35, "steps_40_block_0 loses more than 0.3 points (1.47x by operations, 15 seeds)."),
        (19, 2.0, "Not decided: fewer than 15 seeds are recorded of steps_40_block_0, or of a control."),
        (10, 2.0, "Not decided: fewer than 15 seeds are recorded of steps_40_block_0, or of a control."),
    ],
)
def test_other_seeds_confirm_all_of_them_together(seeds, difference, says):
    """Seeds 5 to 19. Whoever may stop when he likes finds what he likes: so five good ones decide nothing."""
    whole, scatter = (WHOLE * 4)[:seeds], (SCATTER * 4)[:seeds]
    arm = [w + difference + s for w, s in zip(whole, scatter)]
    one = made_up("confirm", {"all_tokens": whole, "steps_40_block_0": arm, "all_tokens_14": [w - 2 for w in whole]})
    assert chosen(one).startswith(says) and confirmed(one) is None


@pytest.mark.parametrize("lacking", ["sizes", "all_tokens_13"])
@pytest.mark.parametrize("seeds", [{3}, set(range(5))])
def test_an_arm_that_lacks_records_leaves_it_open(lacking, seeds):
    """As a control does that lacks them: all_tokens_13 is that of sizes alone."""
    one = direction(steps_50=2.0)
    gone = {f"evidence_{lacking}_seed{seed}" for seed in seeds}
    one = dataclasses.replace(one, runs=[run for run in one.runs if run.run not in gone])
    assert chosen(one) == "Not decided: fewer than 5 seeds are recorded of sizes, or of a control."
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in recommended(candidates(one)).splitlines()}
    assert rows["sizes"].count("5 seeds decide") == 3
    assert rows["steps_50"].count("| yes ") == 3 and "+2.00 points (+1.90 to +2.10, n = 5)" in rows["steps_50"]


def test_what_saves_nothing_is_no_candidate_and_what_is_unknown_waits():
    one = direction(steps_50=-0.1)

    def with_operations(flops):
        known = {"evidence_sizes": flops}
        runs = [dataclasses.replace(run, training_flops=known.get(run.cell, run.training_flops)) for run in one.runs]
        return dataclasses.replace(one, runs=runs)

    assert chosen(with_operations(1e30)).startswith("1 of 9 arms pass; the one that saves most is steps_50,")
    assert chosen(with_operations(math.nan)).startswith("Not decided: fewer than 5 seeds are recorded of sizes,")


def test_the_control_in_fewer_epochs_has_about_as_many_operations():
    one = direction()
    rows = recommended(candidates(one)).splitlines()
    (row,) = [row for row in rows if row.startswith("| ptd |")]
    (ptd,) = [candidate for candidate in candidates(one) if candidate.arm == "ptd"]
    share = 17 / 20 * ptd.saving  # of 20 epochs; per image all tokens cost as much as the arm does times its saving
    assert f"| {100 * share:.0f} % |" in row and 0.95 < share < 1


def test_what_is_confirmed_is_what_the_published_records_say():
    """Of each question the one that saves most of those worth confirming; first the one that saves more."""

    def asked(question):
        (arm,) = (one for one in answer(question).recipes if not one.startswith("all_tokens"))
        return arm

    found = [candidates(answer(question)) for question in ("direction", "steeper")]
    best = [max((one for one in arms if one.hopeful), key=lambda one: one.saving) for arms in found]
    best.sort(key=lambda one: -one.saving)
    assert [one.arm for one in best] == [asked("confirm"), asked("confirm_in_block_1")]
    assert sum(map(len, found)) == 14
    assert f"saves less ({best[1].saving:.2f}x" in " ".join(answers.asked("confirm_in_block_1").split())


def test_readme_says_what_was_confirmed():
    (one,) = candidates(answer("confirm"))
    readme = " ".join((PROJECT_ROOT / "README.md").read_text(encoding="utf-8").split())
    size = "{0.mean:.2f} points ({0.t_low:.2f} to {0.t_high:.2f})"
    said = [
        "One of 14 arms was trained again with 15 seeds",
        f"All tokens take {one.saving:.2f}x its operations;",
        f"for as many operations it gains {size.format(one.gain)}, what six of twenty epochs are worth",
        f"many epochs: {one.loss.mean:+.2f} ({one.loss.t_low:+.2f} to {one.loss.t_high:+.2f})",
    ]
    assert [sentence for sentence in said if sentence not in readme] == []
    epochs = answer("confirm").effect("all_tokens", "all_tokens_14")
    assert f"{epochs.mean:.2f}" == f"{one.gain.mean:.2f}"
    chances = evidence.chances(answer("confirm"), answer("steeper")).data.splitlines()
    zero = chances[0].split(" | ").index("+0.0 points")
    assert "a chance of about one in two" in readme and 45 < int(chances[2].split(" | ")[zero].rstrip(" %")) < 55


def test_what_the_chapter_says_in_short_is_recorded():
    """In words: none of fourteen was shown to lose nothing, each beats all tokens that train for as many operations."""
    asked = ("direction", "steeper", "confirm", "confirm_in_block_1")
    found = [one for question in asked for one in candidates(answer(question))]
    recipes = {name: recipe for question in asked for name, recipe in answer(question).recipes.items()}
    decided = [one for one in found if one.decided]
    assert len({one.arm for one in decided}) == 14
    assert not any(one.no_loss for one in decided) and all(one.beats_equal_time for one in decided)
    whole = [one for one in decided if not recipes[one.arm].size_stages and one.arm in answer("direction").recipes]
    assert f"{max(one.saving for one in whole):.2f}" == "1.31"  # "with whole images"
    shares = [100 * one.gain.predicted for one in decided]
    assert (round(min(shares)), round(max(shares))) == (97, 103)  # "as nearly as whole epochs allow"


def test_what_the_chapter_says_of_its_arms_is_recorded():
    """In words, so that no number there would follow the records."""
    (one,) = candidates(answer("confirm"))
    assert one.loss.seeds == tuple(range(5, 20)) and one.decided and one.beats_equal_time
    assert not one.no_loss and not one.loss_shown and f"{one.loss.mean:.1f}" == "0.0"  # "zero, and reaches below"
    more = [
        (arm, question.recipes[arm.arm])
        for question in (answer("direction"), answer("steeper"))
        for arm in candidates(question)
        if arm.saving > one.saving + 1e-9
    ]
    assert len(more) == 3 and all(recipe.size_stages and arm.loss.t_high < 0 for arm, recipe in more)
    fine_tuned = answer("transfer").effect("all_then_ptd", "all_then_all")
    assert fine_tuned.t_high < 0  # "did worse"


def test_chances_are_those_of_the_noncentral_t():
    """By scipy.stats.nct: the interval's lower end is above -0.3 where t = (mean + 0.3) / (sd / sqrt(15)) > t975."""
    differences = [0.5, -0.5, 0.6, -0.6, 0.0]  # sd 0.552
    whole = WHOLE * 4
    arm = [w + d for w, d in zip(WHOLE, differences)]
    before = made_up("steeper", {"all_tokens": WHOLE, "steps_40_block_0": arm, "all_tokens_14": WHOLE})
    after = made_up("confirm", {"all_tokens": whole})
    said = evidence.chances(after, before).data.splitlines()
    cells = said[-1].strip("| ").split(" | ")
    assert cells[:3] == ["steps_40_block_0, steeper", "5", "0.55 points"] and len(said) == 3
    expected = [2.5, 9.6, 25.7, 50.0, 74.2, 90.3]
    assert "." in cells[3] and "." not in cells[5]  # what is rare has a digit more
    assert [float(cell.removesuffix(" %")) for cell in cells[3:]] == pytest.approx(expected, abs=1)
    assert "Too little" in evidence.chances(after, answer("steeper", RECORDS / "none")).data


def test_chances_are_also_those_of_another_arm_if_it_was_asked_about_alone():
    one_arm = {"all_tokens": WHOLE * 4, "steps_40_block_0": [w + s for w, s in zip(WHOLE * 4, SCATTER * 4)]}
    one, many = made_up("confirm", one_arm), direction(steps_40=-0.1)
    (other,) = [
        line for line in evidence.chances(answer("confirm_in_block_1"), one).data.splitlines() if "steps" in line
    ]
    assert other.startswith("| steps_40_block_0, confirm | 15 | 0.07 points | ")
    both = evidence.chances(answer("confirm_in_block_1"), many, one).data.splitlines()
    assert [line.split(" | ")[0] for line in both[2:]] == ["| steps_40, direction", "| steps_40_block_0, confirm"]
    assert "Too little" in evidence.chances(answer("confirm"), many).data  # other arms, and several of them


def test_nothing_is_recommended_from_nothing():
    for one in (answer("direction", RECORDS / "none"), direction(seeds=0)):
        assert evidence.recommended(one).data == "*Too little is recorded of direction yet to show this.*"
    assert "+0.95 points, one seed" in evidence.recommended(direction(seeds=1, ptd=0.9)).data
