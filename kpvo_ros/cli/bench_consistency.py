"""kpvo bench odometry, part consistency: does the published covariance tell the truth?

Twenty short independent runs in worlds of their own. The first poses of estimate and truth are
laid together, nothing is fitted; the errors in the middle and at the end are divided by the
covariance that was published with them. Their mean over the runs must lie within the bounds that
hold 95 % of the means of honest estimators. Then, what the covariance does in the dark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kpvo_ros.bags.replay import replay
from kpvo_ros.bags.source import Source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.cli.bench_watch import Watch
from kpvo_ros.cli.bench_worlds import Worlds, configuration
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.association import associate
from kpvo_ros.evaluation.consistency import Part, check_consistency, parent_axes_errors
from kpvo_ros.geometry import se3

FRAMES = 160
_WORLDS = range(1000, 1005)  # of each preset, far from those of the other parts
_INDOOR, _STREET = ('room', 'corridor'), ('loop_200m', 'street')
_KINDS = {
    # The rendered depth sensor is not miscalibrated; what is left is bias of inverse depths.
    'depth': (
        ('scale.source=depth', 'scale.depth_bias_sigma=0.001'),
        (*_INDOOR, *_STREET),
    ),
    'camera height': (
        ('scale.source=camera_height', 'scale.camera_height_m={height}'),
        _STREET,
    ),
}
_PARTS = {'position': Part.POSITION, 'rotation': Part.ROTATION}
_BLACKOUT, _AFTER_S = 'blackout_3s', 2.0
_COLUMNS = (
    Column('runs', 'runs', 'd'),
    Column('mean NEES', 'mean', '.2f'),
    Column('low', 'low', '.2f'),
    Column('high', 'high', '.2f'),
    Column('rms error', 'rms_error', '.4f'),
    Column('rms sigma', 'rms_sigma', '.4f'),
    Column('floors', 'verdict'),
)
_DARK = (
    Column('before', 'before_m', '.3f'),
    Column('at its end', 'dark_m', '.3f'),
    Column(f'{_AFTER_S:g} s after', 'after_m', '.3f'),
    Column('floors', 'verdict'),
)


class Moment(NamedTuple):
    """One instant of a run; the error is what the estimate lacks, in odom axes.

    Attributes:
        truth: (4, 4) `T_odom_base`.
        estimate: (4, 4) `T_odom_base`.
        covariance: (6, 6) that was published.
    """

    truth: np.ndarray
    estimate: np.ndarray
    covariance: np.ndarray


def measure_consistency(
    options: BenchOptions, worlds: Worlds
) -> tuple[list[Table], dict[str, Any]]:
    """All runs.

    Returns:
        Tables, and the numbers of every run.
    """
    numbers: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = {}
    for kind, (words, presets) in _KINDS.items():
        runs = [
            _run(kind, words, preset, world, options, worlds)
            for preset in presets
            for world in (_WORLDS[:1] if options.quick else _WORLDS)
        ]
        numbers[kind] = [_run_numbers(run) for run in runs]
        for moment in ('middle', 'end'):
            for name, part in _PARTS.items():
                moments = [run[moment] for run in runs]
                rows[f'{kind}, {name}, {moment}'] = summarise(moments, part, moment == 'end')
    dark = {'depth': _blackout(options, worlds)}
    tables = [
        number_table('covariance against error (m, rad)', 'runs', _COLUMNS, rows),
        number_table('position sigma around a blackout of 3 s, m', 'scale', _DARK, dark),
    ]
    return tables, {'runs': numbers, 'summary': rows, 'blackout': dark}


def moments_of(watch: Watch, source: Source) -> dict[str, Moment]:
    """Middle and end of a run, with the first poses laid together.

    Raises:
        EvaluationError: no ground truth, or none at these times.
    """
    truth, T_base_camera = source.ground_truth(), source.extrinsics()
    if truth is None or T_base_camera is None:
        raise EvaluationError(f'{source.info.name}: no ground truth or no camera mount in it')
    pairs = associate(truth.stamps_ns, watch.stamps_ns)
    if len(pairs.estimate) < 3:
        raise EvaluationError(f'{source.info.name}: {len(pairs.estimate)} frames with truth')
    T_world_base = truth.poses[pairs.reference] @ se3.inverse(T_base_camera)
    estimate = watch.base_poses[pairs.estimate]
    T_odom_base = estimate[0] @ se3.inverse(T_world_base[0]) @ T_world_base
    covariances = watch.covariances[pairs.estimate]
    return {
        name: Moment(T_odom_base[index], estimate[index], covariances[index])
        for name, index in (('middle', len(estimate) // 2), ('end', len(estimate) - 1))
    }


def summarise(moments: list[Moment], part: Part, is_judged: bool) -> dict[str, Any]:
    """Mean NEES of one moment of all runs and its bounds.

    Args:
        moments: one of each run.
        part: of the pose.
        is_judged: whether the bounds are a floor.
    """
    truth, estimate, covariances = (np.stack(arrays) for arrays in zip(*moments, strict=True))
    errors = parent_axes_errors(truth, estimate)[:, part.value]
    variances = covariances[:, part.value, part.value].trace(axis1=1, axis2=2)
    numbers: dict[str, Any] = {
        'runs': len(moments),
        'rms_error': float(np.sqrt(np.square(errors).sum(axis=1).mean())),
        'rms_sigma': float(np.sqrt(variances.mean())),
    }
    try:
        result = check_consistency(truth, estimate, covariances, part=part)
    except EvaluationError as error:
        return {**numbers, 'verdict': f'failed: {error}'}
    low, high = result.mean_bounds
    numbers |= {'mean': result.mean, 'low': low, 'high': high, 'nees': result.nees.tolist()}
    verdict = judge((Floor('mean', high, low),) if is_judged else (), numbers)
    return {**numbers, 'floors': verdict.numbers, 'verdict': verdict.text}


def around_dark(watch: Watch) -> dict[str, Any]:
    """Position sigma before, at the end of, and after the frames that show nothing."""
    visible, stamps_ns = watch.answers.visible, watch.stamps_ns
    sigma_m = np.sqrt(watch.covariances[:, :3, :3].trace(axis1=1, axis2=2))
    dark = np.flatnonzero(~visible)
    if len(dark) == 0 or dark[0] == 0:
        return {'verdict': 'no dark frames after visible ones'}
    after = np.searchsorted(stamps_ns, stamps_ns[dark[-1]] + round(_AFTER_S * 1e9))
    numbers: dict[str, Any] = {
        'before_m': float(sigma_m[dark[0] - 1]),
        'dark_m': float(sigma_m[dark[-1]]),
        'after_m': float(sigma_m[after]) if after < len(sigma_m) else None,
        'smallest_step_m': float(np.diff(sigma_m[dark[0] - 1 : dark[-1] + 1]).min()),
        'trace_m': sigma_m.tolist(),
    }
    numbers['growth'] = numbers['dark_m'] / numbers['before_m']
    floors = (Floor('smallest_step_m', at_least=0.0), Floor('growth', at_least=2.0))
    verdict = judge(floors, numbers)
    return {**numbers, 'floors': verdict.numbers, 'verdict': verdict.text}


# ------------------------------------------------------------------------------------ private


def _run(
    kind: str,
    words: tuple[str, ...],
    preset: str,
    world: int,
    options: BenchOptions,
    worlds: Worlds,
) -> dict[str, Any]:
    run_dir = options.work_dir / 'runs' / 'consistency' / f'{kind}_{preset}_{world}'
    with worlds.source(preset, world=world, frames=FRAMES) as source:
        watch = _replay(source, words, run_dir, options)
        return {'preset': preset, 'world': world, **moments_of(watch, source)}


def _replay(source: Source, words: tuple[str, ...], run_dir: Path, options: BenchOptions) -> Watch:
    watch = Watch()
    config = configuration(words, source, options.seed)
    with progress_bar(run_dir.name) as progress:
        replay(source, config, run_dir, observers=(watch,), progress=progress)
    return watch


def _blackout(options: BenchOptions, worlds: Worlds) -> dict[str, Any]:
    run_dir = options.work_dir / 'runs' / 'consistency' / _BLACKOUT
    with worlds.source(_BLACKOUT) as source:
        return around_dark(_replay(source, ('scale.source=depth',), run_dir, options))


def _run_numbers(run: dict[str, Any]) -> dict[str, Any]:
    """Errors and sigmas of a run, for JSON."""
    numbers = {'preset': run['preset'], 'world': run['world']}
    for name in ('middle', 'end'):
        moment: Moment = run[name]
        error = parent_axes_errors(moment.truth[None], moment.estimate[None])[0]
        sigma = np.sqrt(np.diag(moment.covariance))
        numbers[name] = {'error': error.tolist(), 'sigma': sigma.tolist()}
    return numbers
