# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Progressive Token Drop
#
# **The question.** A vision transformer spends the same work on every patch of an image, also on the sky and the
# lawn. Can it *train* on fewer patches, chosen by itself, and still use all of them when it is done?
#
# Progressive Token Drop (PTD) answers with three ideas:
#
# 1. one block of the network keeps only the patch tokens that the class token attends to most;
# 2. how many it drops follows a curriculum: none at first, then gradually more;
# 3. evaluation never drops anything, so the trained network is an ordinary vision transformer.
#
# They are those of a public repository, aumkeshchaudhary/Progressive-Token-Drop-ViT, called *the original* below; it
# trains 3.04 million parameters on CIFAR-100, for 200 epochs.
#
# This chapter builds each idea from its equation, trains a model with it, looks at what was kept, and measures what
# was gained. Chapter 1, `baseline`, trains the same network with all tokens, and explains its parts to those who know
# convolutional networks but no transformers: patch tokens, the class token, attention, the block.
#
# Run all cells as they are: a small model learns generated shapes in minutes on two CPU cores; after its first steps
# the training prints an estimate. To run it on CIFAR-100, or at the published size, hand it one of the files in
# `parameters/`:
#
# ```
# papermill book/ptd.ipynb out.ipynb -f parameters/ptd_aug_small.yaml -p data_dir PATH_TO_CIFAR100
# ```

# %%
# %matplotlib inline
from ptd_core.chapter import notebook

before = notebook.names(globals())

# %% [markdown]
# ## The idea in two pictures
#
# The published curriculum over 200 epochs: nothing is dropped before epoch 40, then more and more, and from epoch 140
# on 35 % of the 256 patch tokens.

# %%
from ptd_core.schedule import DropSchedule
from ptd_core.views.curves import drop_figure

drop_figure(DropSchedule(), epochs=200, patch_tokens=256)

# %% [markdown]
# And the block that drops: left with all tokens, right as it trains at the end of that curriculum. Each box shows for
# how many tokens it computes, class token included.

# %%
from ptd_core.views.diagram import block_figure

block_figure(256, DropSchedule().kept(199, 256))

# %% [markdown]
# ## The run
#
# Every setting of what follows, one a line: `drop_init` to `drop_hold` are the curriculum of the first idea,
# `drop_block` is the block that drops. Change a value here, or give it to papermill. A name that is not in this list,
# or a value that makes no sense, stops the chapter in the cell below, before any data is read.

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
subset: int = 4000  # training images, class-balanced; 0: all
test_subset: int = 1000  # test images, class-balanced; 0: all
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
drop_final: float = 0.35  # drop ratio from drop_end on; 0 with drop_init 0 is the baseline
drop_start: int = 2  # epoch at which the drop ratio begins to rise, counted from 0
drop_end: int = 8  # epoch from which it is drop_final
drop_gamma: float = 2.0  # exponent of the rise
drop_hold: bool = True  # hold drop_final after drop_end; False (polynomial, cosine): all tokens again
drop_block: int = 0  # block that drops tokens, counted from 0
drop_blocks: str = ""  # several such blocks, as 3, 6, 9; each drops of the tokens that reach it
drop_shares: str = ""  # for each of drop_blocks a factor of the drop ratio, as 1, 1.7, 2.2; empty: 1 each
drop_shape: str = "polynomial"  # polynomial, cosine, reversed (in time), steps, flat (from drop_start) or cyclic
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
epochs: int = 10  # passes over the training images, or over epoch_images of them
epoch_images: int = 0  # training images an epoch, others in the next while enough are left; 0: all
batch_size: int = 64  # images a training step; an epoch omits its last, smaller batch
accumulate_steps: int = 1  # micro-batches of a batch, one by one, for memory; batch norm and dropout see each alone
eval_batch_size: int = 256  # images an evaluation step
eval_every: int = 1  # epochs between evaluations; the last epoch always has one
lr: float = 0.0015  # peak learning rate of AdamW
layer_decay: float = 1.0  # learning rate of each block over that of the next, down from the head; 1: one for all
frozen_blocks: int = 0  # first blocks not trained, nor stem, class token, positions; all: only the head is; 0: none
weight_decay: float = 0.05  # decoupled weight decay, on every parameter
warmup_epochs: int = 1  # epochs of linear warm-up, before the cosine
grad_clip: float = 1.0  # largest gradient norm; 0: no clipping
label_smoothing: float = 0.03  # label smoothing
ema_decay: float = 0.98  # decay of the weights' moving average; 0: off

# %%
recipe = notebook.read_recipe(globals(), before, chapter="ptd")
print(f"{recipe.run_name}: {recipe.dataset}, {recipe.epochs} epochs, {recipe.vit.patch_tokens} patch tokens")

# %% [markdown]
# ## The curriculum: how many tokens to drop, and when
#
# A network that has just been initialised attends to nothing in particular, so its choice of tokens would be blind.
# How many tokens should it lose, and from when on? In epoch $t$ a share $d(t)$ of the $N$ patch tokens is dropped. It
# starts at $d_{init}$, rises between the epochs $t_s$ and $t_e$, and stays at $d_{final}$:
#
# $$d(t) = d_{init} + \left(\frac{t - t_s}{t_e - t_s}\right)^{\gamma} (d_{final} - d_{init}), \qquad t_s \le t < t_e$$
#
# and $k(t) = \lfloor (1 - d(t))\, N \rfloor$ patch tokens are kept. With $\gamma > 1$ the network gets used to it
# slowly. The code that is used for it:

# %%
from ptd_core.schedule import polynomial, rising

notebook.show_code(polynomial, rising, DropSchedule.kept_at_ratio, DropSchedule.tokens_at_ratio)

# %% [markdown]
# In floating point $(1 - 0.9) \cdot 100$ is a little less than 10, and its floor 9: a token would be lost to rounding.
# Hence `SLIP`, which is $10^{-9}$. `NO_DROP` is $10^{-6}$: a smaller ratio drops nothing.

# %%
kept = [recipe.kept_tokens(epoch) for epoch in range(recipe.epochs)]
drop_figure(recipe.schedule, recipe.epochs, recipe.vit.patch_tokens, kept=kept)

# %% [markdown]
# Left the drop ratio, right the tokens that are left: a staircase, because an epoch has one $d$ and tokens are whole.
# What would other curricula do? Move the sliders: blue is their curriculum, dashed is this run (or, if it has settings
# without a slider, where the sliders start), grey the published curriculum stretched to the same length. The line above
# the curves says how much work the whole run saves, and what gain in speed that predicts; the button gives the settings
# as a file for papermill's `-f`.

# %%
from ptd_core.chapter import widgets

data = recipe.load_dataset()
widgets.drop_explorer(recipe, len(data.classes))

# %% [markdown]
# ## The images
#
# What is there to be dropped? The first training images, with the names of their classes:

# %%
from ptd_core.views.maps import sample_figure

sample_figure(data, data.train)

# %%
print(f"Each image of {recipe.image_size} x {recipe.image_size} pixels becomes {recipe.vit.patch_tokens} patch tokens,")
print(
    f"one for every {recipe.vit.stride} x {recipe.vit.stride} pixels; {len(data.classes)} classes, "
    f"{len(data.train):,} training and {len(data.test):,} test images."
)

# %% [markdown]
# ## Saliency: which tokens matter?
#
# The class token gathers what the classifier will see. Its attention row is how much it takes from each patch; the
# mean over the $H$ heads is the score of patch $i$:
#
# $$s_i = \frac{1}{H} \sum_{h=1}^{H} A^h_{0,i}, \qquad i = 1, \dots, N$$

# %%
from ptd_core import saliency

notebook.show_code(
    saliency.class_attention, saliency.patch_scores, saliency.class_attention_score, saliency.kept_tokens
)

# %% [markdown]
# `class_attention` is the row $A_{0,\cdot}$ of softmaxed attention, `patch_scores` is $s$, `class_attention_score`
# takes both from what a block sees, and `kept_tokens` takes the $k$ largest scores and always the class token. No
# gradient flows through the choice: a token is in or out. What these maps look like is shown below, once there is a
# trained network to ask.
#
# ## Dropping: saliency first, then only what is kept
#
# The straightforward way computes attention for all tokens and throws rows of the result away. But those rows need
# not be computed at all: keys and values are needed for all tokens, since the kept ones still look at the dropped
# ones in this block; queries, attention, projection and MLP only for the kept ones. The scores need a single query,
# that of the class token. With $K$ for the kept tokens and the class token, and $q$, $k$, $v$ made of $\mathrm{LN}(x)$,
#
# $$x_K \leftarrow x_K + \mathrm{Attention}(q_K,\, k_{0..N},\, v_{0..N}), \qquad
# x_K \leftarrow x_K + \mathrm{MLP}(\mathrm{LN}(x_K))$$
#
# Each box of the drawing shows for how many tokens it computes, class token included: left in evaluation, right in the
# last epoch of this run that drops tokens, in the first block that does.

# %%
from ptd_core.views.dropping import Dropping

keep = recipe.keep_at(Dropping.of(recipe).ratio) if any(recipe.keeps) else (recipe.vit.patch_tokens,)
block_figure(recipe.vit.patch_tokens, keep[0])

# %%
from ptd_core.token_drop import TokenDropViT

notebook.show_code(TokenDropViT._drop)

# %% [markdown]
# The network of chapter 1 knows nothing of this: `TokenDropViT` holds it and runs its own parts, block by block. So its
# weights, its evaluation and its export are those of a plain vision transformer, and timm's can stand in its place.
# All later blocks see the class token and the kept tokens only. The result equals full attention followed by a gather;
# the tests check that to rounding, gradients included.
#
# ## How much work is left?
#
# Counting matrix products and convolutions, forward and backward:

# %%
from ptd_core.parameters import decimals

whole = recipe.cost(len(data.classes)).training
rows = []
largest = max(decimals(recipe.drop_shares) or (1.0,))  # where blocks drop different shares
for ratio in (0.0, 0.1, 0.2, 0.35, 0.5):
    if largest * ratio >= 1:
        continue
    keep = recipe.keep_at(ratio)
    part = recipe.cost(len(data.classes), keep).training
    kept = keep[-1] if keep else recipe.vit.patch_tokens
    rows.append([ratio, kept, f"{part / 1e9:.4f}", f"{part / whole:.3f}", f"{whole / part:.3f}x"])
notebook.table(["drop ratio", "tokens kept", "training GFLOP an image", "share", "predicted speed-up"], rows)

# %%
with_drop, without = recipe.training_cost(len(data.classes))
print(f"over this run's {recipe.epochs} epochs: {100 * (1 - with_drop / without):.1f} % of the operations saved,")
print(f"so operations predict training {without / with_drop:.3f}x faster")

# %% [markdown]
# The work falls more slowly than the tokens: the stem and the drop block's keys and values cost what they did, and so
# does every epoch before the rise; during the rise only a part is saved. For the published curriculum at the published
# size operations predict 1.193x over a run when block 0 drops, and less when a later block does (`tests/test_cost.py`
# computes it for every block). It is a prediction and no limit: softmax and memory traffic are not in it, and a
# measured step may gain more. The original reports 1.3x. That compares two recipes: by its own logs 1.10x of it came
# with no token dropped, and an epoch fell from 225 to 202 s when a single token was dropped (257 tokens to 256): a jump
# of the hardware at that number of tokens, not work that was saved.
#
# ## Training
#
# Does the network learn with fewer and fewer tokens? AdamW with a linear warm-up and a cosine, gradients clipped,
# labels smoothed, and a moving average of the weights (EMA), which is what the results stand for. A run that is
# already finished with the same settings is shown again.

# %%
from ptd_core.run import execute

done = execute(recipe, dataset=data)

# %%
notebook.results(done)

# %% [markdown]
# Was it faster? The run's own epochs that dropped nothing show what an epoch with all tokens takes here (its very
# first, which warms up, is left out); beside it stands what operations predict. On a machine that does other work too,
# epochs differ by more than tokens do, and a run may seem slower than with all of them; `python -m ptd_core.bench`
# compares steps in turn and repeats them.

# %%
notebook.time_saved(done)

# %% [markdown]
# The first table has two training accuracies. The one on augmented batches is measured on distorted, perhaps mixed
# images, by the kept tokens only, while the weights still change; only the one on clean images, by all tokens, can be
# compared with test accuracy.

# %%
from ptd_core.views.curves import accuracy_figure, loss_figure, lr_figure

accuracy_figure(done.records, done.stamp)

# %%
last = done.records[-1]
print(
    f"After {len(done.records)} epochs {last.headline:.2f} % of the test images are right; on clean training images "
    f"{last.clean_train_accuracy:.2f} %: a gap of {last.clean_train_accuracy - last.headline:+.2f} points."
)

# %% [markdown]
# The losses, in nats. The one in training is that of the kept tokens, and has label smoothing and, if the recipe mixes,
# mixed labels in it, so that it cannot reach 0; the averaged weights lag behind the raw ones while the network learns
# fast.

# %%
loss_figure(done.records, done.stamp)

# %% [markdown]
# The learning rate at the end of each epoch: up during warm-up, then down along a cosine to 0. A curve that has become
# flat at the right edge says little: the last steps are small.

# %%
lr_figure(done.records, done.stamp)

# %% [markdown]
# ## What was kept
#
# Which tokens did the trained network find worth keeping? Test images, the scores in each block that drops tokens (here
# the class token's attention, unless `drop_score` says otherwise), and the tokens that the last epoch with fewer tokens
# would keep. Where the dataset knows where the object is
# (`shapes` does), its outline is red.

# %%
notebook.saliency(done)

# %% [markdown]
# Pictures persuade easily, so here is a number for them, where the truth is known: how much of the object lies under
# the kept tokens? Tokens chosen at random would cover as large a share of it as they are of all tokens: the dotted
# diagonal.

# %%
notebook.coverage(done)

# %% [markdown]
# A curve above the diagonal means that the score prefers places where the object is. With class attention in block 0
# the class token has not seen the image yet: its query is the same for every image, a learned question that each
# patch answers by its key. In the run of `parameters/demo.yaml` (its figure is `figures/demo/ptd_coverage.png`) that
# is enough: block 0 covers the objects best, and later blocks, whose tokens have already exchanged their contents,
# point less and less at places.
#
# Does the score find the object, then? Not necessarily. The shapes lie near the middle: with half of the tokens the
# middle of the image alone covers 98.75 % of their pixels, more than any score that looks at the image
# (`figures/object_kept` has all scores and blocks).
#
# Look for yourself: choose an image by click or arrow key, a score, a block, a head or their mean, a drop ratio or the
# epoch whose ratio it was; a run that drops in several blocks is shown as it drops, each block with the tokens that
# reach it; compare with the first epoch, or with no training. Outside a live notebook this works as well.

# %%
widgets.saliency_explorer(done)

# %% [markdown]
# With a live kernel, an image file of your own can be asked the same: add a cell with `widgets.own_image(done)`. Other
# runs of the same shape join the comparison by name: run chapter 1 with `run = "plain"`, and here add a cell with
# `from ptd_core import load_model` and `widgets.saliency_explorer(done, {"all tokens": load_model("plain")})`.

# %% [markdown]
# ## Beside the claims
#
# What does the original claim for CIFAR-100, 200 epochs, and what do its own logs show? These are not the figures of
# the run above, which stand in its own table; whether the claims hold here is chapter 4's question.

# %%
notebook.claims()

# %% [markdown]
# ## Summary
#
# - The curriculum $d(t)$ decides how many patch tokens one block keeps; saliency decides which.
# - Keys and values are computed for all tokens, everything else for kept ones only; evaluation uses all tokens.
# - Operations predict what can be gained; a fair measurement changes nothing but the tokens.
# - Where the object is known, one can count whether saliency keeps it, instead of being persuaded by a picture.
# - A fair comparison needs the same recipe with all tokens: `baseline_aug.yaml` beside `ptd_aug.yaml`.
#
# ## Exercises
#
# 1. Set `drop_block = 3`. Does the coverage of the block that drops tokens change? What happens to the predicted gain?
# 2. Set `drop_final = 0.8`. How much accuracy does it cost, and how much faster do the last epochs get?
# 3. Set `drop_start = 0` and `drop_end = 0`: no curriculum, the full drop ratio from the first step. Does it matter?
# 4. Set `drop_final = 0.0`: the control. Is the difference in accuracy larger than that between two seeds
#    (`seed = 1`)?
# 5. Set `drop_hold = False`: the tokens come back at `drop_end`. What do the last epochs gain?
