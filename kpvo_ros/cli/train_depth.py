"""kpvo train depth: a bank of rendered walks to the supervised task of depth and odometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kpvo_ros.cli.train_inputs import Inputs, TaskKind
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from kpvo_ros.methods.crossview.depth_task import DepthConfig, DepthTask
    from kpvo_ros.synthetic.walk_bank import WalkBank


def depth() -> TaskKind:
    """The row of this task."""
    from kpvo_ros.methods.crossview.depth_task import DepthConfig

    return TaskKind(DepthConfig(), make_depth_task, needs_data=False)


def make_depth_task(config: DepthConfig, inputs: Inputs) -> DepthTask:
    """Render or load the walks, and put the task together.

    Raises:
        CommandError: recordings are given, which this task cannot use.
    """
    from kpvo_ros.methods.crossview.depth_task import DepthTask, start_network
    from kpvo_ros.methods.crossview.rendered_data import RenderedPairs
    from kpvo_ros.synthetic.walk_bank import HELD_OUT_PART

    if inputs.data:
        raise CommandError('kpvo train depth learns from rendered walks; leave --data out')
    network = start_network(config, inputs.init)  # a wrong file is told before anything else
    unseen = walks(inputs, config.held_out_walks, config.walk_seed, HELD_OUT_PART)
    held_out = RenderedPairs(unseen, config.data).fixed(config.held_out_pairs)
    seen = walks(inputs, config.walks, config.walk_seed).to(inputs.device)
    return DepthTask(
        RenderedPairs(seen, config.data).make,
        held_out=held_out,
        config=config,
        network=network,
        notes={**inputs.notes, 'data': f'{config.walks} rendered walks, seed {config.walk_seed}'},
        device=inputs.device,
    )


def walks(inputs: Inputs, count: int, seed: int, first_part: int = 0) -> WalkBank:
    """Rendered walks of the bank, on the CPU; those that it lacks are rendered.

    Args:
        inputs: folder of the bank, device, and where progress is shown.
        count: how many.
        seed: of the bank.
        first_part: see `load_or_render`.
    """
    from kpvo_ros.synthetic.walk_bank import load_or_render

    def progress(done: int, total: int) -> None:
        if done in (1, total) or done % 20 == 0:
            inputs.say(f'rendering walks: {done} of {total}')

    return load_or_render(
        inputs.bank,
        count,
        seed=seed,
        first_part=first_part,
        device=inputs.device,
        progress=progress,
    )
