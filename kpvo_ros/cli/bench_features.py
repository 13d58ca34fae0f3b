"""kpvo bench features: keypoints of several methods side by side, on images nobody trained on.

Every method may keep 1024 keypoints of an image, and matches are mutual nearest neighbours; a
column shows them with a ratio test of 0.9 as well. The parts:

* homography: localisation and repeatability on photos under known maps
* pose: the motion between real views, wide apart
* style: what is left of the matching in another light or weather
* time: milliseconds of an image
* place: the right place named first by the image descriptor
* recovery: the pose of a lost camera among remembered keyframes, from one image

Answers are written to the work folder before they are scored, see `bench_features_predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import sys
import time
from typing import Any

from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.cli.bench_features_homography import measure_homography
from kpvo_ros.cli.bench_features_place import measure_place
from kpvo_ros.cli.bench_features_pose import measure_pose
from kpvo_ros.cli.bench_features_predictions import Predictor
from kpvo_ros.cli.bench_features_recovery import measure_recovery
from kpvo_ros.cli.bench_features_style import measure_style
from kpvo_ros.cli.bench_features_time import measure_time
from kpvo_ros.cli.bench_features_ways import BUDGET, Ways, load_ways
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.errors import CommandError, KpvoError

TAKES_EXTRACTORS = True
_Part = Callable[[BenchOptions, Sequence[Predictor]], tuple[list[Table], dict[str, Any]]]
PARTS: dict[str, _Part] = {
    'homography': measure_homography,
    'pose': measure_pose,
    'style': measure_style,
    'time': measure_time,
    'place': measure_place,
    'recovery': measure_recovery,
}
# What a learned way must reach against its peers in the same run.
FLOORS = (
    Floor('auc10_above_rootsift', at_least=8.0),
    Floor('within_1px_percent_above_sift', at_least=0.0),
    Floor('cpu_over_sift', at_most=1.0 / 3.0),
    Floor('kept_percent_above_sift', at_least=0.0),
    Floor('recovered_percent_above_sift', at_least=0.0),
    Floor('wrong_recall_percent', at_most=1.0),
)


def part_names() -> tuple[str, ...]:
    """What can be measured alone."""
    return tuple(PARTS)


def measure(options: BenchOptions) -> Measurement:
    """Run the parts that are wanted; one that fails does not end the others.

    Raises:
        CommandError: no way is left to be measured.
    """
    ways = load_ways(options.extractors)
    if not ways.extractors:
        raise CommandError(f'nothing to measure: {"; ".join(ways.absent.values())}')
    folder = options.work_dir / 'features' / 'predictions'
    predictors = [Predictor(name, way, folder) for name, way in ways.extractors.items()]
    tables: list[Table] = []
    numbers: dict[str, Any] = {'budget': BUDGET, 'absent': ways.absent, 'wall_s': {}}
    for name in options.only or part_names():
        start = time.perf_counter()
        try:
            made, numbers[name] = PARTS[name](options, predictors)
        except KpvoError as error:
            made = [Table(name, ('failed',), [(str(error),)])]
            numbers[name] = {'error': str(error)}
        tables += made
        numbers['wall_s'][name] = round(time.perf_counter() - start, 1)
        print(f'{name}: {numbers["wall_s"][name]:.0f} s', file=sys.stderr)
    tables += _absent(ways)
    tables += _judged(ways, numbers)
    return Measurement(tables, numbers)


# ------------------------------------------------------------------------------------ private


def _absent(ways: Ways) -> list[Table]:
    if not ways.absent:
        return []
    return [Table('not measured', ('way', 'why'), list(ways.absent.items()))]


def _judged(ways: Ways, numbers: dict[str, Any]) -> list[Table]:
    """One row for each floor of each learned way whose part was measured."""
    rows: list[tuple[str, ...]] = []
    numbers['floors'] = {}
    for name in ways.learned:
        measured = _against_peers(name, numbers)
        verdict = judge((floor for floor in FLOORS if floor.number in measured), measured)
        numbers['floors'][name] = verdict.numbers
        for number, floor in verdict.numbers.items():
            low, high = floor['at_least'], floor['at_most']
            limit = f'at least {low:g}' if high is None else f'at most {high:.3g}'
            word = 'held' if floor['held'] else 'missed'
            rows.append((name, number, f'{floor["value"]:.3g}', limit, word))
    return [Table('floors', ('way', 'number', 'is', 'floor', ''), rows)] if rows else []


def _against_peers(name: str, numbers: dict[str, Any]) -> dict[str, float]:
    """What the floors ask for, as far as it was measured."""
    measured: dict[str, float] = {}

    def of(part: str, way: str) -> dict[str, Any]:
        found: dict[str, Any] = numbers.get(part, {}).get('ways', {}).get(way, {})
        return found

    for part, number in (
        ('pose', 'auc10_above_rootsift'),
        ('time', 'cpu_over_sift'),
        ('recovery', 'wrong_recall_percent'),
    ):
        if number in of(part, name):
            measured[number] = of(part, name)[number]
    for part, number in (
        ('homography', 'within_1px_percent'),
        ('style', 'kept_percent'),
        ('recovery', 'recovered_percent'),
    ):
        if number in of(part, name) and number in of(part, 'sift'):
            measured[f'{number}_above_sift'] = of(part, name)[number] - of(part, 'sift')[number]
    return measured
