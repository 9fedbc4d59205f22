"""A slow, simple reference implementation of CrossFormer.

It uses the weights of the backbone under test and attends group by group over lists of
tokens, so it needs neither padding nor masks.
"""

from collections import defaultdict

import torch
import torch.nn.functional as F


def backbone(model, images, group_size, interval, lda_mode):
    """Compute the outputs of ``model`` with the reference implementation."""
    x = cross_scale(images, model.patch_embed.projs, stride=4)
    x = layer_norm(x, model.patch_embed.norm)
    outs = []
    for i, stage in enumerate(model.layers):
        for j, block in enumerate(stage.blocks):
            normed = layer_norm(x, block.norm1)
            groups = token_groups(
                *x.shape[1:3], group_size[i], interval[i], lda_mode, j % 2 == 1
            )
            x = x + attention(block.attn, normed, groups)
            h = F.gelu(linear(layer_norm(x, block.norm2), block.mlp.fc1))
            x = x + linear(h, block.mlp.fc2)
            if hasattr(block, 'ex_conv'):
                conv = block.ex_conv
                x = x.permute(0, 3, 1, 2)
                x = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=x.shape[1])
                x = layer_norm(x.permute(0, 2, 3, 1), block.ex_ln)
        outs.append(x.permute(0, 3, 1, 2))
        if stage.downsample is not None:
            x = layer_norm(x, stage.downsample.norm).permute(0, 3, 1, 2)
            x = cross_scale(x, stage.downsample.reductions, stride=2)
    return outs


def token_groups(height, width, group_size, interval, lda_mode, long_distance):
    """Split the tokens of a map into groups.

    Returns:
        list: Per group a list of ((row, column) in the map, (row, column) in the
        group).
    """
    if min(height, width) <= group_size:
        long_distance = False
        pick = min if lda_mode == 'interval' else max
        group_size = pick(height, width)
    groups = defaultdict(list)
    for row in range(height):
        for col in range(width):
            if not long_distance:
                key = (row // group_size, col // group_size)
                place = (row, col)
            else:
                key = (row % interval, col % interval)
                if lda_mode == 'group':
                    window = group_size * interval
                    key += (row // window, col // window)
                place = (row // interval, col // interval)
            groups[key].append(((row, col), place))
    return list(groups.values())


def attention(attn, x, groups):
    """Attend within each group of each image."""
    out = torch.empty_like(x)
    heads = attn.num_heads
    for group in groups:
        rows = [token[0][0] for token in group]
        cols = [token[0][1] for token in group]
        places = torch.tensor([token[1] for token in group])
        offsets = (places[:, None] - places[None, :]).to(x.dtype)
        bias = position_bias(attn.pos, offsets)
        for image in range(len(x)):
            tokens = x[image, rows, cols]
            qkv = linear(tokens, attn.qkv).reshape(len(group), 3, heads, -1)
            for head in range(heads):
                q, k, v = (qkv[:, part, head] for part in range(3))
                scores = q @ k.T * attn.scale + bias[..., head]
                part = scores.softmax(-1) @ v
                width = part.shape[1]
                out[image, rows, cols, head * width : (head + 1) * width] = part
    return linear(out, attn.proj)


def position_bias(pos, offsets):
    """Evaluate the DPB for every pair of tokens: ``[N, N, 2]`` to ``[N, N, heads]``."""
    x = linear(offsets, pos.pos_proj)
    for layer in (pos.pos1, pos.pos2, pos.pos3):
        x = linear(F.relu(layer_norm(x, layer[0])), layer[2])
    return x


def cross_scale(x, convs, stride):
    """Convolve with every kernel, zeros beyond the borders: NCHW to NHWC."""
    height, width = (-(-side // stride) for side in x.shape[2:])
    outs = []
    for conv in convs:
        kernel = conv.kernel_size[0]
        before = (kernel - stride) // 2
        canvas = x.new_zeros(
            *x.shape[:2], height * stride + 2 * before, width * stride + 2 * before
        )
        canvas[:, :, before : before + x.shape[2], before : before + x.shape[3]] = x
        outs.append(F.conv2d(canvas, conv.weight, conv.bias, stride=stride))
    return torch.cat(outs, 1).permute(0, 2, 3, 1)


def linear(x, layer):
    return F.linear(x, layer.weight, layer.bias)


def layer_norm(x, layer):
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)
