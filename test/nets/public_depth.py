"""Depth Anything V2 as plain operations on the tensors of its public file, for comparison.

Written for these tests after Yang 2024 and Ranftl 2021: long, slow, and without any of our blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

PATCH = 14
State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f'{name}.weight'].mT + state[f'{name}.bias']


def norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f'{name}.weight']
    bias = state.get(f'{name}.bias')
    return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)


def block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    qkv = linear(state, f'{name}.attn.qkv', norm(state, f'{name}.norm1', x))
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    share = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    heard = linear(state, f'{name}.attn.proj', (share @ value).transpose(1, 2).flatten(2))
    x = x + state[f'{name}.ls1.gamma'] * heard
    hidden = linear(state, f'{name}.mlp.fc1', norm(state, f'{name}.norm2', x))
    hidden = 0.5 * hidden * (1.0 + torch.erf(hidden / 2**0.5))
    return x + state[f'{name}.ls2.gamma'] * linear(state, f'{name}.mlp.fc2', hidden)


def wide(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=True)


def unit(state: State, name: str, x: Tensor) -> Tensor:
    return x + conv(state, f'{name}.conv2', conv(state, f'{name}.conv1', x.relu()).relu())


def raw_depth(
    state: State, image: Tensor, positions: Tensor, levels: tuple[int, ...], heads: int
) -> Tensor:
    """What comes before the last ReLU or sigmoid.

    Args:
        state: tensors by the names of the authors.
        image: (B, 3, H, W) in 0..1.
        positions: (1, 1 + N, C) of class token and patches.
        levels: numbers of the blocks, the first is 1.
        heads: of each attention.
    """
    mean, spread = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    x = (image - mean) / spread
    weight, bias = (state[f'pretrained.patch_embed.proj.{k}'] for k in ('weight', 'bias'))
    x = F.conv2d(x, weight, bias, stride=PATCH)
    rows, columns = x.shape[-2:]
    token = state['pretrained.cls_token'].expand(len(x), -1, -1)
    x = torch.cat([token, x.flatten(2).mT], dim=1) + positions
    maps = []
    for number in range(1, levels[-1] + 1):
        x = block(state, f'pretrained.blocks.{number - 1}', x, heads)
        if number in levels:
            tokens = norm(state, 'pretrained.norm', x)[:, 1:]
            maps.append(tokens.mT.unflatten(2, (rows, columns)))
    maps = [conv(state, f'depth_head.projects.{i}', x) for i, x in enumerate(maps)]
    for i, stride in ((0, 4), (1, 2)):
        weight, bias = (state[f'depth_head.resize_layers.{i}.{k}'] for k in ('weight', 'bias'))
        maps[i] = F.conv_transpose2d(maps[i], weight, bias, stride=stride)
    maps[3] = conv(state, 'depth_head.resize_layers.3', maps[3], stride=2)
    scratch = 'depth_head.scratch'
    maps = [conv(state, f'{scratch}.layer{i + 1}_rn', x) for i, x in enumerate(maps)]
    x = maps[3]
    for i in (4, 3, 2, 1):
        name = f'{scratch}.refinenet{i}'
        if i < 4:
            x = x + unit(state, f'{name}.resConfUnit1', maps[i - 1])
        x = unit(state, f'{name}.resConfUnit2', x)
        height, width = maps[i - 2].shape[-2:] if i > 1 else (8 * rows, 8 * columns)
        x = conv(state, f'{name}.out_conv', wide(x, height, width))
    x = wide(conv(state, f'{scratch}.output_conv1', x), PATCH * rows, PATCH * columns)
    x = conv(state, f'{scratch}.output_conv2.0', x).relu()
    return conv(state, f'{scratch}.output_conv2.2', x)
