"""kpvo train video: recordings and a trained network to the task of learning from them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

from kpvo_ros.cli.train_inputs import Inputs, TaskKind
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from kpvo_ros.methods.crossview.video_selection import Recording
    from kpvo_ros.methods.crossview.video_task import VideoConfig, VideoTask

_FEWEST, _FEWEST_HELD_OUT = 6, 2  # frames that can be rebuilt from both sides
_START = 'start_*.safetensors'


def video() -> TaskKind:
    """The row of this task."""
    from kpvo_ros.methods.crossview.video_task import VideoConfig

    return TaskKind(VideoConfig(), make_video_task)


def make_video_task(config: VideoConfig, inputs: Inputs) -> VideoTask:
    """Load the network to begin with and the recordings, and put the task together.

    Raises:
        CommandError: there are no weights to begin with, or a recording cannot be used.
    """
    from kpvo_ros.methods.crossview.video_data import VideoTriplets
    from kpvo_ros.methods.crossview.video_selection import split
    from kpvo_ros.methods.crossview.video_task import VideoTask
    from kpvo_ros.nets.depth_vo import load_depth_vo_net

    path = _start(inputs)
    sha256 = _sha256(path)
    network = load_depth_vo_net(path, sha256)
    if inputs.init is not None:
        _keep(path, sha256, inputs.bank)
    _check_size(config, network.config.patch_px)
    parts = [split(one, config.held_out) for one in _recordings(config, inputs)]
    inputs.say('looking for parallax')
    triplets = VideoTriplets(
        [training for training, _ in parts],
        config.data,
        inputs.device,
        least=_FEWEST,
        say=inputs.say,
    )
    held_out = VideoTriplets(
        [end for _, end in parts],
        config.data,
        inputs.device,
        least=_FEWEST_HELD_OUT,
        say=lambda line: inputs.say(f'held out of {line}'),
    )
    task = VideoTask(
        network,
        start_sha256=sha256,
        triplets=triplets,
        held_out=held_out,
        config=config,
        notes={**inputs.notes, 'frames': str(triplets.targets)},
        device=inputs.device,
    )
    kind = 'adapters' if config.adapters else 'every weight'
    inputs.say(f'training {kind}: {task.trained_share:.1%} of the parameters')
    return task


def _start(inputs: Inputs) -> Path:
    """The weights to begin with, or those that a resumed run began with."""
    if inputs.init is not None:
        return inputs.init
    kept = sorted(inputs.bank.glob(_START))
    if len(kept) > 1:
        raise CommandError(
            f'{inputs.bank}: holds the beginnings of {len(kept)} runs; give every run a --bank of '
            'its own, or none'
        )
    if not kept:
        raise CommandError(
            'training on video begins with a trained network; give --init with weights of '
            'kpvo train depth'
        )
    return kept[0]


def _keep(path: Path, sha256: str, bank: Path) -> None:
    """Copy the weights to begin with: adapters and a resumed run need the very same ones."""
    kept = bank / _START.replace('*', sha256[:12])
    partial = kept.with_name(f'.{kept.name}.{os.getpid()}')
    try:
        bank.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, partial)
        partial.replace(kept)
    except OSError as error:
        raise CommandError(
            f'{kept}: cannot be written ({error.strerror}); free the disk or choose another --out'
        ) from None


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be read ({error.strerror}); give --init a weights file'
        ) from None


def _check_size(config: VideoConfig, patch_px: int) -> None:
    for name in ('width_px', 'height_px'):
        value = getattr(config.data, name)
        if value % patch_px:
            raise CommandError(
                f'data.{name}={value} is no multiple of the {patch_px} px patches of this '
                f'network; try {max(round(value / patch_px), 2) * patch_px}'
            )


def _recordings(config: VideoConfig, inputs: Inputs) -> list[Recording]:
    from kpvo_ros.cli.video_frames import read_recording

    most = max(config.data.frames // max(len(inputs.data), 1), 1)
    recordings = []
    for path in inputs.data:
        one = read_recording(
            path, config.data, use=config.use, most=most, known_lengths=config.known_lengths
        )
        height, width = one.images.shape[-2:]
        inputs.say(
            f'{one.name}: {len(one)} frames of {width}x{height}, {one.images.nbytes / 1e6:.0f} MB'
        )
        recordings.append(one)
    return recordings
