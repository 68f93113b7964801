"""Whose training step is measured: this project's and its peers', with one another's attention kernel and precision."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ptd_core.bench.plain import plain_step_apart
from ptd_core.bench.workload import CLASSES, Workload, keep_at
from ptd_core.machine.fast_path import FastPath
from ptd_core.model import ATTENTION_KERNELS
from ptd_core.recipe import Recipe
from ptd_core.rivals.dense import encoder_vit, timm_vit

PEER_RATIOS = (0.0, 0.35)


@dataclass(frozen=True)
class Candidate:
    """One training step, data and moving average included. ratio: of the patch tokens, dropped in block 0."""

    name: str
    code: Literal["ours", "plain", "timm", "encoder"]
    ratio: float
    path: FastPath

    @property
    def apart(self) -> bool:
        """Whether it needs a process of its own: in ours, freed memory is kept, which would speed up a plain loop."""
        return self.code == "plain"

    def step(self, work: Workload) -> Callable[[], object]:
        """The step in the workload's process; of one that needs no other."""
        vit, path = work.recipe.vit, self.path
        if self.code == "ours":
            return work.step(work.network(path=path), keep_at(self.ratio, vit.patch_tokens), path)
        peer = timm_vit(vit, CLASSES, self.ratio, path.attention) if self.code == "timm" else encoder_vit(vit, CLASSES)
        return work.step(peer, None, path)

    def alone(self, recipe: Recipe) -> Callable[[], object]:
        """The step, built wherever this is called: in a process of its own."""
        if self.code == "plain":  # without a workload, whose trainer makes its process keep freed memory
            return plain_step_apart(recipe, self.path.precision, keep_at(self.ratio, recipe.vit.patch_tokens))
        return self.step(Workload(recipe))


def candidates(path: FastPath, ratio: float) -> list[Candidate]:
    """All that can drop so many tokens; the first is this project's step in `path`.

    The plain implementation, whose code asks for it, also in fp32; torch's TransformerEncoder, which chooses its kernel
    itself and drops nothing, with all tokens only.
    """
    kernels = sorted(ATTENTION_KERNELS, key=lambda kernel: kernel != path.attention)
    paths = {kernel: replace(path, attention=kernel) for kernel in kernels}
    drops = f"d = {ratio}"
    found = [
        Candidate(
            f"this project{'' if kernel == path.attention else f', {kernel} attention'}, {drops}", "ours", ratio, own
        )
        for kernel, own in paths.items()
    ]
    found += [
        Candidate(f"timm VisionTransformer, {kernel} attention, {drops}", "timm", ratio, own)
        for kernel, own in paths.items()
    ]
    found += [
        Candidate(f"plain implementation, {precision}, {drops}", "plain", ratio, replace(path, precision=precision))
        for precision in dict.fromkeys(("fp32", path.precision))
    ]
    if ratio == 0:
        found.append(Candidate(f"torch.nn.TransformerEncoder, {drops}", "encoder", ratio, path))
    return found
