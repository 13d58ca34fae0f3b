"""kpvo train completion, kpvo train alignment: rendered walks and recordings to a pretext task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kpvo_ros.cli.train_depth import walks
from kpvo_ros.cli.train_inputs import Inputs, TaskKind, read_photos
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kpvo_ros.bags.photos import PhotoSequence
    from kpvo_ros.methods.crossview.alignment_task import AlignmentConfig, AlignmentTask
    from kpvo_ros.methods.crossview.completion_task import CompletionConfig, CompletionTask
    from kpvo_ros.methods.crossview.frame_data import MakePairs, RecordedPairs
    from kpvo_ros.methods.crossview.pairs import FramePairs

    PretextConfig = AlignmentConfig | CompletionConfig

_ROOM = 1.3  # shorter side of a frame, in pictures that are cut from it
_HELD_OUT_SEED = 1


def completion() -> TaskKind:
    """The row of cross-view completion."""
    from kpvo_ros.methods.crossview.completion_task import CompletionConfig

    return TaskKind(CompletionConfig(), make_completion_task, needs_data=False)


def alignment() -> TaskKind:
    """The row of cross-view alignment."""
    from kpvo_ros.methods.crossview.alignment_task import AlignmentConfig

    return TaskKind(AlignmentConfig(), make_alignment_task, needs_data=False)


def make_completion_task(config: CompletionConfig, inputs: Inputs) -> CompletionTask:
    """Load what pairs are made of, the weights to begin with, and put the task together.

    Raises:
        CommandError: the recordings do not suit, or the weights have other sizes.
    """
    from kpvo_ros.methods.crossview.completion_task import CompletionTask, new_completion_net
    from kpvo_ros.nets.completion import check_same_sizes, load_completion_net

    network = new_completion_net(config)
    if inputs.init is not None:
        start = load_completion_net(inputs.init)
        check_same_sizes(network.config, start.config, f'weights {inputs.init}')
        network = start.train()
    make_pairs, held_out = pairs_of(config, inputs)
    return CompletionTask(
        make_pairs,
        held_out=held_out,
        config=config,
        network=network,
        notes=_notes(config, inputs),
        device=inputs.device,
    )


def make_alignment_task(config: AlignmentConfig, inputs: Inputs) -> AlignmentTask:
    """Load what pairs are made of, the weights to begin with, and put the task together.

    Raises:
        CommandError: the recordings do not suit, or the weights have other sizes.
    """
    from kpvo_ros.methods.crossview.alignment_task import AlignmentTask, new_alignment_net
    from kpvo_ros.nets.alignment import load_alignment_net
    from kpvo_ros.nets.completion import check_same_sizes

    network = new_alignment_net(config)
    if inputs.init is not None:
        start = load_alignment_net(inputs.init)
        check_same_sizes(network.config, start.config, f'weights {inputs.init}')
        network = start.train()
    make_pairs, held_out = pairs_of(config, inputs)
    return AlignmentTask(
        make_pairs,
        held_out=held_out,
        config=config,
        network=network,
        notes=_notes(config, inputs),
        device=inputs.device,
    )


def pairs_of(config: PretextConfig, inputs: Inputs) -> tuple[MakePairs, FramePairs]:
    """What makes the pairs of a batch, and the pairs that no training shows.

    Raises:
        CommandError: no recording in time is long enough, or frames alone are asked for and
            there are none.
    """
    from kpvo_ros.methods.crossview.frame_data import joined, mixed

    share = config.frames.share if inputs.data else 0.0
    if not inputs.data and config.frames.share == 1.0:
        raise CommandError('frames.share=1 leaves nothing but recordings; give --data')
    if inputs.data and not share:
        raise CommandError('frames.share=0 leaves --data unused; leave it out')
    held_out = []
    if share > 0:  # wrong recordings are told before anything is rendered
        frames, ends = _recorded(config, inputs)
        count = max(2, round(share * config.held_out_pairs))
        held_out.append(_fixed(ends, count))
        if share == 1.0:
            return frames.make, held_out[0]
    rendered, unseen = _rendered(config, inputs)
    held_out.append(unseen)
    return (mixed(rendered, frames.make, share) if share > 0 else rendered), joined(held_out)


def _rendered(config: PretextConfig, inputs: Inputs) -> tuple[MakePairs, FramePairs]:
    """A maker of pairs of rendered walks, and held-out ones of other worlds."""
    from kpvo_ros.methods.crossview.rendered_data import RenderedPairs
    from kpvo_ros.synthetic.walk_bank import HELD_OUT_PART

    share = config.frames.share if inputs.data else 0.0
    unseen = walks(inputs, config.held_out_walks, config.walk_seed, HELD_OUT_PART)
    count = max(2, round((1.0 - share) * config.held_out_pairs))
    held_out = RenderedPairs(unseen, config.data).fixed(count).to(inputs.device)
    seen = walks(inputs, config.walks, config.walk_seed).to(inputs.device)
    return RenderedPairs(seen, config.data).make, held_out


def _recorded(config: PretextConfig, inputs: Inputs) -> tuple[RecordedPairs, RecordedPairs]:
    """Makers of pairs of frames: of the beginnings of recordings, and of their ends."""
    size_hw = (config.data.height_px, config.data.width_px)
    frames = config.frames
    photos = read_photos(inputs, round(_ROOM * min(size_hw)), frames.photos, frames.held_out)
    return (
        _in_time(photos.training, config, inputs),
        _in_time(photos.held_out, config, inputs),
    )


def _in_time(
    parts: Sequence[PhotoSequence], config: PretextConfig, inputs: Inputs
) -> RecordedPairs:
    from kpvo_ros.methods.crossview.frame_data import RecordedPairs
    from kpvo_ros.synthetic.photo_set import PhotoSet

    usable = [part.images for part in parts if part.in_time and len(part.images) > 1]
    if not usable:
        raise CommandError(
            'no frames that follow each other to train on and to hold out; give --data longer '
            'videos, bags, or folders with a frames.txt, or leave it out'
        )
    size_hw = (config.data.height_px, config.data.width_px)
    photos = PhotoSet(usable, [True] * len(usable))
    return RecordedPairs(photos, config.frames.max_gap, size_hw, inputs.device)


def _fixed(pairs: RecordedPairs, count: int) -> FramePairs:
    """The same pairs every time."""
    import torch

    return pairs.make(count, torch.Generator().manual_seed(_HELD_OUT_SEED))


def _notes(config: PretextConfig, inputs: Inputs) -> dict[str, str]:
    """What the weights file says of its data."""
    share = config.frames.share if inputs.data else 0.0
    sources = [f'{config.walks} rendered walks, seed {config.walk_seed}'] if share < 1 else []
    sources += [f'frames of {inputs.notes.get("data", "")}'] if share else []
    return {**inputs.notes, 'data': '; '.join(sources)}
