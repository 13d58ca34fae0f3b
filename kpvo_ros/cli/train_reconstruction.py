"""kpvo train reconstruction: recordings to the task of method B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kpvo_ros.cli.train_inputs import Inputs, TaskKind, read_photos
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from kpvo_ros.bags.photos import PhotoSequence
    from kpvo_ros.methods.reconstruction.task import ReconstructionConfig, ReconstructionTask
    from kpvo_ros.synthetic.photo_set import PhotoSet
    from kpvo_ros.synthetic.scene_pairs import SceneBank

_ROOM = 1.3  # shorter side of a photo, in pieces that are cut from it
_HELD_OUT = 32  # pairs that are looked at in a validation
_HELD_OUT_PX = 320


def reconstruction() -> TaskKind:
    """The row of this task."""
    from kpvo_ros.methods.reconstruction.task import ReconstructionConfig

    return TaskKind(ReconstructionConfig(), make_reconstruction_task)


def make_reconstruction_task(config: ReconstructionConfig, inputs: Inputs) -> ReconstructionTask:
    """Load recordings, the weights to begin with, and put the task together.

    Raises:
        CommandError: no recording in time is long enough to hold frames out.
    """
    from kpvo_ros.methods.reconstruction.data import FramePairs
    from kpvo_ros.methods.reconstruction.held_out import make_held_out
    from kpvo_ros.methods.reconstruction.task import ReconstructionTask
    from kpvo_ros.nets.keypoint import load_keypoint_net

    data = config.data
    encoder = load_keypoint_net(inputs.init) if inputs.init else None
    short_side_px = max(_HELD_OUT_PX, round(_ROOM * data.margin * data.size_px))
    photos = read_photos(inputs, short_side_px, config.photos, config.held_out)
    ends = _photo_set(photos.held_out)
    if ends is None or not ends.sequences:
        raise CommandError(
            'no frames could be held out to validate; give --data longer videos, bags, or folders '
            'with a frames.txt'
        )
    training = _photo_set(photos.training)
    assert training is not None  # load_photos never comes back without
    scenes = _scenes(config, inputs) if data.scenes else None
    return ReconstructionTask(
        FramePairs(training, data, scenes, inputs.device).make,
        held_out=make_held_out(ends, _HELD_OUT, _HELD_OUT_PX, data.max_gap, inputs.device),
        config=config,
        encoder=encoder,
        notes=inputs.notes,
        device=inputs.device,
    )


def _photo_set(parts: Sequence[PhotoSequence]) -> PhotoSet | None:
    from kpvo_ros.synthetic.photo_set import PhotoSet

    if not parts:
        return None
    return PhotoSet([part.images for part in parts], [part.in_time for part in parts])


def _scenes(config: ReconstructionConfig, inputs: Inputs) -> SceneBank:
    """The bank that method A has rendered; method B comes after it."""
    from kpvo_ros.synthetic.scene_pairs import SceneBank

    size_px = max(_HELD_OUT_PX, config.data.size_px)
    path = inputs.bank / f'scenes_{config.bank_scenes}_{size_px}.safetensors'
    if not path.is_file():
        raise CommandError(
            f'{path}: no rendered scenes there; give --bank of a run of kpvo train homography '
            'with the same bank_scenes, or set data.scenes=0'
        )
    return SceneBank.load(path).to(inputs.device)
