"""The claim ledger: what the original says of itself, what its own logs show, and what was measured here.

Source: the method's public repository, aumkeshchaudhary/Progressive-Token-Drop-ViT: its README (said) and the per-epoch
logs of its runs (logged). CIFAR-100, 200 epochs, one seed. Verdicts are computed from the records, by one rule.
"""

from dataclasses import dataclass

from ptd_core.chapter.judging import MEASURED, Difference, Faster, Found, Interaction, Measured, Settled, Test, Untested
from ptd_core.chapter.looking_again import Concentration, Feedback, FewerTokens, NoReturn, NothingLost
from ptd_core.records.markdown import markdown_table

RESULT, CAUSE, LIMIT, FUTURE = "result", "cause", "limitation", "future work"
_SMALL = "older runs (0.54 M parameters, 10,000 images, 10 epochs; figures/small_cells), seed by seed:"
_THREE_BLOCKS = (("blocks_0_1_2", "ptd"), ("blocks_0_1_2", "all_tokens"))
_FULL_SIZE = "needs a GPU at full size: python -m ptd_core.reproduce DATA_DIR"


@dataclass(frozen=True)
class Claim:
    """One statement of the original in our words.

    kind: result, cause, limitation or future work. logged: what its logs show, "" where there is none. test: what
    decides here. short: whether README shows it.
    """

    kind: str
    said: str
    logged: str
    test: Test
    short: bool = False

    def found(self) -> Found:
        return self.test.found()


CLAIMS = (
    Claim(
        RESULT,
        "The baseline reaches 71.59 % on test images",
        "71.59 %: last epoch, also the best on test; EMA weights, though its table says none",
        Untested(_FULL_SIZE),
        short=True,
    ),
    Claim(
        RESULT,
        "PTD with Mixup/CutMix and EMA reaches 74.12 %",
        "73.85 % in the last epoch, 73.72 % raw; 74.12 % is the best epoch chosen on test",
        Settled("holds in part", "not run here either; by its own logs, 73.85 % without the choice on test"),
        short=True,
    ),
    Claim(
        RESULT,
        "PTD with Mixup/CutMix is 2.53 points better than the baseline without them",
        "2.26 points in the last epoch; dropout, drop-path, label smoothing and RandAugment differ as well",
        Difference("own_effect", "ptd_mix", "plain", claimed=+1, size=2.26),
        short=True,
    ),
    Claim(
        CAUSE,
        "Token drop is a cause of that gain: better than Mixup/CutMix alone",
        "no such run",
        Difference("own_effect", "ptd_mix", "mix", claimed=+1, also=f"{_SMALL} {{small_mix}} points"),
        short=True,
    ),
    Claim(
        RESULT,
        "PTD alone loses 2.76 points (68.83 %)",
        "no log exists",
        Difference("own_effect", "ptd_only", "plain", claimed=-1, size=-2.76, also=f"{_SMALL} {{small_plain}} points"),
        short=True,
    ),
    Claim(
        RESULT,
        "PTD alone overfits: from 20.8 to 29.1 points between training and test images",
        "no log exists; the baseline's 92.4 % are of augmented batches",
        Difference(
            "own_effect",
            "ptd_only",
            "plain",
            claimed=+1,
            result="gap",
            size=29.1 - 20.8,
            also="its training images are augmented, those here are clean",
        ),
        short=True,
    ),
    Claim(
        RESULT,
        "With Mixup/CutMix training accuracy falls to 53.5 %, by soft labels",
        "prediction on the mixed image against the first label: no training accuracy, not comparable with 92.4 %",
        Settled(
            "holds in part",
            "on clean training images it falls too: {plain_on_training_images:.1f} % without, "
            "{mix_on_training_images:.1f} % with (five seeds); soft labels as its cause are not tested",
        ),
    ),
    Claim(
        RESULT,
        "Training takes 10 h 20 min in place of 13 h 40 min, 1.3x faster, because of fewer tokens",
        "13.66 h to 10.20 h; 1.10x of it with no token dropped (another recipe), 1.22x from tokens",
        Settled("holds in part", "operations predict {published_speedup:.3f}x for its curriculum at equal recipe"),
        short=True,
    ),
    Claim(
        RESULT,
        "A whole training is faster with its curriculum than without",
        "1.22x; nearly half of what it saves came at once with the first dropped token: 257 tokens are slow there",
        Faster("speed", "timed_ptd", "timed_all_tokens"),
    ),
    Claim(
        CAUSE,
        "Strong regularisation is essential: only with it token drop turns from harm to gain",
        "no such runs; of its regularisation only Mixup and CutMix are tested here",
        Interaction("own_effect", "plain", "ptd_only", "mix", "ptd_mix", claimed=+1),
        short=True,
    ),
    Claim(
        CAUSE,
        "All tokens first and few at the end is the stable order",
        "",
        Difference("direction", "ptd", "ptd_mirrored", claimed=+1),
        short=True,
    ),
    Claim(
        CAUSE,
        "Class attention finds the patches that carry information",
        "",
        Difference(
            "scores_five_seeds",
            "class_attention_0",
            "random_0",
            claimed=+1,
            also="half of the tokens by it keep {attention:.1f} % of the object on shapes, the image's centre "
            "{centre:.1f} %",
        ),
        short=True,
    ),
    Claim(CAUSE, "Kept tokens draw ever more attention", "", Concentration()),
    Claim(CAUSE, "Dropped tokens never return", "", NoReturn()),
    Claim(
        CAUSE,
        "Fewer tokens make the model memorise what the kept ones show",
        "",
        Untested("the gap between training and test images is measured; nothing tells memorising from other causes"),
    ),
    Claim(
        CAUSE,
        "Many patches carry little: they can be left out at no loss",
        "",
        NothingLost(also="on generated shapes, three seeds: {half:.2f} % with half, {whole:.2f} % with all"),
    ),
    Claim(
        RESULT,
        "Evaluation is unchanged and costs nothing more",
        "",
        Settled("holds", "by construction: without `keep`, TokenDropViT is the ViT itself (tests/test_token_drop.py)"),
        short=True,
    ),
    Claim(
        LIMIT,
        "One dataset",
        "",
        Measured("transfer", (("all_then_ptd", "all_then_all"),), what="fine-tuned on CIFAR-10: "),
    ),
    Claim(
        LIMIT,
        "One architecture",
        "",
        Untested("timm's ViT and DeiT run in the same loop; none was trained to the end"),
    ),
    Claim(
        LIMIT,
        "One piece of hardware",
        "",
        Settled(
            MEASURED,
            "a step at 35 % is {cpu_bf16:.2f}x faster on a CPU with bf16 products and {cpu_fp32:.2f}x without, where "
            "operations predict {step_predicted:.2f}x; no GPU was timed",
        ),
    ),
    Claim(LIMIT, "No statistics over seeds", "", Measured("own_effect")),
    Claim(
        LIMIT,
        "Attention need not be what matters",
        "",
        Settled(
            "holds",
            "half of the tokens by class attention keep {attention:.1f} % of the object in block 0 and {late:.1f} % in "
            "the last block, the image's centre {centre:.1f} % (shapes, three seeds)",
        ),
    ),
    Claim(LIMIT, "The curriculum's numbers were not tuned", "", Measured("curriculum")),
    Claim(
        LIMIT,
        "The comparison is not controlled",
        "",
        Measured("own_effect", (("ptd_mix", "plain"), ("ptd_mix", "mix"))),
    ),
    Claim(LIMIT, "Only one block drops tokens", "", Measured("place", _THREE_BLOCKS)),
    Claim(FUTURE, "The baseline with Mixup, CutMix and EMA", "", Measured("own_effect", (("mix", "plain"),))),
    Claim(FUTURE, "How strong Mixup and CutMix must be", "", Untested("only one strength was run, the original's")),
    Claim(FUTURE, "ImageNet", "", Untested("computed on paper only (parameters/sweeps/README.md)")),
    Claim(FUTURE, "Other architectures", "", Untested("timm's run; Swin's windows cannot lose tokens and are refused")),
    Claim(FUTURE, "Other measures of what matters", "", Measured("scores")),
    Claim(
        FUTURE,
        "The shape of the curriculum",
        "",
        Measured("direction", (("ptd_mirrored", "ptd"), ("steps_50", "all_tokens"), ("flat", "all_tokens"))),
    ),
    Claim(FUTURE, "Several blocks", "", Measured("place", _THREE_BLOCKS)),
    Claim(
        FUTURE,
        "Bringing tokens back",
        "",
        Untested("the fates skip and bypass do; none of the questions compares them yet"),
    ),
    Claim(FUTURE, "Fewer tokens at evaluation too", "", FewerTokens()),
    Claim(FUTURE, "A theory of why fewer tokens generalise", "", Untested("no experiment here decides it")),
    Claim(FUTURE, "Does attention feed back on itself", "", Feedback()),
    Claim(
        FUTURE,
        "Transfer to other datasets",
        "",
        Measured(
            "transfer", (("ptd_then_all", "all_then_all"), ("all_then_all", "scratch")), what="fine-tuned on CIFAR-10: "
        ),
    ),
)


def ledger_table(short: bool = False) -> str:
    """The ledger as a Markdown table; short: the rows that README shows, without their kind."""
    header = ["the original says", "its own logs", "found here", "verdict"]
    rows = [[claim.said, claim.logged or "-", *reversed(claim.found())] for claim in CLAIMS if claim.short or not short]
    if not short:
        header, rows = ["kind", *header], [[claim.kind, *row] for claim, row in zip(CLAIMS, rows)]
    return markdown_table(header, rows)


def claims_markdown() -> str:
    """What the original reports as its results, without what was found here: for the chapters that train one run."""
    rows = [(claim.said, claim.logged or "-") for claim in CLAIMS if claim.kind == RESULT]
    return markdown_table(["the original says", "what its logs show"], rows)


if __name__ == "__main__":
    print(ledger_table(short=True))
