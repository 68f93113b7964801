"""Fine-tuning by layers, as timm counts them: which parameters are not trained, and learning rates that differ.

The layers of a ViT: 0 the stem or patch embedding, class token and positions; then each block, the last one with the
last norm; then the head.
"""

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(vit: nn.Module, blocks: int) -> None:
    """Train neither the first blocks nor what comes before them; 0: train all. With all blocks the head alone is left.

    Raises ValueError for more blocks than the ViT has.
    """
    if blocks > len(vit.blocks):
        raise ValueError(f"frozen_blocks must be from 0 to the {len(vit.blocks)} blocks of the ViT; got {blocks}")
    layers = group_parameters(vit, vit.group_matcher(), reverse=True) if blocks else {}
    for name, layer in layers.items():
        if layer <= blocks:
            vit.get_parameter(name).requires_grad_(False)


def training_mode(vit: nn.Module) -> None:
    """Training mode, but for batch norm whose weights are frozen: its statistics stay what they are, and are used."""
    vit.train()
    for module in vit.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """What is trained of a network around a ViT, in an optimizer's groups, each with weight decay on all of it.

    layer_decay: the learning rate of a layer over that of the layer after it. A group's rate is the head's times its
    lr_scale, layer_decay ** (layers between it and the head); 1: one group for all, without lr_scale. What the network
    has beside the ViT learns as the head does. By timm's `param_groups_layer_decay` (after BEiT, Bao et al. 2021).
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if layer_decay == 1:
        return [{"params": trained}]
    groups = param_groups_layer_decay(network.vit, weight_decay, weight_decay_exclude_1d=False, layer_decay=layer_decay)
    grouped = {parameter for group in groups for parameter in group["params"]}
    if rest := [parameter for parameter in trained if parameter not in grouped]:
        groups.append({"params": rest, "weight_decay": weight_decay, "lr_scale": 1.0})
    return groups
