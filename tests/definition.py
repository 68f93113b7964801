"""Token reduction as its definitions say it: one image at a time, from the ViT's weights, with whole attention
matrices, sorting and loops; none of the library's own code for tokens."""

import math

import torch
import torch.nn.functional as F


def normed(norm, x):
    return x if isinstance(norm, torch.nn.Identity) else F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def heads_of(block, x):
    """Queries, keys and values (H, T, D) each of a block's attention for all tokens x (T, E)."""
    attention, y = block.attn, normed(block.norm1, x)
    q, k, v = F.linear(y, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for t in (q, k, v))
    identity = torch.nn.Identity()
    return normed(getattr(attention, "q_norm", identity), q), normed(getattr(attention, "k_norm", identity), k), v


def attention_of(block, x):
    """Weights (H, T, T), values (H, T, D) and output (T, E) of a block's attention for all tokens x (T, E)."""
    attention, (q, k, v) = block.attn, heads_of(block, x)
    weights = torch.softmax(torch.einsum("hid,hjd->hij", q, k) / q.shape[-1] ** 0.5, dim=-1)
    out = torch.einsum("hij,hjd->ihd", weights, v).flatten(1)
    return weights, v, F.linear(out, attention.proj.weight, attention.proj.bias)


def scaled(block, name, part):
    return part * getattr(getattr(block, name, None), "gamma", 1.0)


def mlp(block, x):
    return x + scaled(block, "ls2", block.mlp(normed(block.norm2, x)))


def whole(block, x):
    return mlp(block, x + scaled(block, "ls1", attention_of(block, x)[2]))


def score(name, prefix, x, weights, values, places, grid, given):
    """A number for each patch token, in plain loops over heads and tokens."""
    heads, count = weights.shape[:2]
    row = [sum(weights[h, 0, t].item() for h in range(heads)) / heads for t in range(count)]
    found = []
    for token in range(prefix, count):
        place = places[token - prefix]
        if name == "class_attention":
            value = row[token]
        elif name == "inverse":
            value = -row[token]
        elif name == "class_attention_value":
            value = sum(weights[h, 0, token].item() * values[h, token].norm().item() for h in range(heads)) / heads
        elif name == "attention_received":
            value = sum(weights[h, t, token].item() for h in range(heads) for t in range(count)) / heads / count
        elif name == "norm":
            value = math.sqrt(sum(v.item() ** 2 for v in x[token]))
        elif name == "l1_norm":
            value = sum(abs(v.item()) for v in x[token])
        elif name == "distance":
            others = [t for t in range(prefix, count) if t != token]
            value = 1 - sum(F.cosine_similarity(x[token], x[t], dim=0).item() for t in others) / max(1, len(others))
        elif name == "centre":
            middle = (grid - 1) / 2
            value = math.inf if place < 0 else -math.hypot(place // grid - middle, place % grid - middle)
        else:
            value = max(given).item() if place < 0 else given[place].item()
        found.append(value)
    return found


def reduced(fate, x, chosen, rest, class_row, prefix):
    """The tokens that go on, the chosen ones and what the fate makes of the rest; and for each the tokens it is of."""
    groups = {token: [token] for token in chosen}
    if fate == "merge":
        for token in rest:
            likeness = {t: F.cosine_similarity(x[token], x[t], dim=0).item() for t in chosen if t >= prefix}
            groups[max(likeness, key=likeness.get)].append(token)
    kept = [sum(x[token] for token in group) / len(group) for group in groups.values()]
    if fate == "fuse":
        kept.append(sum(class_row[token] * x[token] for token in rest))
    return torch.stack(kept), list(groups.values())


def run(vit, images, drop, keep, given=None, parts=None):
    """Logits of `vit` for images (B, C, S, S) under a policy, and the places of the tokens that are left.

    parts: a list that gets for each image, and each patch token in the last dropping block, the places it is made of.
    """
    from ptd_core.tokens.vit_parts import embed

    prefix, finals, places_left = vit.num_prefix_tokens, [], []
    kept_in = dict(zip(drop.blocks, keep))
    for image, x in enumerate(embed(vit, images)):
        places = list(range(len(x) - prefix))
        grid = math.isqrt(len(places))
        waiting, made_of = None, [[place] for place in places]
        for number, block in enumerate(vit.blocks):
            if waiting and number == drop.until:
                x, places = restored(x, *waiting)
                waiting = None
            patches = len(x) - prefix
            keep_now = kept_in.get(number, patches)
            if keep_now == patches:
                x = whole(block, x)
                continue
            weights, values, out = attention_of(block, x)
            scores = score(
                drop.score, prefix, x, weights, values, places, grid, None if given is None else given[image]
            )
            best = sorted(range(patches), key=lambda token: -scores[token])[:keep_now]
            chosen = [*range(prefix), *sorted(token + prefix for token in best)]
            rest = [token for token in range(len(x)) if token not in chosen]
            class_row = weights[:, 0].mean(0).detach()
            came, came_places = x, places
            if drop.attended == "kept":
                x, groups = reduced(drop.fate, x, chosen, rest, class_row, prefix)
                x = whole(block, x)
            else:
                x, groups = reduced(drop.fate, x + scaled(block, "ls1", out), chosen, rest, class_row, prefix)
                x = mlp(block, x)
            found = [[place for token in group for place in made_of[token - prefix]] for group in groups[prefix:]]
            made_of = found + [[]] * (drop.fate == "fuse") if drop.fate not in ("skip", "bypass") else made_of
            places = [places[token - prefix] for token in chosen[prefix:]] + [-1] * (drop.fate == "fuse")
            if drop.fate == "skip":
                x, places = restored(x, came, came_places, chosen)
            if drop.fate == "bypass":
                waiting = (came, came_places, chosen)
        if waiting:
            x, places = restored(x, *waiting)
        finals.append(vit.forward_head(vit.norm(x).unsqueeze(0)))
        places_left.append(places)
        if parts is not None:
            parts.append(found)
    return torch.cat(finals), torch.tensor(places_left)


def restored(x, came, came_places, chosen):
    """The tokens as they came, with the chosen ones as they are now."""
    tokens = list(came)
    for token, now in zip(chosen, x):
        tokens[token] = now
    return torch.stack(tokens), came_places


def merged(vit, image, pairs, parts=None):
    """Token merging (ToMe): logits of one image. parts: a list that gets the places of each group."""
    from ptd_core.tokens.vit_parts import embed

    x = list(embed(vit, image.unsqueeze(0))[0])
    size = [1] * len(x)  # how many tokens each stands for
    made_of = [[token - 1] for token in range(len(x))]
    for block in vit.blocks:
        tokens = torch.stack(x)
        q, k, v = heads_of(block, tokens)
        logits = torch.einsum("hid,hjd->hij", q, k) / q.shape[-1] ** 0.5 + torch.tensor(size).to(q).log()
        out = torch.einsum("hij,hjd->ihd", logits.softmax(-1), v).flatten(1)
        tokens = tokens + scaled(block, "ls1", F.linear(out, block.attn.proj.weight, block.attn.proj.bias))
        even, odd = range(0, len(x), 2), range(1, len(x), 2)
        key = k.mean(0)
        partner = {i: max(odd, key=lambda j: F.cosine_similarity(key[i], key[j], dim=0).item()) for i in even}
        near = {i: F.cosine_similarity(key[i], key[j], dim=0).item() for i, j in partner.items()}
        going = sorted((i for i in even if i > 0), key=lambda i: -near[i])[:pairs]
        groups = [[i] for i in even if i not in going] + [[j, *(i for i in going if partner[i] == j)] for j in odd]
        x = [sum(size[i] * tokens[i] for i in group) / sum(size[i] for i in group) for group in groups]
        size = [sum(size[i] for i in group) for group in groups]
        made_of = [[place for i in group for place in made_of[i]] for group in groups]
        x = list(mlp(block, torch.stack(x)))
    if parts is not None:
        parts.append(made_of[1:])
    return vit.forward_head(vit.norm(torch.stack(x)).unsqueeze(0))


def assert_same_with_gradients(vit, ours, theirs, rtol=1e-8, atol=1e-10):
    """Two logits of one ViT, made by what was called last, are equal, and so are their gradients in its weights."""
    results = []
    for logits in (ours, theirs):
        torch.manual_seed(1)
        vit.zero_grad()
        (logits * torch.randn_like(logits)).sum().backward()  # a loss that tells all logits apart
        results.append([logits.detach(), *(p.grad.clone() for p in vit.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 10
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
