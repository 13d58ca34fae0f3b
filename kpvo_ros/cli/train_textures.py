"""kpvo train textures: photos and procedural patterns to the task of the texture generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kpvo_ros.cli.train_inputs import Inputs, TaskKind, read_photos
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from kpvo_ros.methods.textures.data import Crops
    from kpvo_ros.methods.textures.task import TexturesConfig, TexturesTask

_ROOM = 7.0  # shorter side of a photo, in training pictures
_PART = 1.25  # side of the parts it is cut into
_HELD_OUT = 64  # pictures that are looked at in a validation
_SEEDS = (11, 12, 13)  # of the procedural patterns
_HELD_OUT_SEEDS = (14,)
_PATTERN_PX = 256


def textures() -> TaskKind:
    """The row of this task."""
    from kpvo_ros.methods.textures.task import TexturesConfig

    return TaskKind(TexturesConfig(), make_textures_task)


def make_textures_task(config: TexturesConfig, inputs: Inputs) -> TexturesTask:
    """Load photos, draw patterns, and put the task together.

    Raises:
        CommandError: no photo is large enough, or none could be held out.
    """
    import torch

    from kpvo_ros.methods.textures.data import TextureMaker, even_parts
    from kpvo_ros.methods.textures.task import TexturesTask
    from kpvo_ros.nets.checkpoint import load_weights
    from kpvo_ros.nets.diffusion import KIND
    from kpvo_ros.synthetic.texture import material_pictures

    short_side_px = round(_ROOM * config.data.size_px)
    photos = read_photos(inputs, short_side_px, config.photos, config.held_out)
    side_px = round(_PART * config.data.size_px)
    makers = []
    for recordings, seeds in ((photos.training, _SEEDS), (photos.held_out, _HELD_OUT_SEEDS)):
        images = [image for recording in recordings for image in recording.images]
        parts = even_parts(images, side_px, config.data.even_share)
        if not parts:
            raise CommandError(
                f'no photo of {side_px} px and more to train with and to hold out; give --data '
                'more photos'
            )
        patterns = [p for seed in seeds for p in material_pictures(seed, _PATTERN_PX).values()]
        crops = _crops(parts, inputs.device), _crops(patterns, inputs.device)
        makers.append(TextureMaker(*crops, config.data))
    maker, judge = makers
    return TexturesTask(
        maker.make,
        batch=config.batch,
        held_out=judge.make(_HELD_OUT, torch.Generator(inputs.device).manual_seed(4)),
        seed=config.training.seed,
        init=load_weights(inputs.init, kind=KIND)[0] if inputs.init else None,
        notes=inputs.notes,
        device=inputs.device,
    )


def _crops(images: list[np.ndarray], device: torch.device) -> Crops:
    from kpvo_ros.synthetic.photo_set import PhotoSet

    photos = PhotoSet([images])

    def crops(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
        return photos.crops(count, size_hw, generator, device)

    return crops
