"""What a recording holds, what is wrong with it, and how kpvo replay would read it."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from pathlib import Path
import shlex
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.bags.bag_stream import DEPTH_TOLERANCE_NS
from kpvo_ros.bags.camera_info import camera_from_info
from kpvo_ros.bags.pairing import nearest_pairs
from kpvo_ros.bags.sources import open_source
from kpvo_ros.bags.topics import CAMERA_INFO, TopicChoice, choose_topics
from kpvo_ros.cli.findings import Finding, Level
from kpvo_ros.cli.stamps import Stamps
from kpvo_ros.errors import BagError
from kpvo_ros.types import BadFrame, Frame

if TYPE_CHECKING:
    from kpvo_ros.bags.reader import Bag
    from kpvo_ros.bags.source import Source

_FRAMES_TO_TRY = 20
_MIN_PAIRED = 0.9


def recording_findings(path: Path) -> Iterator[Finding]:
    """Everything worth knowing about a recording, one finding a line."""
    from kpvo_ros.bags.reader import Bag

    try:
        source = open_source(path)
    except BagError as error:
        yield Finding(Level.BLOCK, 'open', str(error))
        if _looks_like_bag(path):
            yield from _topics_although(path)
        return
    with source:
        yield Finding(Level.OK, 'kind', source.info.kind.value)
        if _looks_like_bag(path):
            with Bag(path) as bag:
                yield from _bag_findings(bag)
        yield from _source_findings(path, source)


# ------------------------------------------------------------------------------------ private


def _looks_like_bag(path: Path) -> bool:
    from kpvo_ros.bags.sources import BAG_SUFFIXES, is_bag_folder

    return path.suffix in BAG_SUFFIXES or (path.is_dir() and is_bag_folder(path))


def _topics_although(path: Path) -> Iterator[Finding]:
    """The topics of a bag that cannot serve as a source."""
    from kpvo_ros.bags.reader import Bag

    try:
        with Bag(path) as bag:
            for name, info in bag.topics.items():
                yield Finding(Level.OK, name, f'{info.msgtype}, {info.count} messages')
    except BagError:
        return


def _bag_findings(bag: Bag) -> Iterator[Finding]:
    chosen, _ = choose_topics(bag.topics, TopicChoice())
    stamps = {}
    for name, info in bag.topics.items():
        stamps[name] = Stamps.of_topic(bag, name)
        yield Finding(Level.OK, name, f'{info.msgtype}, {info.count}, {stamps[name].rate_text}')
    for role in ('image', 'depth', 'odometry'):
        name = getattr(chosen, role)
        if name is not None:
            yield from stamps[name].findings(name)
    for name, info in bag.topics.items():
        if info.msgtype == CAMERA_INFO:
            yield _calibration(bag, name)
    if chosen.depth is not None:
        yield _pairing(chosen.depth, stamps[str(chosen.image)], stamps[chosen.depth])
    if chosen.tf_static is None:
        yield Finding(
            Level.WARN,
            '/tf_static',
            'missing: the pose of the camera on the robot is unknown',
            'record it, or set frames.extrinsics_xyz_m and frames.extrinsics_rpy_rad',
        )


def _calibration(bag: Bag, topic: str) -> Finding:
    """The first camera_info of a topic, and whether it makes sense."""
    for _, _, msg in itertools.islice(bag.messages({topic}), 1):
        try:
            camera = camera_from_info(msg)
        except BagError as error:
            return Finding(
                Level.WARN, topic, str(error), 'calibrate, or give --intrinsics camera.yaml'
            )
        said = (
            f'{camera.width}x{camera.height}, fx {camera.fx:.1f} fy {camera.fy:.1f} '
            f'cx {camera.cx:.1f} cy {camera.cy:.1f}, {camera.model.value}'
        )
        centred = 0 < camera.cx < camera.width and 0 < camera.cy < camera.height
        if not centred:
            return Finding(
                Level.WARN, topic, said, 'the principal point lies outside of the image: check it'
            )
        return Finding(Level.OK, topic, said)
    return Finding(Level.WARN, topic, 'no readable message', 'record it again')


def _pairing(depth_topic: str, images: Stamps, depth: Stamps) -> Finding:
    """How many images have a depth map of their time."""
    if not len(images.stamps_ns) or not len(depth.stamps_ns):
        return Finding(Level.WARN, depth_topic, 'no stamps to pair')
    pairs = nearest_pairs(images.stamps_ns.tolist(), depth.stamps_ns.tolist(), DEPTH_TOLERANCE_NS)
    share = len(pairs) / len(images.stamps_ns)
    tolerance_ms = DEPTH_TOLERANCE_NS / 1e6
    said = f'{100 * share:.0f} % of the images have depth within {tolerance_ms:.0f} ms'
    if share < _MIN_PAIRED:
        return Finding(
            Level.WARN, depth_topic, said, 'synchronise the sensors, or record all of it'
        )
    return Finding(Level.OK, depth_topic, said)


def _source_findings(path: Path, source: Source) -> Iterator[Finding]:
    """What replay would see in the first frames, and how to start it."""
    records = (r for r in source.records() if isinstance(r, Frame | BadFrame))
    frames = list(itertools.islice(records, _FRAMES_TO_TRY))
    bad = [frame for frame in frames if isinstance(frame, BadFrame)]
    for note in source.info.notes:
        yield Finding(Level.WARN, 'note', note)
    if len(bad) == len(frames):
        why = bad[0].reason if bad else 'the recording has no images'
        yield Finding(Level.BLOCK, 'frames', f'none of the first {len(frames)} is usable: {why}')
        return
    level = Level.WARN if bad else Level.OK
    good = next(frame for frame in frames if isinstance(frame, Frame))
    grey = np.median([f.gray.mean() for f in frames if isinstance(f, Frame)])
    said = f'{len(frames) - len(bad)} of the first {len(frames)} usable'
    yield Finding(level, 'frames', said + (f' ({bad[0].reason})' if bad else ''))
    height, width = good.image.shape[:2]
    shape = 'grey' if good.image.ndim == 2 else 'colour'
    yield Finding(Level.OK, 'image', f'{width}x{height} {shape}, mean brightness {grey:.0f}')
    yield Finding(Level.OK, 'ground truth', 'yes' if source.info.has_ground_truth else 'no')
    extrinsics = source.extrinsics()
    if extrinsics is not None:
        x, y, z = extrinsics[:3, 3]
        yield Finding(Level.OK, 'camera on base', f'at x {x:.3f} y {y:.3f} z {z:.3f} m')
    scale = 'scale.source=depth'
    if not any(f.depth_m is not None for f in frames if isinstance(f, Frame)):
        scale = 'scale.source=none'
        yield Finding(
            Level.WARN,
            'metric scale',
            'no depth that fits the images: poses get an arbitrary unit',
            'scale.source=camera_height scale.camera_height_m=... or scale.source=wheel',
        )
    command = f'kpvo replay {shlex.quote(str(path))} --out out/{source.info.name} {scale}'
    yield Finding(Level.OK, 'replay with', command)
