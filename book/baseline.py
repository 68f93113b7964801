# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. The baseline: a hybrid vision transformer
#
# **The question.** Before asking what dropping tokens changes, we need the network that it changes, trained with all
# of its tokens. How does a small vision transformer classify an image, and how well does it learn without tricks?
#
# This chapter builds the network from its parts, trains it, and looks at what its class token attends to. Chapter 2,
# `ptd`, trains the same network with fewer tokens.
#
# Run all cells as they are: a small model learns generated shapes in minutes on two CPU cores; after its first steps
# the training prints an estimate. To run it on CIFAR-100, or at the published size, hand it one of the files in
# `parameters/`:
#
# ```
# papermill book/baseline.ipynb out.ipynb -f parameters/baseline_small.yaml -p data_dir PATH_TO_CIFAR100
# ```

# %% [markdown]
# ## From a convolutional network to a transformer
#
# If you have trained a convolutional network, one change of view is enough. There, a feature map of height x width x
# channels goes from layer to layer, and each place hears from its neighbours. Here, the same map is read as a list:
#
# | a convolutional network says | a vision transformer says |
# |---|---|
# | one place of the feature map | a *patch token*, a vector of $E$ numbers |
# | a 3x3 convolution: each place hears from its neighbours | *attention*: each token hears from whichever it chooses |
# | a 1x1 convolution | the *MLP* on each token |
# | global average pooling before the classifier | the *class token*, one more token that gathers what is needed |
# | the place is where the number stands | the place is *added* to the token, as a learned position |

# %%
# %matplotlib inline
from ptd_core.chapter import notebook

before = notebook.names(globals())

# %% [markdown]
# ## The run
#
# Every setting of what follows, one a line. Change a value here, or give it to papermill. A name that is not in this
# list, or a value that makes no sense, stops the chapter in the cell below, before any data is read.

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
drop_final: float = 0.0  # drop ratio from drop_end on; 0 with drop_init 0 is the baseline
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
recipe = notebook.read_recipe(globals(), before, chapter="baseline")
print(f"{recipe.run_name}: {recipe.dataset}, {recipe.epochs} epochs, {recipe.vit.patch_tokens} patch tokens")

# %% [markdown]
# ## The images
#
# What is to be told apart? The first training images, with the names of their classes:

# %%
from ptd_core.views.maps import sample_figure

data = recipe.load_dataset()
sample_figure(data, data.train)

# %% [markdown]
# Training images are cropped and flipped at random and, if the recipe says so, distorted (RandAugment), partly erased
# and mixed, so that an image seldom looks the same in two epochs. The first images of epoch 0, as they are before
# mixing:

# %%
from ptd_core.data.dataset import Split
from ptd_core.trainer import Trainer

trainer = Trainer(recipe, data)
batch = next(trainer.batches.epoch(0))

sample_figure(data, Split((batch.images[:12].clamp(0, 1) * 255).byte(), batch.labels[:12]))

# %% [markdown]
# ## From image to tokens
#
# How does a picture become a list? Three convolutions, the *stem*, turn the image into a grid of $N$ patches with
# $E$ numbers each. A *class token*, the same for every image, goes in front, and each place gets a learned position:
#
# $$x = [\,x_{cls};\; \mathrm{stem}(\mathrm{image})\,] + p, \qquad x \in \mathbb{R}^{(1 + N) \times E}$$

# %%
from ptd_core.model import Attention, Block, HybridViT

notebook.show_code(HybridViT.embed)

# %% [markdown]
# ## Attention
#
# How does a token choose whom to listen to? In each of $H$ heads every token asks a question (query $q$), offers a
# description (key $k$) and a content (value $v$): three linear maps of it, each of width $D = E / H$. How much token
# $i$ takes from token $j$ is
#
# $$A_{ij} = \mathrm{softmax}_j\left(\frac{q_i \cdot k_j}{\sqrt{D}}\right), \qquad \mathrm{out}_i = \sum_j A_{ij} v_j$$
#
# and one more linear map makes $E$ numbers again of what the heads have found.

# %%
notebook.show_code(Attention.forward)

# %% [markdown]
# The fused kernel computes the same without ever holding the table $A$ in memory.
#
# ## The block
#
# How is a layer made of it? Attention mixes tokens, the MLP works on each of them. Each of the two reads a normalised
# copy of the tokens (layer normalisation, LN), and what it finds is added to the tokens themselves:
#
# $$x \leftarrow x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad x \leftarrow x + \mathrm{MLP}(\mathrm{LN}(x))$$

# %%
notebook.show_code(Block.forward)

# %% [markdown]
# As a drawing, left, with the number of tokens that each step works on; the right half, a block that keeps half of
# them, is what chapter 2 does with it:

# %%
from ptd_core.views.diagram import block_figure

block_figure(recipe.vit.patch_tokens, max(1, recipe.vit.patch_tokens // 2))

# %% [markdown]
# After the last block and one more LN the class token alone goes to the classifier. This run's network:

# %%
price = recipe.cost(len(data.classes))
parameters = sum(p.numel() for p in trainer.model.parameters())
vit = recipe.vit
tokens = vit.prefix_tokens + vit.patch_tokens
print(f"{parameters:,} parameters, {vit.depth} blocks, {vit.num_heads} heads, {tokens} tokens")
print(f"{price.forward / 1e9:.4f} GFLOP an image forward, {price.training / 1e9:.4f} in training")

# %% [markdown]
# ## Training
#
# How well does it learn? AdamW with a linear warm-up and a cosine, gradients clipped, labels smoothed, and a moving
# average of the weights (EMA), which is what the results stand for. A run that is already finished with the same
# settings is shown again.

# %%
from ptd_core.run import execute

done = execute(recipe, dataset=data)

# %%
notebook.results(done)

# %% [markdown]
# The table has two training accuracies. The one on augmented batches is measured on distorted images, while
# the weights still change; only the one on clean images can be compared with test accuracy.

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
# The losses, in nats. The one in training has label smoothing and, if the recipe mixes, mixed labels in it, so that it
# cannot reach 0; the averaged weights lag behind the raw ones while the network learns fast.

# %%
loss_figure(done.records, done.stamp)

# %% [markdown]
# The learning rate at the end of each epoch: up during warm-up, then down along a cosine to 0.

# %%
lr_figure(done.records, done.stamp)

# %% [markdown]
# ## Where does the class token look?
#
# The class token's attention in the first block, mean over heads, on test images; below it, the half of the patch
# tokens that it attends to most. Nothing was dropped in this training: nobody asked the network to choose.

# %%
half = (max(1, recipe.vit.patch_tokens // 2),)
notebook.saliency(done, notebook.by_attention(done, block=0), keep=half)

# %% [markdown]
# And in the last block, whose tokens have already heard from each other:

# %%
notebook.saliency(done, notebook.by_attention(done, block=recipe.vit.depth - 1), keep=half)

# %% [markdown]
# Does it lie on the object? Eight pictures cannot tell; chapter 2 counts. In three small networks, trained on these
# shapes with some tokens dropped, half of the tokens covered 93 % of the objects' pixels by the first block's attention
# and 52 %, as good as chance, by the last one's (`figures/object_kept`).
#
# Look for yourself: choose an image by click or arrow key, a score, a block, a head or their mean, and a drop ratio to
# see which tokens it would keep; compare with the weights that training began with. This works outside a live notebook
# as well.

# %%
from ptd_core.chapter import widgets

widgets.saliency_explorer(done)

# %% [markdown]
# ## Beside the claims
#
# What did the original, the public repository aumkeshchaudhary/Progressive-Token-Drop-ViT, report for its baseline?
# What it claims for CIFAR-100, 200 epochs, and what its own logs show. These are not the figures of the run above,
# which stand in its own table.

# %%
notebook.claims()

# %% [markdown]
# ## Summary
#
# - A stem makes tokens, blocks mix them, the class token answers.
# - The cost of a block grows with the number of tokens; attention is the smaller part of it at this size.
# - The class token's attention is a by-product. Whether it lies on the object differs from block to block; chapter 2
#   measures that, and drops tokens by it.
#
# ## Exercises
#
# 1. Set `stem_stride = 2`: four times as many tokens. What happens to the time, and to the maps?
# 2. Set `ema_decay = 0.0`. How far apart were the two test curves before, and who was ahead early on?
# 3. Set `rand_ops = 2` and `erase = 0.25`. Which of the training accuracies moves, and does the test follow?
# 4. In the explorer, go through the blocks: in which does attention lie on the object? Is it the same with `depth = 2`?
