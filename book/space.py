# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. The space of token reduction
#
# **The question.** Progressive Token Drop is one of at least ten published ways to compute fewer tokens. In what do
# they differ, what does each do to an image, and how well do they choose where the right choice is known?
#
# Every one of them answers the same five questions:
#
# 1. **score**: what makes a token worth keeping?
# 2. **choice**: are the best tokens taken, or are tokens drawn?
# 3. **fate**: what becomes of the others?
# 4. **place**: in which blocks?
# 5. **schedule**: how many tokens, and when in the training?
#
# So they are points of one space, and each is one short file in `parameters/space`. This chapter draws the space, goes
# along its axes, shows each method at work on one image, and trains a few points. It is about how the methods work;
# which of them pays is a question for many seeds, and one run of each says nothing about it.
#
# Run all cells as they are, or hand the chapter other parameters; chapter 2 trains any single method:
#
# ```
# papermill book/space.ipynb out.ipynb -p image 3
# papermill book/ptd.ipynb out.ipynb -f parameters/space/evit.yaml
# ```

# %%
# %matplotlib inline
from ptd_core.chapter import notebook, space

before = notebook.names(globals())

# %% [markdown]
# ## The run
#
# The model, the data and the training of what follows. The points that are trained drop half of the tokens from the
# first epoch on (`drop_shape = "flat"`); the published methods bring token drop settings of their own.

# %% tags=["parameters"]
run: str = ""  # name of the run's folder; empty: made from chapter, dataset and settings
seed: int = 0  # seed of initialisation, order, augmentation and dropout
device: str = "auto"  # auto, cpu, mps, cuda or cuda:N; auto takes CUDA, then MPS, then the CPU
precision: str = "auto"  # auto, fp32 or bf16 (autocast); auto: bf16 where the card or the CPU multiplies it, else fp32
attention: str = "auto"  # auto, fused or explicit; auto: explicit for bf16 on the CPU, fused elsewhere
compilation: str = "auto"  # auto, off, inductor or cudagraphs (torch.compile); auto: cudagraphs on cards with bf16
out_dir: str = ""  # folder that receives runs/; empty: the project's own
checkpoint_every: int = 1  # epochs between checkpoints
checkpoint_seconds: float = 60.0  # seconds of training between checkpoints within an epoch; 0: none
dataset: str = "shapes"  # shapes (generated), cifar100, cifar10 or folder (class folders of images)
data_dir: str = "data"  # where the dataset lies; shapes needs none
download: bool = True  # let torchvision download an absent CIFAR
image_size: int = 32  # image side in pixels; CIFAR has 32
size_stages: str = ""  # training image sides at shares of the run, as 24/28/32 at 60/20/20; empty: image_size
subset: int = 2000  # training images, class-balanced; 0: all
test_subset: int = 500  # test images, class-balanced; 0: all
model: str = "hybrid_vit"  # hybrid_vit, or the name of a timm ViT, as timm.list_models() gives it
model_args: str = ""  # a timm ViT's own arguments: names and values, each joined by an equals sign, with commas between
weights: str = ""  # file of weights to begin with: .safetensors, .pt, .pth or .bin; empty: drawn by seed
stem_width: int = 32  # channels after the first stem convolution, doubled by the second
stem_stride: int = 4  # image pixels per token side: 1, 2, 4 or 8
embed_dim: int = 96  # embedding width
depth: int = 4  # number of transformer blocks
num_heads: int = 3  # attention heads; must divide embed_dim
mlp_ratio: float = 4.0  # hidden width of the MLP over embed_dim
qkv_bias: bool = True  # bias in the query, key and value projections
dropout: float = 0.0  # dropout after positions, attention projection and in the MLP; also before a timm ViT's head
drop_path: float = 0.0  # drop-path rate of the last block, rising linearly from 0
drop_method: str = "token_drop"  # token_drop (by the settings below), tome, evo_vit (from drop_block on) or dynamicvit
drop_init: float = 0.0  # drop ratio before drop_start
drop_final: float = 0.5  # drop ratio from drop_end on; 0 with drop_init 0 is the baseline
drop_start: int = 0  # epoch at which the drop ratio begins to rise, counted from 0
drop_end: int = 8  # epoch from which it is drop_final
drop_gamma: float = 2.0  # exponent of the rise
drop_hold: bool = True  # hold drop_final after drop_end; False: all tokens again
drop_block: int = 0  # block that drops tokens, counted from 0
drop_blocks: str = ""  # several such blocks, as 3, 6, 9; each drops of the tokens that reach it
drop_shares: str = ""  # for each of drop_blocks a factor of the drop ratio, as 1, 1.7, 2.2; empty: 1 each
drop_shape: str = "flat"  # polynomial, cosine, reversed (in time), steps, flat (from drop_start) or cyclic
drop_stages: str = ""  # of drop_shape steps: kept shares at shares of the run, as .5/.75/1 at 45/40/15
drop_cycle: int = 0  # of drop_shape cyclic: epochs of a period
drop_tail: int = 0  # epochs at the end with all tokens, whatever the shape
drop_multiple: int = 1  # kept tokens are multiples of this
drop_score: str = "class_attention"  # what makes a token worth keeping: a key of SCORES in ptd_core/saliency.py
drop_score_block: int = -1  # of drop_score averaged_attention: block that it looks at; -1: the last
drop_choice: str = "top"  # top scores, sample (in proportion to them) or greedy (spread over the features)
drop_fate: str = "discard"  # discard, fuse (into one), merge (to the nearest), skip (the block), bypass (to drop_until)
drop_attended: str = "all"  # all or kept: what kept tokens attend to in that block; kept: tokens are dropped before it
drop_until: int = -1  # of drop_fate bypass: block before which tokens are back; -1: the last
crop_padding: int = 2  # zero padding in pixels before the random crop
flip: bool = True  # random horizontal flip
rand_ops: int = 0  # RandAugment operations an image; 0: off
rand_magnitude: int = 7  # RandAugment magnitude, one of 31 bins
erase: float = 0.0  # probability of random erasing
mixup_alpha: float = 0.0  # Mixup: Beta(alpha, alpha); 0: off
cutmix_alpha: float = 0.0  # CutMix: Beta(alpha, alpha); 0: off
cutmix_share: float = 0.5  # share of batches that get CutMix where both are on
epochs: int = 5  # passes over the training images
batch_size: int = 32  # images a training step; an epoch omits its last, smaller batch
eval_batch_size: int = 256  # images an evaluation step
eval_every: int = 5  # epochs between evaluations; the last epoch always has one
lr: float = 0.0015  # peak learning rate of AdamW
weight_decay: float = 0.05  # decoupled weight decay, on every parameter
warmup_epochs: int = 1  # epochs of linear warm-up, before the cosine
grad_clip: float = 1.0  # largest gradient norm; 0: no clipping
label_smoothing: float = 0.03  # label smoothing
ema_decay: float = 0.98  # decay of the weights' moving average; 0: off

# %%
recipe = notebook.read_recipe(globals(), before, chapter="space")
data = recipe.load_dataset()
methods = space.methods(recipe)
print(f"{len(methods)} methods on {recipe.dataset}, {recipe.vit.patch_tokens} patch tokens, {recipe.vit.depth} blocks")

# %% [markdown]
# ## The space
#
# Each line is a method, each upright an axis. Seven of them are settings of one policy, `TokenDrop`. ToMe, Evo-ViT and
# DynamicViT do something in the block itself, or learn the choice, and are modules of their own in `ptd_core/rivals`;
# for them the axes say what comes nearest.

# %%
from ptd_core.views.space import space_figure

space_figure(methods)

# %% [markdown]
# The same as a table, computed from the files. The last column is what operations predict for a training step, forward
# and backward, when half of the tokens are left after the last block that drops any. It is not a measured time:
# `python -m ptd_core.bench` measures, see `figures/bench`.

# %%
space.axes_table(methods, len(data.classes))

# %% [markdown]
# Two things can be seen before anything is trained. Equal numbers of kept tokens do not mean equal work: what counts
# is how early tokens go, and what is computed for the others. And DynamicViT's training saves nothing, because it only
# masks tokens; its gain is in evaluation.
#
# ## A network to ask
#
# Scores are questions to a network, so one is trained here with all tokens. It is also the control of the points that
# are trained at the end.

# %%
from ptd_core.run import execute

points = space.points(recipe, ["class_attention", "centre", "random", "oracle"])
trainings = {"all tokens": execute(points["all tokens"], dataset=data)}
trained = trainings["all tokens"]

# %%
shown = space.one_image(trained, 0)
block = min(1, recipe.vit.depth - 1)
half = recipe.vit.patch_tokens // 2

# %% [markdown]
# ## Score: what makes a token worth keeping?
#
# A score is a function from what a block sees to one number for each patch token. Some ask the class token
# ($s_i = A_{0,i}$, chapter 2), some ask all tokens, some look at the token alone, some only at its place:
#
# $$s_i = \lVert x_i \rVert_2, \qquad s_i = \frac{1}{HT} \sum_{h} \sum_{t} A^h_{t,i}, \qquad
# s_i = 1 - \frac{1}{N-1} \sum_{j \ne i} \cos(x_i, x_j)$$

# %%
from ptd_core import saliency

notebook.show_code(saliency.norm_score, saliency.attention_received_score, saliency.distance_score)

# %% [markdown]
# One test image under every score that can be asked here; light is high, each map on its own scale. Below it, the half
# of the tokens that the score keeps, and where the truth is known, the object's outline. *Oracle* is that truth: the
# object's share of each token's pixels.

# %%
space.scores(trained, shown, block, half)

# %% [markdown]
# Over many images, and for every number of tokens: how much of the objects lies under the kept tokens? The oracle is
# the ceiling, random tokens lie on the diagonal. The network that is asked was trained with all tokens. The line
# *centre* is a warning: it has seen no image at all, and it is good, because these objects lie near the middle. A score
# has been shown to look at the object only by what it gains over that line.

# %%
space.shares(trained, block)

# %% [markdown]
# ## Choice: the best, or a draw?
#
# The $k$ best tokens of an image are the same in every epoch as long as the network hardly changes, so some tokens are
# never trained on. Drawing without replacement, in proportion to the scores, gives each a chance. It needs no loop:
# with independent Gumbel noise $g_i$, the $k$ largest values of
#
# $$\log s_i + g_i$$
#
# are such a draw. A third choice looks at no score: ToE spreads its tokens over the features, each time taking those
# farthest from what it has.

# %%
from ptd_core.tokens import choices, fates

notebook.show_code(choices.sample)

# %%
from ptd_core.token_drop import TokenDrop

score = recipe.drop_score if recipe.drop_score in ("class_attention", "norm", "attention_received") else "norm"
space.choices(trained, shown, TokenDrop((block,), score), (half,))

# %% [markdown]
# ## Fate: what becomes of the others?
#
# *Discarded*, they are gone, and the kept tokens cannot look at them in later blocks. *Fused* (EViT), one more token
# stands for all of them, weighted by the class token's attention $a_r$:
#
# $$x_{N+1} = \sum_{r \notin K} a_r\, x_r$$

# %%
notebook.show_code(fates.fuse)

# %% [markdown]
# *Merged* (ToE), each joins the kept token that is most like it, and this becomes the mean of the group:
#
# $$x_k \leftarrow \frac{1}{1 + n_k} \Big( x_k + \sum_{r \to k} x_r \Big)$$

# %%
notebook.show_code(fates.merge)

# %% [markdown]
# *Skipping* (random-LTD) and *bypassing* (SkipViT), they wait and return to their places unchanged, after this block or
# after several: nothing is lost, and nothing is saved outside these blocks.

# %%
notebook.show_code(fates.put_back)

# %% [markdown]
# ## Each method on one image
#
# What the last block that reduces tokens computes, with about half of them left. White lines are the borders of tokens:
# merged ones are drawn as one area in its mean colour. Chosen by the network trained above, which none of the methods
# has trained; DynamicViT's predictor has learned nothing yet.

# %%
space.fates(trained, shown, methods)

# %% [markdown]
# ## Place: in which blocks?
#
# With $T$ tokens, width $E$ and an MLP $r$ times as wide, a block's forward pass takes
#
# $$\underbrace{8\,T E^2}_{\text{queries, keys, values, output}} + \underbrace{4\,T^2 E}_{\text{attention}} +
# \underbrace{4 r\,T E^2}_{\text{MLP}}$$
#
# operations. A block that drops *within* itself still needs keys and values of all tokens, as the kept ones look at the
# others for the last time; *before* the block, it needs none. The code that prices it:

# %%
from ptd_core import cost

notebook.show_code(cost._block)

# %%
from ptd_core.views.space import place_figure

place_figure(recipe, len(data.classes))

# %% [markdown]
# The earlier tokens go, the less is left to compute, and the less the network knows when it chooses: that is the
# bargain of this axis. A block that is skipped saves only itself.
#
# ## Schedule: how many, and when?
#
# Progressive Token Drop's $d(t)$ rises. Mirrored in time it costs as much and sees as many images, but its last epochs,
# with the smallest learning rates, see all tokens:
#
# $$d_{reversed}(t) = d(T - 1 - t)$$

# %%
from ptd_core import schedule

notebook.show_code(schedule.reversed_in_time, schedule.steps, schedule.flat, schedule.cyclic)

# %%
from ptd_core.schedule import DropSchedule, Stages
from ptd_core.views.space import courses_figure

length = 100
half_run = {"start": 20, "end": 70, "epochs": length}
courses = {
    "polynomial (PTD)": DropSchedule(**half_run),
    "reversed": DropSchedule(**half_run, shape="reversed"),
    "cosine (EViT)": DropSchedule(**half_run, shape="cosine"),
    "steps (ToE)": DropSchedule(epochs=length, shape="steps", stages=Stages((0.5, 0.75, 1.0), (1, 1, 1))),
    "flat, tail of 10 epochs": DropSchedule(final=0.5, start=0, shape="flat", epochs=length, tail=10),
    "cyclic (PSS)": DropSchedule(final=0.5, start=0, shape="cyclic", cycle=25),
}
courses_figure(courses, length)

# %% [markdown]
# Smaller images are the other way to few tokens first (`size_stages`), alone or together with token drop.
#
# ## Cost against kept tokens
#
# What each method's training step takes at equally many tokens after its last drop, relative to all tokens. Solid
# lines come from closed formulas, dashed ones are counted by torch on a model without data.

# %%
from ptd_core.evaluation.methods import keep_of
from ptd_core.views.space import cost_figure

cost_figure(methods, len(data.classes), keep_of)

# %% [markdown]
# ## A few points, trained
#
# The same small training with half of the tokens, chosen by class attention, by place alone, at random, and by the
# truth, beside all tokens. What does choosing well do for the network that is trained on the choice?

# %%
trainings |= {name: execute(point, dataset=data) for name, point in points.items() if name not in trainings}

# %%
space.compared(trainings)

# %% [markdown]
# One seed and one short training: points that lie near each other are equal as far as this shows, and `seed = 1` moves
# them. The class token's attention was learned by the very network that was trained on its choice, so its share of the
# object is another one than that of the network above.
#
# Look for yourself at any of the trained points:

# %%
from ptd_core.chapter import widgets

widgets.saliency_explorer(trainings.get("class_attention", trained))

# %% [markdown]
# ## Summary
#
# - Score, choice, fate, place and schedule: a published method is a choice of five values, a new one is another.
# - Where the object is known, scores can be compared with the truth; a prior that has seen no image is what to beat.
# - Fused and merged tokens need attention for all first; skipped ones are not lost and save less.
# - How early tokens go decides what is saved; how late, what the choice can know.
# - How many tokens are kept does not say what a step costs: compare methods by predicted or measured work.
#
# ## Exercises
#
# 1. Show another image (`-p image 3`), or ask another block: set `block = 3` below the training. Which scores change?
# 2. Write `parameters/space/mine.yaml`: random tokens that are merged, in block 1, few first. Where is its line?
# 3. Set `drop_final = 0.75`. Does the order of the trained points change?
# 4. Set `drop_choice = "sample"`. Does the share of the object fall, does accuracy?
# 5. Write a score of your own: one function and its key in `SCORES` of `ptd_core/saliency.py`. Does it beat the centre?
