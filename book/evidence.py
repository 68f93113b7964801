# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Does it pay? The evidence
#
# **The question.** Does training on fewer tokens save time at no loss, and how? Chapters 2 and 3 show how token drop
# works, but a single run says nothing about its worth. This chapter lists every statement of the original and tests
# those that it can, by runs with controls and several seeds; the ledger at its end says which it could not. It trains
# nothing: it reads published records, in `figures/evidence`, and draws what they say.
#
# Four rules; a question that does not keep one of them says so.
#
# 1. **Paired.** Runs of the same seed begin with the same weights and see the same images, in one order, augmented
#    alike, but for what is compared. Differences are taken within a seed.
# 2. **With an interval.** A mean difference $\bar\delta$ of $n$ seeds has the 95 % interval
#    $\bar\delta \pm t_{n-1}\, s / \sqrt{n}$, $s$ the standard deviation of the differences and $t_{n-1}$ the quantile
#    of Student's distribution. The bootstrap's interval stands beside it in tables of differences; with five seeds it
#    is too narrow, so verdicts are taken from $t$. Three seeds may agree by luck, and give a narrow interval: a small
#    difference of three seeds needs more of them before it is believed.
# 3. **Named beforehand.** Every question is a file in `parameters/sweeps/evidence`, with its arms, its controls and
#    its seeds, and all of its runs are shown. Accuracy is that of the last epoch, never of the best.
# 4. **Against equal time.** Whoever saves a quarter of the time could as well train with all tokens for three quarters
#    of the epochs. Token drop pays only if it beats that: the questions about what pays ask for it. Equal time is equal
#    operations here, as nearly as whole epochs allow (97 to 103 %); what the clock says is a question of its own.
#
# Differences are in percentage points of accuracy. "No loss" is said where the whole interval lies above -0.3 points, a
# margin that was declared beforehand. "No loss" says so of any control; where it is not all tokens, it does not mean
# that token drop loses nothing. Where an interval holds zero, no difference is seen, and its ends say how large a
# difference could be hidden. About one interval in twenty misses the truth: a single small difference among many proves
# little.

# %%
# %matplotlib inline
from ptd_core.chapter import evidence, notebook

before = notebook.names(globals(), evidence.Again.model_fields)

# %% [markdown]
# ## Parameters
#
# As it stands, the chapter shows published records. To run a question again, name it; a stopped sweep is resumed by
# the same parameters. Most take hours on two cores; each says below how many. `changes` makes them smaller.
#
# ```
# papermill book/evidence.ipynb out.ipynb -p question own_effect -p data_dir PATH_TO_CIFAR100 -p changes "epochs=2"
# ```

# %% tags=["parameters"]
question: str = ""  # question to run again, a file's name in parameters/sweeps/evidence
data_dir: str = "data"  # where CIFAR-100 lies
out_dir: str = ""  # folder that receives runs/; empty: the project's own
workers: int = 1  # runs at once, one thread each
changes: str = ""  # by which its runs differ from the file: names and values, each joined by an equals sign

# %%
again = evidence.read_again(globals(), before)

# %% [markdown]
# ## In short
#
# Fourteen ways of training on fewer tokens (*arms*) were compared with all tokens, in as many epochs and for as many
# operations. None was shown to lose nothing against as many epochs; each beats all tokens for as many operations.

# %%
in_short = """
- The arm that promised most was trained again, with fifteen fresh seeds: block 0 keeps 40 % of the patch tokens, then
  70 %, then all. Training with all tokens for as many epochs takes {steps_40_block_0-all_tokens:saving} the arm's
  operations. Against it: {steps_40_block_0-all_tokens:size}; no loss needs the interval above -0.3.
- Against all tokens in fewer epochs, for about as many operations: {steps_40_block_0-all_tokens_14:size}.
"""
confirm = evidence.found("confirm", again)
evidence.finding(confirm, in_short)

# %% [markdown]
# ## The model size
#
# Questions with many seeds need a model that two CPU cores can train many times, and one that has learnt something:
# `parameters/evidence.yaml`, 0.27 million parameters, and all of real CIFAR-100 four times. An epoch is a fifth of the
# images, so that a curriculum has twenty epochs, each in the place of ten of the published two hundred. Width, learning
# rate and augmentation were decided by these runs with all tokens only, so that nothing is tuned in favour of token
# drop. One seed each is enough to choose by, not to conclude from. The arms *no_crop* and *lr_1e-3* take images
# as they are, but for mirroring; the other three also crop at random (*width_64* is *no_crop* with this).
#
# So few passes leave a model underfitted: it knows the training images hardly better than the test images. The next
# question, which is about overfitting, takes few images many times instead.

# %%
control = evidence.found("control", again)
evidence.status(control)

# %%
evidence.accuracies(control)

# %% [markdown]
# ## Token drop's own effect, and that of Mixup and CutMix
#
# The original reports that token drop alone overfits, and that with much regularisation it beats a baseline with
# little; so it concludes that regularisation is essential. The latter comparison changes several things at once. Here
# token drop and Mixup/CutMix are changed one at a time: two by two, all else equal. Models with Mixup and CutMix are
# far from fitting even these few images; what stronger models would do is another question.

# %%
own_effect = evidence.found("own_effect", again)
evidence.status(own_effect)

# %%
evidence.differences(own_effect)

# %%
evidence.effects(own_effect)

# %%
findings = """
- Token drop alone, against none of the three: {ptd_only-plain}.
- Mixup and CutMix alone, against none: {mix-plain}.
- Token drop with them, against them alone: {ptd_mix-mix}.
- How Mixup and CutMix change token drop's effect (the interaction): {plain-ptd_only-mix-ptd_mix}.
- Token drop, Mixup and CutMix together, against none, as the original compares: {ptd_mix-plain}.
- With the raw weights instead of their moving average: token drop alone {ptd_only-plain:test_accuracy_raw}; with Mixup
  and CutMix {ptd_mix-mix:test_accuracy_raw}.
- Accuracy on clean training images: {plain:clean_train_accuracy} with none, {ptd_only:clean_train_accuracy} with token
  drop, {mix:clean_train_accuracy} with Mixup and CutMix, {ptd_mix:clean_train_accuracy} with all three.
- So token drop alone changes the gap between training and test images by {ptd_only-plain:gap}.
"""
evidence.finding(own_effect, findings)

# %% [markdown]
# ## Direction, and what pays
#
# The published curriculum begins with all tokens and ends with few. Its mirror image drops as many and costs the same,
# but ends with all tokens, as evaluation has them. The controls are all tokens for as many epochs, and for fewer: those
# whose operations come nearest to the arm's. These two, *ptd* and *ptd_mirrored*, drop tokens in block 0. The other
# arms:
#
# | arm | tokens in training |
# |---|---|
# | *steps_50*, *steps_40* | 50 % (40 %) for 45 % of the epochs, then 75 % (70 %) for 40 %, then all; in block 1 |
# | *steps_50_no_tail* | 50 % for 60 % of the epochs, then 75 % to the end; in block 1 |
# | *steps_50_fuse*, *steps_50_merge* | as *steps_50*, but dropped tokens are fused into one, or merged into kept ones |
# | *flat* | 65 % in every epoch, in block 1 |
# | *sizes* | all tokens of images of 24, then 28, then 32 pixels a side, for 60, 20 and 20 % of the epochs |
# | *sizes_and_steps* | *sizes*, and of these tokens the shares of *steps_50* |

# %%
direction = evidence.found("direction", again)
evidence.status(direction)

# %%
evidence.differences(direction)

# %%
evidence.effects(direction)

# %% [markdown]
# What each arm reaches against what its whole training costs, in operations. The grey line is all tokens in fewer
# epochs: an arm can pay only above that line. A bar is the interval of one arm's mean; a seed moves all arms together,
# so whether two of them differ is told by the differences above.

# %%
evidence.pays(direction)

# %% [markdown]
# In so short a training an epoch left out costs all tokens more than half a point on average, so that every arm is far
# above the line. Long ones were not run: on a flatter line these gains would be smaller, and a loss would weigh more.
#
# How far to the left of the line an arm lies is what it saves at equal accuracy. The table gives the operations that
# all tokens need for the arm's accuracy, all epochs of all tokens being 1, interpolated between epochs in every seed.
# Its interval holds every number of operations at which arm and line cannot be told apart; *beyond 1.00* is more than
# was trained, where the line is not known. This was added when all of these runs were known, and no rule uses it.

# %%
evidence.equal_accuracy(direction)

# %%
findings = """
- The mirror image of the published curriculum, against it, at equal cost: {ptd_mirrored-ptd}.
- The published one against all tokens for as many epochs: {ptd-all_tokens}; for as many operations:
  {ptd-all_tokens_17}.
- Its mirror image likewise: {ptd_mirrored-all_tokens}; for as many operations: {ptd_mirrored-all_tokens_17}.
- Steps up from half of the tokens: {steps_50-all_tokens}; for as many operations: {steps_50-all_tokens_16}.
- Steps up from 40 %: {steps_40-all_tokens}; for as many operations: {steps_40-all_tokens_15}.
- Dropped tokens fused, against discarded: {steps_50_fuse-steps_50}; merged: {steps_50_merge-steps_50}.
- Equally many tokens in every epoch: {flat-all_tokens}; for as many operations: {flat-all_tokens_16}.
- Smaller images first: {sizes-all_tokens}; for as many operations: {sizes-all_tokens_13}.
- Smaller images first, and steps: {sizes_and_steps-all_tokens}; for as many operations:
  {sizes_and_steps-all_tokens_11}.
- Accuracy on training images with all tokens: {all_tokens:clean_train_accuracy}, on test images: {all_tokens}.
"""
evidence.finding(direction, findings)

# %% [markdown]
# Which one can be recommended? The rule was fixed when two of these 80 runs were finished, those of all tokens and of
# the published curriculum with seed 0: of the arms whose interval against all tokens lies above -0.3 points, and whose
# interval against all tokens in fewer epochs lies above zero, the one that saves most operations; five seeds each. Of
# ten arms one may pass by luck, so one needs confirming on seeds that had no part in the choice: the one that saves
# most of those that would pass if fifteen other seeds gave the same mean and spread. (This was added when three seeds
# were known: five seeds may be too few to show no loss even of an arm that loses nothing.) The clock has no part in the
# rule: where it saves less than operations say, an arm's time would pay for more epochs of all tokens.

# %%
evidence.recommended(direction)

# %% [markdown]
# ## Can more be saved?
#
# Steps that begin with a quarter of the tokens, steps in the first block, steps on smaller images: arms that save 1.4x
# to 1.5x, where those above save at most 1.31x with whole images; with the same controls and the same rule. They were
# named when three seeds of the question above were known.

# %%
steeper = evidence.found("steeper", again)
evidence.status(steeper)

# %%
evidence.differences(steeper)

# %%
evidence.pays(steeper, direction)

# %%
evidence.equal_accuracy(steeper, direction)

# %%
findings = """
- Steps up from 40 % of the tokens in block 0: {steps_40_block_0-all_tokens}; for as many operations:
  {steps_40_block_0-all_tokens_14}.
- Steps up from a quarter of the tokens in block 1: {steps_25-all_tokens}; for as many operations:
  {steps_25-all_tokens_14}.
- With dropped tokens merged: {steps_25_merge-all_tokens}; against discarding them: {steps_25_merge-steps_25}.
- Smaller images and steps: {sizes_28_and_steps_40-all_tokens}; for as many operations:
  {sizes_28_and_steps_40-all_tokens_13}.
"""
evidence.finding(steeper, findings)

# %%
evidence.recommended(steeper)

# %% [markdown]
# ## Does it hold on other seeds?
#
# Whatever was chosen for its results has luck in them. So of the two arms worth confirming, one of each question above,
# the one that saves more is trained again, beside all tokens in as many epochs and for as many operations, with fifteen
# seeds that had no part in the choice; nothing is decided before all of them are there. Even fifteen may be too few.
# Each column of the table assumes a true difference from all tokens, and each line a standard deviation of the
# differences, that of seeds known before; the cell is the chance that fifteen seeds show no loss.

# %%
evidence.status(confirm)

# %%
evidence.chances(confirm, steeper)

# %%
evidence.differences(confirm)

# %%
evidence.recommended(confirm)

# %%
findings = """
- The mean difference is {steps_40_block_0-all_tokens:size}; single ones reach from
  {steps_40_block_0-all_tokens:range}.
- Over seeds the arm's accuracy has a standard deviation of {steps_40_block_0:sd}, that of all tokens
  {all_tokens:sd}. (Noticed when all runs were known.)
"""
evidence.finding(confirm, findings)

# %% [markdown]
# With the five seeds that chose the arm there are twenty. This was added when all runs were known, and no rule uses it:
# the arm was chosen because it did well on these five, so the interval is too favourable.

# %%
findings = """
- Twenty seeds: {steps_40_block_0-all_tokens:size}.
"""
evidence.finding(evidence.together(confirm, steeper), findings)

# %% [markdown]
# The other arm worth confirming saves less. It is tested in the same way, with the same seeds and beside the same runs
# of all tokens. Five seeds estimate its standard deviation poorly, and a small one helped it to be chosen; the second
# line of the table takes the other arm's, from the fifteen seeds above. With two arms asked, the chance that one passes
# by luck is up to twice as large.

# %%
confirm_in_block_1 = evidence.found("confirm_in_block_1", again)
evidence.status(confirm_in_block_1)

# %%
evidence.chances(confirm_in_block_1, direction, confirm)

# %%
evidence.differences(confirm_in_block_1)

# %%
evidence.recommended(confirm_in_block_1)

# %% [markdown]
# ## Which way of training, then?
#
# "No loss" of the arm that saves more is not shown: its mean difference is zero, and its interval reaches below -0.3.
# So unless the other arm passes, no way of training is recommended here as one that loses nothing. A loss beyond the
# interval's lower end is unlikely. If you can accept a loss up to there:

# %%
card = """
- **What to do.** Keep 40 % of the patch tokens in block 0 for the first 45 % of the epochs, 70 % for the next 40 %,
  then all. That this order matters is not shown. The arm beat all tokens for as many operations on fifteen fresh
  seeds; that it loses nothing was not shown. The arms that save more, by smaller images, lose accuracy.
- **What it gives.** Training with all tokens for as many epochs takes {steps_40_block_0-all_tokens:saving} the arm's
  operations. Against it: {steps_40_block_0-all_tokens:size}. Against all tokens for as many operations:
  {steps_40_block_0-all_tokens_14:size}. That is what 20 epochs with all tokens give over 14:
  {all_tokens-all_tokens_14:size}. Where six more epochs bring less, as they may in longer trainings, which were not
  run, this would be less too.
- **Settings.** `drop_block=0 drop_shape=steps "drop_stages=.4/.7/1 at 45/40/15"`, everything else as it was. In a loop
  of your own `TokenDrop(blocks=(0,))` and `DropSchedule(shape="steps", epochs=epochs, stages=Stages((0.4, 0.7, 1.0),
  (45, 40, 15)))`. Of steps few others were tried: 25, 40 and 50 % in block 1.
- **What it costs.** Seconds are not known yet: these runs shared a machine, and the ratio to all tokens differs too
  much between seeds. The next section asks for runs that have it to themselves. Peak memory is not smaller: the last
  epochs have all tokens. A compiled model is compiled for three numbers of tokens.
- **When not.** If no loss is allowed. In fine-tuning itself PTD's curriculum did a little worse (three seeds, see
  Transfer); this arm was not tried there. With windows of tokens, as in Swin, it is refused. Large models were not run.
- **What would change this.** Another size or other data: `parameters/sweeps/full/full_confirm.yaml` asks at the
  published size, which wants a GPU. More seeds here would be a new question, all of them new.
"""
evidence.finding(confirm, card)

# %% [markdown]
# ## Time on the clock
#
# Operations predict one saving, a machine shows another. In the original's logs nearly half of the time that dropping
# tokens saved came at once, with the first dropped token: 257 tokens were slow on that machine and 256 were not. So one
# arm drops a single token. The others are direction's and the one that `confirm` asks about; each is trained through
# all of its epochs, on a fifth of their images, alone on the machine, by turns.

# %%
speed = evidence.found("speed", again)
evidence.status(speed)

# %%
evidence.times(speed)

# %%
evidence.times_table(speed)

# %% [markdown]
# ## Which score
#
# Half of the tokens in every epoch, by each score; a random choice is the control. In block 0 the class token is the
# same for every image, so its attention is a fixed probe of patch features; in block 2 it has seen the image.
# *averaged* is class attention of the moving average of the weights, at the price of a further pass. Of so many
# differences, three seeds each, one may keep clear of zero by luck.

# %%
scores = evidence.found("scores", again)
evidence.status(scores)

# %%
evidence.differences(scores)

# %%
findings = """
- Class attention against a random choice: in block 0 {class_attention_0-random_0}; in block 2
  {class_attention_2-random_2}.
- The opposite choice against a random one: {inverse_0-random_0}; {inverse_2-random_2}.
- The centre tokens, whatever the image, against a random choice: {centre_0-random_0}; {centre_2-random_2}.
- The norm of the tokens, against a random choice: {norm_0-random_0}; {norm_2-random_2}.
- Half of the tokens in every epoch, against all tokens, in block 0: by class attention {class_attention_0-all_tokens};
  at random {random_0-all_tokens}; by the centre {centre_0-all_tokens}.
- The same in block 2: by class attention {class_attention_2-all_tokens}; at random {random_2-all_tokens}; by the centre
  {centre_2-all_tokens}.
"""
evidence.finding(scores, findings)

# %%
scores_five_seeds = evidence.found("scores_five_seeds", again)
findings = """
- These three seeds and two more, class attention against a random choice: in block 0
  {class_attention_0-random_0}; in block 2 {class_attention_2-random_2}.
"""
evidence.finding(scores_five_seeds, findings)

# %% [markdown]
# ## Which block, which curriculum
#
# Two seeds each: only large differences can be seen. Where both happen to agree, the interval is narrow by luck, and
# *better* or *worse* says little.

# %%
place = evidence.found("place", again)
evidence.status(place)

# %%
evidence.differences(place)

# %%
findings = """
- Against block 0: block 1 {block_1-ptd}; block 2 {block_2-ptd}; block 3 {block_3-ptd}.
- Blocks 0, 1 and 2, which together drop as much, against block 0 alone: {blocks_0_1_2-ptd}.
"""
evidence.finding(place, findings)

# %%
curriculum = evidence.found("curriculum", again)
evidence.status(curriculum)

# %%
evidence.differences(curriculum)

# %%
findings = """
- Against the published end, 35 %: at most 20 % dropped {final_20-ptd}; 50 % {final_50-ptd}; 65 % {final_65-ptd}.
- Against its course, which rises from epoch 4 to 14: from epoch 0 {start_0-ptd}; to epoch 20 {end_20-ptd}; in a
  straight line {linear-ptd}; 35 % in every epoch {at_once-ptd}; all tokens again from epoch 14 on {released-ptd}.
"""
evidence.finding(curriculum, findings)

# %% [markdown]
# Two of nine intervals keep clear of zero, where both seeds agree to 0.02 points, as luck can have it. Both say that
# the arm that drops fewer tokens is more accurate; it also costs more, and nothing here is compared at equal cost.

# %% [markdown]
# ## Does attention feed back on itself?
#
# Token drop trains a model on what its own attention keeps. If that made attention concentrate on ever the same tokens,
# a token once dropped would never come back. So after each epoch, on 1,000 test images with all tokens, we look which
# 41 of 64 tokens class attention would keep, as many as the curriculum keeps at its end: in models trained with PTD,
# and in models that never dropped any. The panels show how evenly attention is spread, how many of the kept tokens are
# new since the epoch before, and how many of them the last epoch's model would drop.

# %%
feedback = evidence.found("feedback", again)
evidence.status(feedback)

# %%
evidence.attention(feedback, again)

# %%
evidence.looked_again(evidence.Feedback())

# %% [markdown]
# In block 0, where PTD drops tokens, training with it changes none of this visibly. In the last one, 3, models trained
# with PTD have a little more of their attention on the tokens that it would keep.
#
# ## Fewer tokens at evaluation
#
# Evaluation above uses all tokens. Trained models can also be evaluated on fewer, chosen by one score or another, or
# merged: `python -m ptd_core.evaluate` does that to any run. The sentence below the picture is about block 0, where PTD
# drops tokens in training. With a quarter of the tokens there, class attention did worse than chance in all three
# seeds of both trainings, in one of them by two images only; neither interval shows it.
#
# ```
# python -m ptd_core.evaluate runs/evidence_all_tokens_seed[0-2] runs/evidence_ptd_seed[0-2] \
#   keep=1,.75,.5,.25 drop_method=token_drop,tome drop_score=class_attention,random \
#   drop_block=0,2 data_dir=PATH_TO_CIFAR100 --rounds 0 --to figures/evidence/fewer_tokens
# ```

# %%
evidence.fewer_tokens()

# %%
evidence.looked_again(evidence.FewerTokens())

# %% [markdown]
# ## Transfer
#
# A model that was trained with token drop may have learned different features. Its weights are fine-tuned on another
# dataset, beside those of a model that saw all tokens, and beside one trained from random weights.

# %%
transfer = evidence.found("transfer", again)
evidence.status(transfer)

# %%
evidence.differences(transfer)

# %%
findings = """
- Learned with token drop against learned with all tokens, both fine-tuned with all: {ptd_then_all-all_then_all}.
- Fine-tuned with token drop against with all tokens: {all_then_ptd-all_then_all}.
- Fine-tuned against trained from random weights: {all_then_all-scratch}.
"""
evidence.finding(transfer, findings)

# %% [markdown]
# ## The claim ledger
#
# Every statement of the original's README: its results, the causes that it names, its limitations and its plans. What
# its own logs show, what was found here, and a verdict. A verdict on a difference follows from its interval: *holds* if
# all of it lies on the claimed side of zero (for "no loss": of -0.3), *refuted* if all of it lies on the other, else
# *not supported*. Where no difference decides, the row says what does. *Holds in part*: a part of the statement holds,
# the rest does not or was not tested. *Measured*: the original leaves it open, and here is a size. A limitation
# holds if it is real. These runs are smaller than the original's: a verdict is one at this size.

# %%
evidence.ledger()

# %% [markdown]
# ## Summary
#
# - A comparison that changes two things at once cannot say which of them worked.
# - A single run has no interval; with two seeds only large differences can be seen.
# - Saved time is worth something only if the same time, spent on all tokens, gives less. At equal operations, in
#   trainings as short as these, it does for all fourteen arms that were asked; long ones were not run.
# - Few seeds seldom suffice to show that nothing is lost; here fifteen did not. That no loss is not shown does not mean
#   that there is one.
# - The ledger says what is not tested, and which file would test it.
#
# ## Exercises
#
# 1. Run `own_effect` again with `changes = "epochs=2"`: before epoch 5 no token is dropped. How far apart are
#    `ptd_only` and `plain` then, seed by seed, and how far are `mix` and `plain`? What does the first distance tell you
#    about how to read the second?
# 2. Write a question of your own: a file with arms, controls and seeds in `parameters/sweeps/evidence`. Does the
#    chapter's `evidence.found` read it?
# 3. What would refute the statement that class attention is no better than a random choice? How many seeds would it
#    take to see half a point, if differences have a standard deviation of 0.4 points?
#
# ## Sources
#
# Statements and logs of the original: its repository, aumkeshchaudhary/Progressive-Token-Drop-ViT. The bootstrap:
# Efron, 1979. Few tokens first, all at the end: NaViT (Dehghani et al., NeurIPS 2023), ToE (Huang et al., CVPR 2024),
# and for image sizes EfficientTrain (Wang et al., ICCV 2023).
