"""kpvo bench depth, part rendered: depth and motion in worlds where all of it is known.

Nothing is scaled to the truth. Each motion is measured twice: as the network says it, and after
`odometry.direct_alignment` has refined it on the grey values with the network's own depth, which
is what the odometry may do when matches fail. The yardstick is what can be said without looking:
one depth everywhere and no motion, and the same refined.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys
from typing import Any

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_depth_models import Model
from kpvo_ros.cli.bench_depth_pairs import (
    SIZE,
    YARDSTICK,
    Answers,
    PairSet,
    Scores,
    answer,
    flat_answers,
    pooled,
    refined,
    score,
)
from kpvo_ros.cli.bench_depth_walks import KINDS, rendered_pairs
from kpvo_ros.cli.bench_floors import Floor
from kpvo_ros.errors import CommandError

TOGETHER = 'together'
REFINED = 'refined'
FLOORS = (
    Floor('acc_125', at_least=0.85),
    Floor('abs_rel', at_most=0.15),
    Floor('rotation_deg', at_most=1.5),
    Floor('step_percent', at_most=15.0),
)
_ROUNDS, _QUICK_ROUNDS = 10, 1
_DEPTH = ('acc_125', 'acc_125_2', 'acc_125_3', 'abs_rel', 'rmse_m', 'scale')
_COLUMNS = (
    Column('pairs', 'pairs', 'd'),
    Column('Acc@1.25', 'acc_125'),
    Column('AbsRel', 'abs_rel'),
    Column('rotation deg', 'rotation_deg', '.2f'),
    Column('step %', 'step_percent', '.1f'),
    Column('direction deg', 'direction_deg', '.1f'),
)
_Groups = dict[str, list[Scores]]


def measure_rendered(
    options: BenchOptions, models: Sequence[Model]
) -> tuple[list[Table], dict[str, Any]]:
    """Means over images and medians over pairs, for each kind of world and together.

    Raises:
        CommandError: there is no network, or no pair.
    """
    if not models:
        raise CommandError('rendered: no weights; name some with --models NAME=FILE')
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    sets = rendered_pairs(options.work_dir / 'depth', options.seed, rounds, _progress)
    if not sets:
        raise CommandError('rendered: no two views share half of what they show; try --seed')
    rows = {YARDSTICK: _of_groups(sets, None)}
    rows |= {model.name: _of_groups(sets, model) for model in models}
    numbers: dict[str, Any] = {
        'walks': rounds * len(KINDS),
        'pairs': sum(len(pairs) for pairs in sets),
        'models': rows,
    }
    title = (
        f'rendered worlds that no training has seen, {SIZE[0]}x{SIZE[1]}: depth is the mean of '
        f'images, motion the median of {numbers["pairs"]} pairs; {REFINED}: motion aligned on '
        'the grey values at its own depth'
    )
    return [number_table(title, 'model', _COLUMNS, _rows(rows))], numbers


# ------------------------------------------------------------------------------------ private


def _of_groups(sets: Sequence[PairSet], model: Model | None) -> dict[str, Any]:
    """Numbers of each kind of world and together, before and after refinement."""
    plain: _Groups = {}
    better: _Groups = {}
    for pairs in sets:
        said = flat_answers(pairs) if model is None else answer(model.network, pairs)
        _add(plain, pairs, said)
        _add(better, pairs, refined(pairs, said))
    found: dict[str, Any] = {group: pooled(parts).numbers() for group, parts in plain.items()}
    found[REFINED] = {
        # The depth is the same, so only the motion is told again.
        group: {k: v for k, v in pooled(parts).numbers().items() if k not in _DEPTH}
        for group, parts in better.items()
    }
    return found


def _add(groups: _Groups, pairs: PairSet, said: Answers) -> None:
    scores = score(pairs, said, last_only=False, median_scaled=False)
    for group in (TOGETHER, pairs.group):
        groups.setdefault(group, []).append(scores)


def _rows(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One row for each model and kind of world, then the same refined."""
    cases: dict[str, dict[str, Any]] = {}
    for name, found in rows.items():
        for word, groups in (('', found), (f', {REFINED}', found[REFINED])):
            for group in (TOGETHER, *sorted(set(KINDS))):
                if group in groups:
                    place = '' if group == TOGETHER else f': {group}'
                    cases[f'{name}{word}{place}'] = groups[group]
    return cases


def _progress(done: int, total: int) -> None:
    print(
        f'\rrendering walk {done} of {total}', end='\n' if done == total else '', file=sys.stderr
    )
