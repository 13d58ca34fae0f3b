"""kpvo bench depth: rendered walks for measuring, in worlds that no training has seen.

Every walk has a world of its own. Worlds are drawn from a seed far from those of trainings; they
are rendered once and kept. Pairs are neighbours, or next but one, that share half of what they
show: fixed by the truth alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.cli.bench_depth_pairs import SIZE, PairSet
from kpvo_ros.geometry import se3

if TYPE_CHECKING:
    from kpvo_ros.synthetic.walk_bank import WalkBank

# In the order in which `world_choice.make_scene_world` makes them: a street, a block of houses.
KINDS = ('rooms', 'streets', 'corridors', 'streets')
_FIRST_SEED = 1_000_000_000  # trainings are seeded by small numbers
_VIEWS = 8
_MAX_GAP = 2
_LEAST_SHARED = 0.5  # of either view, seen by the other


def rendered_pairs(
    folder: Path,
    seed: int,
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[PairSet]:
    """Pairs of each walk; a walk whose views share too little has none and is left out.

    Args:
        folder: where walks are kept.
        seed: of the worlds.
        rounds: how often every entry of `KINDS` has its turn.
        progress: called with the number of walks rendered and of all walks.

    Raises:
        SyntheticError: a kept walk is damaged, or one cannot be written.
    """
    from kpvo_ros.methods.crossview.rendered_data import shared_table
    from kpvo_ros.synthetic.walk_bank import WalkSize, load_or_render

    # A part is one walk, so its number tells the kind of its world.
    size = WalkSize(*SIZE, views=_VIEWS, per_part=1)
    walks = rounds * len(KINDS)
    bank = load_or_render(
        folder / f'walks_seed{seed}',
        walks,
        seed=_FIRST_SEED + seed,
        size=size,
        progress=progress,
    )
    shared = shared_table(bank, _MAX_GAP).numpy()
    shared = np.minimum(shared, shared.transpose(0, 2, 1))
    sets = (_pairs_of(bank, walk, shared[walk]) for walk in range(walks))
    return [pairs for pairs in sets if len(pairs)]


def _pairs_of(bank: WalkBank, walk: int, shared: np.ndarray) -> PairSet:
    """All pairs of a walk, first view first."""
    first, second = np.nonzero(np.triu(shared > _LEAST_SHARED, 1))
    images = bank.images[walk].permute(0, 2, 3, 1).numpy()
    depth = bank.depth_m[walk].float().numpy()
    T = bank.T_first_camera[walk].double().numpy()
    return PairSet(
        KINDS[walk % len(KINDS)],
        images[first],
        images[second],
        depth[first],
        depth[second],
        bank.K[walk].double().numpy(),
        se3.inverse(T[second]) @ T[first],
    )
