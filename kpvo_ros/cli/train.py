"""kpvo train: train a network of one method on folders of photos, videos or bags."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from kpvo_ros.cli.train_depth import depth
from kpvo_ros.cli.train_homography import homography
from kpvo_ros.cli.train_inputs import Inputs, TaskKind
from kpvo_ros.cli.train_pretext import alignment, completion
from kpvo_ros.cli.train_reconstruction import reconstruction
from kpvo_ros.cli.train_textures import textures
from kpvo_ros.cli.train_video import video
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    import torch

    from kpvo_ros.training.run import ProgressLine, Run
    from kpvo_ros.training.task import Task
    from kpvo_ros.training.team import Team

HELP = 'train a network on photos, videos or bags; it can be interrupted and resumed'
# Another task is another line here; the row itself is made late, when torch is needed.
TASKS: dict[str, Callable[[], TaskKind]] = {
    'alignment': alignment,
    'completion': completion,
    'depth': depth,
    'homography': homography,
    'reconstruction': reconstruction,
    'textures': textures,
    'video': video,
}
_DEFAULT_MINUTES = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('task', choices=sorted(TASKS), help='what to train')
    parser.add_argument(
        '--data', type=Path, nargs='+', metavar='DIR', help='photos, videos, bags, folders of them'
    )
    parser.add_argument('--out', type=Path, required=True, metavar='RUN', help='result folder')
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        '--minutes', type=float, metavar='N', help=f'time to train (default: {_DEFAULT_MINUTES:g})'
    )
    length.add_argument('--steps', type=int, metavar='N', help='steps to train')
    parser.add_argument('--resume', action='store_true', help='go on with RUN where it stopped')
    parser.add_argument('--overfit', action='store_true', help='learn one batch by heart')
    parser.add_argument('--init', type=Path, metavar='FILE', help='weights to begin with')
    parser.add_argument(
        '--bank', type=Path, metavar='DIR', help='folder of rendered things (default: RUN/bank)'
    )
    parser.add_argument('--threads', type=int, metavar='N', help='threads of the CPU')
    parser.add_argument(
        '--device', default='auto', choices=('auto', 'cpu', 'cuda'), help='default: a GPU if any'
    )
    parser.add_argument('--params', type=Path, metavar='FILE', help='parameter file')
    parser.add_argument('words', nargs='*', metavar='key=value', help='change parameters')


def run(args: argparse.Namespace) -> int:
    """Train until the plan is fulfilled or Ctrl-C; both leave a checkpoint."""
    import yaml

    from kpvo_ros.cli.common import stop_on_signals
    from kpvo_ros.config.schema import to_nested
    from kpvo_ros.training.loop import Sitting, train
    from kpvo_ros.training.run import ProgressLine, recall
    from kpvo_ros.training.schedule import Plan
    from kpvo_ros.training.team import join_team

    _check(args)
    before = recall(args.out) if args.resume else {}
    request = _request(args, before)
    plan = Plan(steps=request['steps'], minutes=request['minutes'])
    config = _config(args)
    device = _device(args.device, args.threads, os.environ)
    team = join_team(device, os.environ)
    try:
        line = ProgressLine(sys.stderr if team.rank == 0 else None)
        folder = _open_folder(args, team)
        if folder.moved_to is not None:
            line.keep(f'an earlier run was moved to {folder.moved_to}')
        folder.remember(request)
        folder.describe(yaml.safe_dump(to_nested(config), sort_keys=False), args.command_line)
        task = TASKS[args.task]().make(config, _inputs(args, request, folder, device, line))
        with stop_on_signals() as asked_to_stop:

            def should_stop() -> bool:
                return asked_to_stop() or _has_converged(task)

            sitting = Sitting(plan, args.resume, args.overfit, should_stop, line=line, team=team)
            position = train(task, config.training, folder, sitting)
    finally:
        team.close()
    if team.rank == 0:
        done = plan.progress(position.step, position.elapsed_s) >= 1.0 or _has_converged(task)
        go_on = f'stopped; go on with: kpvo train {args.task} --resume --out {args.out}'
        print(f'done: {args.out}' if done else go_on)
    return 0


def _has_converged(task: Task) -> bool:
    """Whether a task that watches its own progress has nothing left to learn."""
    return bool(getattr(task, 'converged', False))


def _check(args: argparse.Namespace) -> None:
    if not args.resume and not args.data and TASKS[args.task]().needs_data:
        raise CommandError('nothing to train on; give --data DIR with photos, videos or bags')
    if args.resume and args.init:
        raise CommandError('--resume brings its own weights; leave --init out')
    for path in [*(args.data or []), *([args.init] if args.init else [])]:
        if not path.exists():
            raise CommandError(f'{path}: does not exist; check the path')


def _device(name: str, threads: int | None, environment: Mapping[str, str]) -> torch.device:
    import cv2
    import torch

    from kpvo_ros.frontend.process import keep_freed_memory

    if threads is not None:
        if threads < 1:
            raise CommandError(f'--threads {threads} is not positive; give at least 1')
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # it only cuts small pieces, next to the threads of torch
    if name == 'cuda' and not torch.cuda.is_available():
        raise CommandError('torch sees no GPU; install its drivers or use --device cpu')
    if name == 'cpu' or not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device('cpu')
    device = torch.device('cuda', int(environment.get('LOCAL_RANK', '0')))
    torch.cuda.set_device(device)
    return device


def _open_folder(args: argparse.Namespace, team: Team) -> Run:
    """The folder, made by the first process before the others look at it."""
    from kpvo_ros.training.run import Run

    folder = Run(args.out, resume=args.resume) if team.rank == 0 else None
    team.decide([0.0])
    # Another process may not see a checkpoint that is not there yet, and needs none to compute.
    return folder or Run(args.out, resume=args.resume, writes=False)


def _request(args: argparse.Namespace, before: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments say, and where they are silent what the resumed run was begun with."""
    if before.get('task', args.task) != args.task:
        raise CommandError(
            f'{args.out}: holds a run of {before["task"]!r}; resume that or choose another --out'
        )
    minutes, steps = args.minutes, args.steps
    if minutes is None and steps is None:
        minutes, steps = before.get('minutes'), before.get('steps')
        if minutes is None and steps is None:
            minutes = _DEFAULT_MINUTES
    data = [str(path.resolve()) for path in args.data or ()] or list(before.get('data', ()))
    bank = str(args.bank.resolve()) if args.bank else before.get('bank')
    return {'task': args.task, 'minutes': minutes, 'steps': steps, 'data': data, 'bank': bank}


def _config(args: argparse.Namespace) -> Any:
    """Defaults, then the file (of a resumed run its own), then the words."""
    from kpvo_ros.config.files import load
    from kpvo_ros.training.run import CONFIG

    path = args.out / CONFIG if args.resume and args.params is None else args.params
    return load(TASKS[args.task]().config, path, args.words)


def _inputs(
    args: argparse.Namespace,
    request: Mapping[str, Any],
    folder: Run,
    device: torch.device,
    line: ProgressLine,
) -> Inputs:
    data = [Path(text) for text in request['data']]
    names = ' '.join(sorted({path.name for path in data}))
    words = ' '.join(args.words)
    return Inputs(
        data=data,
        bank=Path(request['bank'] or folder.path / 'bank'),
        init=args.init,
        device=device,
        notes={'command': f'kpvo train {args.task} {words}'.strip(), 'data': names},
        say=line.keep,
    )
