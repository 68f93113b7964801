"""Progressive Token Drop: train a vision transformer on fewer tokens, by a curriculum, evaluate on all of them.

Read in this order: `schedule` (how many tokens, when), `saliency` (which), `token_drop` (a policy around any ViT),
`model` (a ViT), `cost` (what it saves), `recipe` (every setting), `step`, `trainer`, `run`, `load`, `evaluate`. The
rooms: `tokens` (choices and fates, the parts of a ViT), `data` (images to batches), `machine` (devices, precision,
processes), `vits` (timm's ViTs by name, weights to begin with), `rivals` (methods that are no such policy), `records`
(what a run writes), `evaluation` (accuracy, maps, where tokens go), `views` (figures and explorers), `chapter` (what
notebooks need), `sweep` (many runs), `bench` (measurements).

Importing it registers `hybrid_vit` with timm.
"""

from ptd_core.load import load_model
from ptd_core.model import HybridViT
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.schedule import DropSchedule, Stages
from ptd_core.token_drop import TokenDrop, TokenDropViT
from ptd_core.trainer import Trainer
from ptd_core.vits import registration  # noqa: F401  with timm

__all__ = [
    "DropSchedule",
    "HybridViT",
    "Recipe",
    "Stages",
    "TokenDrop",
    "TokenDropViT",
    "Trainer",
    "execute",
    "load_model",
]
