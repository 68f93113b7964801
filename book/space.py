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
# 4. **place**: in which blocks? *Before* a block, or *within* it, so that the kept tokens still attend to the others
#    once?
# 5. **schedule**: how many tokens, and when in the training?
#
# (And a sixth, which is left aside here: EViT, ToMe, Evo-ViT and DynamicViT reduce tokens in evaluation too.
# `python -m ptd_core.evaluate` does that to any trained run; the runs here are evaluated with all tokens.)
#
# So they are points of one space, and each is one short file in `parameters/space`. This chapter draws the space, goes
# along its axes, shows each method at work on one image, and trains a few points. It is about how the methods work;
# which of them pays is a question for many seeds, and one run of each says nothing about it.
#
# Run all cells as they are, or hand the chapter other parameters; chapter 2 trains any single method:
#
# ```
# papermill book/space.ipynb out.ipynb -p drop_final 0.75
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
checkpoint_activations: bool = False  # compute blocks' activations again in the backward pass: less memory, same result
out_dir: str = ""  # folder that receives runs/; empty: the project's own
log: str = "none"  # none, or tensorboard: every record as a point of event files in the run's folder
checkpoint_every: int = 1  # epochs between checkpoints
checkpoint_seconds: float = 60.0  # seconds of training between checkpoints within an epoch; 0: none
weights_every: int = 0  # epochs between weights that are kept in files; 0: the first epoch's alone
dataset: str = "shapes"  # shapes (generated), cifar100, cifar10, folder (class folders) or parquet (hub shards)
data_dir: str = "data"  # where the dataset lies; shapes needs none
download: bool = True  # let torchvision download an absent CIFAR
label_column: str = ""  # of dataset parquet: column of labels; empty: the only one
images: str = "resident"  # resident in memory, or mapped from a file of decoded images (folder and parquet)
cache_dir: str = ""  # folder for that file; empty: cache/ in the project
image_size: int = 32  # image side in pixels; CIFAR has 32
size_stages: str = ""  # training image sides at shares of the run, as 24/28/32 at 60/20/20; empty: image_size
subset: int = 2000  # training images, class-balanced; 0: all
test_subset: int = 500  # test images, class-balanced; 0: all
model: str = "hybrid_vit"  # hybrid_vit, or the name of a timm ViT, as timm.list_models() gives it
model_args: str = ""  # arguments of the timm ViT, as patch_size:4, depth:6
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
drop_hold: bool = True  # hold drop_final after drop_end; False (polynomial, cosine): all tokens again
drop_block: int = 0  # block that drops tokens, counted from 0
drop_blocks: str = ""  # several such blocks, as 3, 6, 9; each drops of the tokens that reach it
drop_shares: str = ""  # for each of drop_blocks a factor of the drop ratio, as 1, 1.7, 2.2; empty: 1 each
drop_shape: str = "flat"  # polynomial, cosine, reversed (in time), steps, flat (from drop_start) or cyclic
drop_stages: str = ""  # of drop_shape steps: kept shares at shares of the run, as .5/1 at 80/20
drop_cycle: int = 0  # of drop_shape cyclic: epochs of a period
drop_tail: int = 0  # epochs at the end with all tokens, whatever the shape
drop_multiple: int = 1  # kept tokens are multiples of this
drop_score: str = "class_attention"  # what makes a token worth keeping: a key of SCORES in ptd_core/saliency.py
drop_score_block: int = -1  # of drop_score averaged_attention: block that it looks at; -1: the last
drop_choice: str = "top"  # top scores, sample (in proportion to them) or greedy (spread over the features)
drop_fate: str = "discard"  # discard, fuse (into one), merge (to the nearest), skip (the block), bypass (to drop_until)
drop_attended: str = "all"  # all or kept: what kept tokens attend to in that block; kept: tokens are dropped before it
drop_until: int = -1  # of drop_fate bypass: block before which tokens are back; -1: the last
crop: str = "padded"  # padded (zeros around, then a random crop) or resized (a random part of the image)
crop_scale_min: float = 0.08  # of crop resized: smallest share of the image's area; the largest is 1
crop_ratio_min: float = 0.75  # of crop resized: smallest width over height; the largest is 1 over that
crop_interpolation: str = "bicubic"  # of crop resized: bicubic or bilinear, both antialiased
crop_padding: int = 2  # of crop padded: zero padding in pixels
flip: bool = True  # random horizontal flip
rand_ops: int = 0  # RandAugment operations an image; 0: off
rand_magnitude: int = 7  # RandAugment magnitude, one of 31 bins
erase: float = 0.0  # probability of random erasing
mixup_alpha: float = 0.0  # Mixup: Beta(alpha, alpha); 0: off
cutmix_alpha: float = 0.0  # CutMix: Beta(alpha, alpha); 0: off
cutmix_share: float = 0.5  # share of batches that get CutMix where both are on
epochs: int = 5  # passes over the training images, or over epoch_images of them
epoch_images: int = 0  # training images an epoch, others in the next while enough are left; 0: all
batch_size: int = 32  # images a training step; an epoch omits its last, smaller batch
accumulate_steps: int = 1  # micro-batches of a batch, one by one, for memory; batch norm and dropout see each alone
eval_batch_size: int = 256  # images an evaluation step
eval_every: int = 5  # epochs between evaluations; the last epoch always has one
lr: float = 0.0015  # peak learning rate of AdamW
layer_decay: float = 1.0  # learning rate of each block over that of the next, down from the head; 1: one for all
frozen_blocks: int = 0  # first blocks not trained, nor stem, class token, positions; all: only the head is; 0: none
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
# Each line is a method, each column an axis. Seven of them are settings of one policy, `TokenDrop`. ToMe, Evo-ViT and
# DynamicViT do something in the block itself, or learn the choice, and are modules of their own in `ptd_core/rivals`;
# for them the axes say what comes nearest.

# %%
from ptd_core.views.space import space_figure

space_figure(methods)

# %% [markdown]
# The same as a table, computed from the files. The last column is what operations predict for a training step, forward
# and backward, when the last block that reduces tokens computes half of them. It is not a measured time:
# `python -m ptd_core.bench` measures, see `figures/bench`.

# %%
space.axes_table(methods, len(data.classes))

# %% [markdown]
# Two things can be seen before anything is trained. Equal numbers of kept tokens do not mean equal work: what counts is
# how early tokens go, and what is computed for the others. And a training step of DynamicViT costs more than one with
# all tokens: it masks them only, and asks a predictor and a teacher. Its gain is in evaluation.
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
picture = 1  # number of the test image that is shown
block = min(1, recipe.vit.depth - 1)  # the block that is asked
half = recipe.vit.patch_tokens // 2
shown = space.one_image(trained, picture)

# %% [markdown]
# ## Score: what makes a token worth keeping?
#
# A score is a function from what a block sees to one number for each patch token. Some ask the class token (its
# attention, chapter 2), some ask all tokens, some look at the token alone, some only at its place. With $x_i$ for patch
# token $i$ of $N$, and $A^h$ for the attention of head $h$ of $H$ between all $T = N + 1$ tokens, three of them are the
# norm, the attention received, and the distance to the others:
#
# $$s_i = \sqrt{\sum_e x_{i,e}^2}, \qquad s_i = \frac{1}{HT} \sum_{h} \sum_{j} A^h_{j,i}, \qquad
# s_i = 1 - \frac{1}{N-1} \sum_{j \ne i} \cos(x_i, x_j)$$

# %%
from ptd_core import saliency

notebook.show_code(saliency.norm_score, saliency.attention_received_score, saliency.distance_score)

# %% [markdown]
# One test image under the scores that can be asked of any trained network; light is high, each map on its own scale
# (`SCORES` has three more: the inverse, that of the averaged model, and a running gradient). Below it, the half
# of the tokens that the score keeps, and where the truth is known, the object's outline. *Oracle* is that truth: the
# object's share of each token's pixels. Tokens beyond the object have 0, and which of these it keeps means nothing.

# %%
space.scores(trained, shown, block, half)

# %% [markdown]
# Over many images, and for every number of tokens: how much of the objects lies under the kept tokens? The oracle is
# the ceiling, random tokens lie on the diagonal. The line *centre* is a warning. It looks at no image at all, and it is
# the best one after the oracle, because these objects lie wholly inside the image, so that their pixels gather in the
# middle. A curve far above the diagonal is therefore no proof that a score has found the object.

# %%
space.shares(trained, block)

# %% [markdown]
# ## Choice: the best, or a draw?
#
# The top tokens are those that the network favours already; a draw gives every token a chance. Tokens are drawn without
# replacement, each time in proportion to the scores of those that are left. That needs no loop: with independent Gumbel
# noise $g_i$, the largest values of
#
# $$\log s_i + g_i$$
#
# are such a draw. The third choice, *greedy*, as in ToE, does not rank tokens one by one. It takes half of the wanted
# number evenly spaced over the image and then, in two rounds, the tokens whose features are farthest from all those
# already taken.

# %%
from ptd_core.tokens import choices, fates

notebook.show_code(choices.sample)

# %%
score = "attention_received"  # any that needs neither a mask nor another model
space.choices(trained, shown, score, block, half)

# %% [markdown]
# ## Fate: what becomes of the others?
#
# *Discarded*, they are gone, and the kept tokens cannot look at them in later blocks. *Fused* (EViT), one more token
# stands for all of them, weighted by the class token's attention $a_i$. The weights do not add up to 1: if the class
# token attended little to the others, the new token is small.
#
# $$x_{fused} = \sum_{i\ dropped} a_i\, x_i$$

# %%
notebook.show_code(fates.fuse)

# %% [markdown]
# *Merged* (ToE), each joins the kept token that is most like it, and this becomes the mean of its group $G_i$, itself
# among them:
#
# $$x_i \leftarrow \frac{1}{|G_i|} \sum_{j \in G_i} x_j$$

# %%
notebook.show_code(fates.merge)

# %% [markdown]
# Tokens that *skip* a block (random-LTD) or *bypass* several (SkipViT) wait and return to their places unchanged:
# nothing is lost, and nothing is saved outside these blocks.

# %%
notebook.show_code(fates.put_back)

# %% [markdown]
# ## Three methods that are no such policy
#
# **ToMe** compares keys. In every block every second token finds the most similar one among the others, and the closest
# pairs become their mean, weighted by the number $n$ of patches that each stands for:
#
# $$x \leftarrow \frac{n_a x_a + n_b x_b}{n_a + n_b}$$
#
# Attention adds $\log n$ to the logits of a token, as if all its patches were still there. The one special part is the
# matching, who merges with whom:

# %%
from ptd_core.rivals import tome

notebook.show_code(tome.match)

# %% [markdown]
# **Evo-ViT** divides the tokens. *Slow* ones, of the highest class attention over the blocks so far, go through the
# block. The *fast* ones, all others, are represented there by one token $f$, their weighted mean; what the block adds
# to $f$ is added to each of them: $x_i \leftarrow x_i + \mathrm{Block}(f) - f$.
#
# **DynamicViT** learns the choice. A small predictor before a block gives each token a probability to stay; in training
# a draw with Gumbel noise decides, and dropped tokens are masked in attention so that gradient reaches the predictor.
# Two more losses ask for the wanted share of tokens and for a teacher's answers.
#
# ## Each method on one image
#
# What the last block that reduces tokens makes of one image, when it computes about half of them. Above each picture
# stands for how many patch tokens that block's MLP computes; EViT and Evo-ViT have one more, which stands for the rest.
# White lines are the borders of tokens; a merged token is drawn in the mean colour of its patches, which need not
# touch. The network is the one trained above, with none of these methods, and DynamicViT's predictor has learned
# nothing yet.

# %%
space.fates(trained, shown, methods)

# %% [markdown]
# ## Place: in which blocks?
#
# With $T$ tokens of width $E$ and an MLP $m$ times as wide, a block's forward pass takes
#
# $$8\,T E^2 + 4\,T^2 E + 4 m\,T E^2$$
#
# operations: for queries, keys, values and output; for attention; for the MLP. A block that drops *within* itself still
# needs keys and values of all tokens, as the kept ones attend to the others; one that drops *before* itself needs
# nothing of them, unless the score asks its attention. The code that prices it:

# %%
from ptd_core import cost

notebook.show_code(cost._block)

# %%
from ptd_core.views.space import place_figure

place_figure(recipe, len(data.classes))

# %% [markdown]
# Dropping early saves more, but the choice is made with less knowledge. If tokens skip one block, only that block gets
# cheaper. In this figure the kept tokens still attend to those that skip it; in random-LTD they do not, which saves a
# little more.
#
# ## Schedule: how many, and when?
#
# Progressive Token Drop's $d(t)$ rises. Mirrored in time it costs as much and sees as many images, but its last epochs,
# with the smallest learning rates, see all tokens. In a run of $R$ epochs, counted from 0:
#
# $$d_{reversed}(t) = d(R - 1 - t)$$

# %%
from ptd_core import schedule

notebook.show_code(schedule.reversed_in_time, schedule.steps, schedule.flat, schedule.cyclic)

# %%
from ptd_core.schedule import DropSchedule, Stages
from ptd_core.views.space import courses_figure

length = 100
rise = {"start": 20, "end": 70, "epochs": length}
courses = {
    "polynomial (PTD)": DropSchedule(**rise),
    "reversed": DropSchedule(**rise, shape="reversed"),
    "cosine (EViT)": DropSchedule(**rise, shape="cosine"),
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
# What each method's training step takes, relative to all tokens, where the last blocks that reduce tokens compute
# equally many. Solid lines come from closed formulas, dashed ones are counted by torch on a model without data.

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
# One seed, one short training, 500 test images: an accuracy is known to about 4 points and a difference of two to about
# 6, so points that lie nearer cannot be told apart, and `seed = 1` moves them. The dotted line is chance. The shares
# are those of the block that drops, each in the network that was trained on its own choice; the curves above asked
# another block of the one network that was trained with all tokens.
#
# Look for yourself at the point of class attention; `trainings` has the others:

# %%
from ptd_core.chapter import widgets

widgets.saliency_explorer(trainings.get("class_attention", trained))

# %% [markdown]
# ## Summary
#
# - Score, choice, fate, place and schedule: a published method is a choice of five values, a new one is another.
# - Where the object is known, scores can be compared with the truth; compare them with a blind prior first.
# - Within a block, fusing and merging need attention for all tokens first. Tokens that skip a block are not lost, and
#   later blocks save nothing.
# - Dropping early saves more and chooses with less knowledge.
# - How many tokens are kept does not say what a step costs: compare methods by predicted or measured work.
# - Whether any of them pays takes many seeds and controls: `parameters/sweeps/evidence` asks that, a file a question.
#
# ## Exercises
#
# 1. In the cell after the first training set `picture = 3`, or `block = 3`. Which scores change?
# 2. Write `parameters/space/mine.yaml`: random tokens that are merged, in block 1, few first. Where is its line?
# 3. Set `drop_final = 0.75`. Does the order of the trained points change?
# 4. Set `drop_choice = "sample"`. Does the share of the object fall, does accuracy?
# 5. Write a score of your own: one function and its key in `SCORES` of `ptd_core/saliency.py` (in `ASK_ATTENTION` too,
#    if it looks at attention). Restart the kernel and set `drop_score` to the key: it becomes one of the trained
#    points. Does it keep more of the object than the centre?
#
# ## Sources
#
# | method | published in | known differences here |
# | --- | --- | --- |
# | PTD | its repository, aumkeshchaudhary/Progressive-Token-Drop-ViT | none |
# | PatchDropout | Liu et al., WACV 2023 | none |
# | EViT | Liang et al., ICLR 2022 | blocks 1, 2, 3 (theirs 3, 6, 9 of 12); rounded down; all tokens in evaluation |
# | random-LTD | Yao et al., 2022 | none |
# | ToE | Huang et al., CVPR 2024 | before block 2 (theirs 1); in its second stage more seeds, fewer rounds |
# | SkipViT | Ataiefard et al., 2024 | none |
# | PSS | McDanel and Huynh, 2022 | its L1 norm; its cycles, here a cosine over epochs, theirs a triangle within each |
# | ToMe | Bolya et al., ICLR 2023 | all tokens in evaluation |
# | Evo-ViT | Xu et al., AAAI 2022 | from block 2 (theirs 4 of 12), epoch 2; its file names three more |
# | DynamicViT | Rao et al., NeurIPS 2021 | blocks 1, 2, 3 (theirs 3, 6, 9 of 12); the teacher is the averaged model |
