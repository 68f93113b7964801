"""The README's lines for somebody's own ViT, run as they stand there, where nothing but the library is installed."""

import subprocess
import sys

import timm
import torch
from test_house import EXTRAS

from ptd_core.paths import PROJECT_ROOT

# What the reader has: a loader and a number of epochs. What the network was told is written down.
BEFORE = """
import sys
sys.modules.update(dict.fromkeys({extras}))  # importing any of them is now an error
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
epochs, loader = 2, [(torch.randn(2, 3, 224, 224), torch.tensor([3, 7]))]
"""
AFTER = """
tokens = []
vit.blocks[-1].register_forward_hook(lambda block, given, out: tokens.append(out.shape[1]))
network(images, keep), vit(images)
assert torch.equal(network.eval()(images), vit.eval()(images))
print(keep, tokens[:2], loss.item())
torch.save((images, vit(images)), "said.pt")
"""


def own_vit_lines():
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("```python\n")[2].partition("```")[0]


def test_five_lines_are_new():
    lines = [line.partition("# ")[2] for line in own_vit_lines().splitlines() if "  # " in line]
    assert [line[0] for line in lines] == list("12345")


def test_the_lines_for_ones_own_vit_train_it(tmp_path):
    """Two epochs in place of sixty: the last one drops half of the tokens."""
    lines = own_vit_lines().replace("start=10, end=60", "start=0, end=1")
    assert lines != own_vit_lines()
    code = BEFORE.format(extras=EXTRAS) + lines + AFTER
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.startswith("(98,) [99, 197] "), result.stderr
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=10)
    vit.load_state_dict(torch.load(tmp_path / "vit.pt", weights_only=True))  # a plain ViT's
    images, logits = torch.load(tmp_path / "said.pt", weights_only=True)
    torch.testing.assert_close(vit.eval()(images), logits, rtol=1e-4, atol=1e-4)
