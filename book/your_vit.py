# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Your own ViT, your own images
#
# **The question.** You have a vision transformer and a folder of images. Does training on fewer tokens pay *there*?
#
# Chapter 4 answers for one model and one dataset. This chapter is the way to an answer for yours, from the cheapest
# step to the dearest, so that you can stop as soon as one of them says no:
#
# 1. **look** at the data;
# 2. **predict** from operations what a policy can save;
# 3. **measure** a few steps: does your machine agree?
# 4. **train** three ways: all tokens, fewer tokens, and all tokens for as long as fewer tokens take;
# 5. **decide**, with intervals.
#
# Run all cells as they are, and this book's small ViT learns a folder of generated shapes. For your own, name the
# folder, a timm model and its arguments; images lie in class folders, with or without parts such as `train/` and
# `val/`:
#
# ```
# papermill book/your_vit.ipynb out.ipynb -p data_dir PATH_TO_IMAGES -p image_size 64 -p model deit_tiny_patch16_224 \
#     -p model_args patch_size:8
# ```

# %%
# %matplotlib inline
from ptd_core.chapter import decision, notebook, your_vit

before = notebook.names(globals())

# %% [markdown]
# ## Parameters
#
# The settings of a run, as in chapter 2. `drop_...` say which policy is tried: here the second block keeps half of the
# tokens for the first 45 % of the epochs, three quarters for the next 40 %, and all of them at the end. Few tokens
# first is the order that others report to pay. `weights` begins with a file of pretrained ones.

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
dataset: str = "folder"  # shapes (generated), cifar100, cifar10, folder (class folders) or parquet (hub shards)
data_dir: str = "data/shapes_as_images"  # where the dataset lies; shapes needs none
download: bool = True  # let torchvision download an absent CIFAR
label_column: str = ""  # of dataset parquet: column of labels; empty: the only one
images: str = "resident"  # resident in memory, or mapped from a file of decoded images (folder and parquet)
cache_dir: str = ""  # folder for that file; empty: cache/ in the project
image_size: int = 32  # image side in pixels; CIFAR has 32
size_stages: str = ""  # training image sides at shares of the run, as 24/28/32 at 60/20/20; empty: image_size
subset: int = 0  # training images, class-balanced; 0: all
test_subset: int = 0  # test images, class-balanced; 0: all
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
drop_block: int = 1  # block that drops tokens, counted from 0
drop_blocks: str = ""  # several such blocks, as 3, 6, 9; each drops of the tokens that reach it
drop_shares: str = ""  # for each of drop_blocks a factor of the drop ratio, as 1, 1.7, 2.2; empty: 1 each
drop_shape: str = "steps"  # polynomial, cosine, reversed (in time), steps, flat (from drop_start) or cyclic
drop_stages: str = ".5/.75/1 at 45/40/15"  # of drop_shape steps: kept shares at shares of the run, as .5/1 at 80/20
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
epochs: int = 8  # passes over the training images, or over epoch_images of them
epoch_images: int = 0  # training images an epoch, others in the next while enough are left; 0: all
batch_size: int = 32  # images a training step; an epoch omits its last, smaller batch
accumulate_steps: int = 1  # micro-batches of a batch, one by one, for memory; batch norm and dropout see each alone
eval_batch_size: int = 256  # images an evaluation step
eval_every: int = 8  # epochs between evaluations; the last epoch always has one
lr: float = 0.0015  # peak learning rate of AdamW
layer_decay: float = 1.0  # learning rate of each block over that of the next, down from the head; 1: one for all
frozen_blocks: int = 0  # first blocks not trained, nor stem, class token, positions; all: only the head is; 0: none
weight_decay: float = 0.05  # decoupled weight decay, on every parameter
warmup_epochs: int = 1  # epochs of linear warm-up, before the cosine
grad_clip: float = 1.0  # largest gradient norm; 0: no clipping
label_smoothing: float = 0.03  # label smoothing
ema_decay: float = 0.98  # decay of the weights' moving average; 0: off

# %%
recipe = your_vit.with_images(notebook.read_recipe(globals(), before, chapter="your_vit"))

# %% [markdown]
# The seeds with which each training is repeated. Two run the chapter through, but can hardly decide: their interval is
# the mean difference and 9 standard deviations of the differences on each side, that of three seeds 2.5, that of five
# 1.2.

# %%
repeats = (0, 1)

# %% [markdown]
# ## Look at the data
#
# Are the parts what they should be, are the classes of about the same size, and is no test image a training image too?
# A model that always says the largest class is right as often as the last column says: that is where learning begins.

# %%
data = recipe.load_dataset()
your_vit.checked(data)

# %%
from ptd_core.views.maps import sample_figure

sample_figure(data, data.train)

# %% [markdown]
# ## The model
#
# How many tokens are there to be dropped? With few, little can be saved: their number is what counts, and small patches
# or large images make many.

# %%
your_vit.facts(recipe, len(data.classes))

# %% [markdown]
# ## Predict
#
# For each policy the matrix products of the whole training, forward and backward, as a share of those with all tokens.
# `yours` is the policy of the parameters; the others have the same schedule, and differ in where tokens go and what
# becomes of them. If nothing here saves a tenth, expect little, and measure before you give up: a step may gain more
# than its operations say, or less.

# %%
candidates = your_vit.candidates(recipe)
your_vit.predicted(candidates, len(data.classes))

# %% [markdown]
# ## Measure
#
# A few training steps of each kind of epoch, in turn, so that other programs on the machine slow all of them alike.
# Small models on a GPU may gain nothing, because starting the operations takes longer than doing them; some numbers of
# tokens are slower than larger ones. Trust this table more than the one above, unless rounds differ by as much as there
# is to gain: then something else uses the machine.

# %%
steps = your_vit.measured(candidates)
steps.table

# %% [markdown]
# ## Train, three ways
#
# The third is the control that decides. Whoever has less time can also train with all tokens and stop earlier. Fewer
# tokens pay only if they beat *all tokens for as long as they take*.

# %%
arms = your_vit.arms(recipe, steps.shares["yours"])
your_vit.planned(arms, repeats, steps, data)

# %%
done = your_vit.trained(arms, repeats)

# %% [markdown]
# ## Where it looks
#
# Test images, the scores of the first run with fewer tokens, and what it would keep.

# %%
notebook.saliency(done.first)

# %% [markdown]
# ## The decision
#
# Differences are taken seed by seed; the 95 % intervals are Student's. "It pays" is said only if the whole interval
# against equal time lies above zero, and that against equal epochs above -0.3 points.

# %%
decision.decided(done)

# %% [markdown]
# How sure is that? As sure as the seeds are many and the trainings long. A model that has not learnt much yet gains
# more from another epoch than from anything else, so that short trainings favour whatever is faster. And what is found
# at one size of model and image need not hold at another: repeat the last two steps where you mean to train.
#
# ## Summary
#
# - Predict first: it costs seconds, and says at once where little can be expected.
# - Measure steps before training: operations do not know the machine.
# - Compare with all tokens in equal time. Nothing else tells whether saved time was worth it.
# - Decide by an interval, and say so where it does not decide.
#
# ## Exercises
#
# 1. Set `drop_shape = "polynomial"`, `drop_stages = ""`, `drop_block = 0` and `drop_end = 6`: the published curriculum,
#    scaled to 8 epochs. Does the decision change?
# 2. Set `repeats = (0, 1, 2, 3)`. By how much does the interval shrink?
# 3. Set `stem_stride = 8`: a quarter of the tokens. What is left to save?
# 4. Set `weights` to the `weights.safetensors` of a run in `runs/`, with `lr = 5e-4`: does fine-tuning need all tokens?
