"""What the original says of itself and what its own logs say, to be shown beside results, never mixed with them.

Source: the method's public repository, aumkeshchaudhary/Progressive-Token-Drop-ViT: its README (claimed) and the
per-epoch logs of its runs (logged). CIFAR-100, 200 epochs, one seed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One quantity of the original, in the words of its source, and what its logs show."""

    quantity: str
    claimed: str
    logged: str


CLAIMS = (
    Claim("baseline, test accuracy", "71.59 %", "71.59 %: last epoch, also the best on test; EMA weights"),
    Claim(
        "PTD + Mixup/CutMix + EMA, test accuracy",
        "74.12 %",
        "best epoch chosen on test; last epoch 73.85 % EMA, 73.72 % raw",
    ),
    Claim("baseline, training accuracy", "92.4 %", "92.4 % on augmented batches"),
    Claim(
        "PTD + Mixup/CutMix + EMA, training accuracy",
        "53.5 %",
        "prediction on the mixed image against the first label: not comparable with 92.4 %",
    ),
    Claim("PTD alone, training / test accuracy", "97.9 % / 68.83 %", "no log exists"),
    Claim(
        "training time, baseline to PTD",
        "13 h 40 min to 10 h 20 min, 1.3x",
        "13.66 h to 10.20 h of training; 1.10x of it with no token dropped (another recipe), 1.22x from tokens",
    ),
)


def claims_markdown() -> str:
    """The claims as a Markdown table."""
    rows = [f"| {claim.quantity} | {claim.claimed} | {claim.logged} |" for claim in CLAIMS]
    return "\n".join(["| original | claimed in its README | what its logs show |", "|---|---|---|", *rows])
