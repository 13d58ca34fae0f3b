"""kpvo train homography: photos and rendered banks to the task of method A."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpvo_ros.cli.train_inputs import Inputs, TaskKind, read_photos
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kpvo_ros.methods.homography.task import HomographyConfig, HomographyTask
    from kpvo_ros.synthetic.object_bank import ObjectBank
    from kpvo_ros.synthetic.scene_pairs import SceneBank

_ROOM = 1.3  # shorter side of a photo, in pieces that are cut from it
_HELD_OUT = 96  # pictures that are looked at in a validation
_HELD_OUT_PX = 320
_BANK_SEED = 20240607


def homography() -> TaskKind:
    """The row of this task."""
    from kpvo_ros.methods.homography.task import HomographyConfig

    return TaskKind(HomographyConfig(), make_homography_task)


def make_homography_task(config: HomographyConfig, inputs: Inputs) -> HomographyTask:
    """Load photos, render or load the banks, and put the task together.

    Raises:
        CommandError: no photo could be held out.
    """
    import torch

    from kpvo_ros.methods.homography.data import PairMaker
    from kpvo_ros.methods.homography.task import HomographyTask
    from kpvo_ros.nets.checkpoint import load_weights
    from kpvo_ros.synthetic.photo_set import PhotoSet

    data = config.data
    short_side_px = max(_HELD_OUT_PX, round(_ROOM * data.margin * data.size_px))
    photos = read_photos(inputs, short_side_px, config.photos, config.held_out)
    photo_set = PhotoSet([part.images for part in photos.training])
    held_out = [image for part in photos.held_out for image in part.images]
    if not held_out:
        raise CommandError('no photo could be held out to validate; give --data more photos')

    def crops(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
        return photo_set.crops(count, size_hw, generator, inputs.device)

    things = _objects(config, inputs) if data.content and data.objects else None
    worlds = _scenes(config, inputs) if data.content and data.scenes else None
    maker = PairMaker(crops, data, things, worlds)
    init = load_weights(inputs.init, kind='keypoint')[0] if inputs.init else None
    return HomographyTask(
        maker.make,
        pairs=config.pairs,
        held_out=_held_out_crops(held_out).to(inputs.device),
        loss=config.loss,
        seed=config.training.seed,
        init=init,
        notes=inputs.notes,
        device=inputs.device,
    )


def _held_out_crops(images: list[np.ndarray]) -> Tensor:
    """(B, 3, H, W) pieces of different photos, evenly picked; always the same ones."""
    import torch

    from kpvo_ros.synthetic.photo_set import PhotoSet

    generator = torch.Generator().manual_seed(1)
    count = min(_HELD_OUT, len(images))
    picked = [images[int((i + 0.5) * len(images) / count)] for i in range(count)]
    size = (_HELD_OUT_PX, _HELD_OUT_PX)
    return torch.cat([PhotoSet([[image]]).crops(1, size, generator) for image in picked])


def _objects(config: HomographyConfig, inputs: Inputs) -> ObjectBank:
    import numpy as np

    from kpvo_ros.synthetic.content_folder import load_content
    from kpvo_ros.synthetic.coverings import load_textures
    from kpvo_ros.synthetic.object_bank import BankSize, ObjectBank, render_bank

    folder = Path(config.textures) if config.textures else None
    size = BankSize(objects=config.bank_objects)

    def make(progress: Callable[[int, int], None]) -> ObjectBank:
        rng = np.random.default_rng(_BANK_SEED)
        made = None if folder is None else load_textures(folder)
        return render_bank(rng, size, textures=made, device=inputs.device, progress=progress)

    cover = '' if folder is None else f'_{folder.resolve().name}_{_digest(folder)}'
    path = inputs.bank / f'objects_{config.bank_objects}{cover}.safetensors'
    bank = _kept(path, ObjectBank, make, 'things', inputs)
    if config.content:  # read every time: pictures are quickly read and may have changed
        bank = bank.joined(load_content(Path(config.content), size))
    return bank.to(inputs.device)


def _digest(folder: Path) -> str:
    """Tells folders of pictures apart that have the same name."""
    files = sorted((path.name, path.stat().st_size) for path in folder.glob('*.*'))
    return hashlib.sha256(repr(files).encode()).hexdigest()[:8]


def _scenes(config: HomographyConfig, inputs: Inputs) -> SceneBank:
    import numpy as np

    from kpvo_ros.synthetic.scene_pairs import SceneBank, render_scenes

    size_px = max(320, config.data.size_px)

    def make(progress: Callable[[int, int], None]) -> SceneBank:
        rng = np.random.default_rng(_BANK_SEED + 1)
        count = config.bank_scenes
        return render_scenes(rng, count, size_px=size_px, device=inputs.device, progress=progress)

    path = inputs.bank / f'scenes_{config.bank_scenes}_{size_px}.safetensors'
    return _kept(path, SceneBank, make, 'scene pairs', inputs).to(inputs.device)


def _kept(path: Path, kind: Any, make: Callable[..., Any], what: str, inputs: Inputs) -> Any:
    """The bank in a file, or a new one that is then kept there."""
    if path.is_file():
        return kind.load(path)

    def progress(done: int, total: int) -> None:
        if done in (1, total) or done % 20 == 0:
            inputs.say(f'rendering {what}: {done} of {total}')

    bank = make(progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f'.{path.name}.part')
        bank.save(beside)
        beside.replace(path)
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); choose another --bank'
        ) from None
    return bank
