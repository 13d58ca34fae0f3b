"""kpvo bench features, part style: what of the matching is left in another light or weather.

Two views of a rendered street are matched, then the first one with the second in another style.
The share of right matches that is kept says how much a way depends on appearance; how many there
were at first does not enter. Right means within 3 px of the truth by depth and poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_predictions import Predictions, Predictor
from kpvo_ros.cli.bench_features_rendered import STYLES, UNCHANGED, StyledPairs, styled_pairs

_RIGHT_PX = 3.0
_PAIRS, _QUICK_PAIRS = 6, 1
_COLUMNS = (
    Column('right, unchanged', 'right_unchanged', '.0f'),
    *(Column(f'{style} %', f'kept_percent_{style}', '.1f') for style in STYLES),
    Column('mean %', 'kept_percent', '.1f'),
)


def measure_style(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """Right matches that are left in each style, of those there are without a change."""
    count = _QUICK_PAIRS if options.quick else _PAIRS
    pairs = styled_pairs(options.work_dir / 'features', options.seed, count)
    images, indices = _listed(pairs)
    ways: dict[str, Any] = {}
    for predictor in predictors:
        made = predictor.predict('style', images, indices)
        ways[predictor.name] = _numbers(right_matches(pairs, made))
    title = f'right matches kept in another style, {count} rendered pairs'
    return [number_table(title, 'way', _COLUMNS, ways)], {'pairs': count, 'ways': ways}


def right_matches(pairs: StyledPairs, made: Predictions) -> dict[str, list[int]]:
    """How many matches of each pair are right, by style, `UNCHANGED` among them."""
    found: dict[str, list[int]] = {}
    for index in range(len(made.pairs)):
        style_index, pair = divmod(index, len(pairs.images) // 2)
        xy0, xy1 = made.matched(index)
        truth, visible = pairs.clip.follow(2 * pair, 2 * pair + 1, xy0)
        with np.errstate(invalid='ignore'):
            right = visible & (np.linalg.norm(truth - xy1, axis=1) <= _RIGHT_PX)
        found.setdefault((UNCHANGED, *STYLES)[style_index], []).append(int(right.sum()))
    return found


# ------------------------------------------------------------------------------------ private


def _listed(pairs: StyledPairs) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Every image once, and the pairs of them: all unchanged, then all of each style."""
    images = list(pairs.images)
    firsts = range(0, len(images), 2)
    indices = [(i, i + 1) for i in firsts]
    for style in STYLES:
        start = len(images)
        images += pairs.styled[style]
        indices += [(first, start + k) for k, first in enumerate(firsts)]
    return images, indices


def _numbers(right: dict[str, list[int]]) -> dict[str, Any]:
    before = sum(right[UNCHANGED])
    kept = {style: 100.0 * sum(right[style]) / before if before else 0.0 for style in STYLES}
    return {
        'right': right,
        'right_unchanged': before / len(right[UNCHANGED]),
        **{f'kept_percent_{style}': percent for style, percent in kept.items()},
        'kept_percent': float(np.mean(list(kept.values()))),
    }
