"""kpvo textures: make pictures with a texture generator that kpvo train textures has trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

HELP = 'make tileable textures with weights of kpvo train textures'
_AT_ONCE = 32  # textures that are made together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('weights', type=Path, help='weights.safetensors of kpvo train textures')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder of PNG')
    parser.add_argument('--count', type=int, default=64, metavar='N', help='default: 64')
    parser.add_argument('--size', type=int, default=64, metavar='PX', help='default: 64')
    parser.add_argument('--steps', type=int, default=10, metavar='N', help='default: 10')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='default: 0')


def run(args: argparse.Namespace) -> int:
    """Write texture_000.png, ... and say how long it took."""
    import time

    import torch

    from kpvo_ros.methods.textures.sample import sample_textures
    from kpvo_ros.nets.diffusion import load_diffusion_net

    _check(args)
    network = load_diffusion_net(args.weights)
    generator = torch.Generator().manual_seed(args.seed)
    spent_s = 0.0
    for start in range(0, args.count, _AT_ONCE):
        count = min(_AT_ONCE, args.count - start)
        began_s = time.perf_counter()
        made = sample_textures(network, count, args.size, generator, steps=args.steps)
        spent_s += time.perf_counter() - began_s
        _write(made, args.out, start)
    each_ms = 1e3 * spent_s / args.count
    print(f'{args.count} textures of {args.size} px in {args.out}, {each_ms:.0f} ms each')
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.count < 1 or args.steps < 1:
        raise CommandError('--count and --steps must be at least 1')
    if args.size < 16 or args.size % 8:
        raise CommandError(f'--size {args.size} is not a multiple of 8 from 16 on; give e.g. 64')
    if args.out.exists() and any(args.out.iterdir()):
        raise CommandError(f'{args.out}: is not empty; give another --out')


def _write(made: Tensor, folder: Path, start: int) -> None:
    """Textures (B, 3, S, S) 0..1 as PNG files, numbered from `start`."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    pictures = (255.0 * made).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for number, picture in enumerate(pictures, start):
        path = folder / f'texture_{number:03d}.png'
        if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise CommandError(f'{path}: cannot be written; give another --out')
