"""Which topics of a bag are the camera, its intrinsics, depth, odometry, gyro and truth.

Whatever the user names is taken; the rest is guessed from types and names, and every guess that
had a choice is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
import dataclasses
import logging
import re

from kpvo_ros.bags.reader import TopicInfo
from kpvo_ros.errors import BagError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
ODOMETRY = 'nav_msgs/msg/Odometry'
IMU = 'sensor_msgs/msg/Imu'
POSE_STAMPED = 'geometry_msgs/msg/PoseStamped'
POSE_WITH_COVARIANCE = 'geometry_msgs/msg/PoseWithCovarianceStamped'
TF_MESSAGES = frozenset({'tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage'})

_IMAGES = frozenset({IMAGE, COMPRESSED_IMAGE})
_POSES = frozenset({ODOMETRY, POSE_STAMPED, POSE_WITH_COVARIANCE})
_TRANSPORTS = ('/compressedDepth', '/compressed')
_DEPTH = re.compile(r'depth|disparity', re.IGNORECASE)
_NOT_COLOUR = re.compile(r'infra|/ir\b|/ir/|mask|segment|debug|right|cam1|theora', re.IGNORECASE)
_COLOUR = re.compile(r'colou?r|rgb|left|cam0', re.IGNORECASE)
_TRUTH = re.compile(r'ground_?truth|(^|[/_])gt($|[/_])', re.IGNORECASE)
_NOT_WHEELS = re.compile(r'visual|vio\b|vo\b|/vo/|lidar|laser|slam|kpvo|filtered', re.IGNORECASE)
_NOT_GYRO = re.compile(r'accel|mag(?!ic)|filtered', re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TopicChoice:
    """Topics as the user names them, None to guess; after `choose_topics`, None is absent."""

    image: str | None = None
    camera_info: str | None = None
    depth: str | None = None
    odometry: str | None = None
    ground_truth: str | None = None
    tf_static: str | None = None
    imu: str | None = None


def topics_by_kind(topics: Mapping[str, TopicInfo]) -> dict[str, list[str]]:
    """Topics that could be meant, best guess first.

    Args:
        topics: topics of a bag.

    Returns:
        Lists of names for image, camera_info, depth, odometry, imu, ground_truth and tf_static.
    """
    images = [n for n, info in topics.items() if info.msgtype in _IMAGES]
    depth = [n for n in images if _DEPTH.search(n)]
    odometry = [n for n, info in topics.items() if info.msgtype == ODOMETRY]
    truth = [n for n, i in topics.items() if i.msgtype in _POSES and _TRUTH.search(n)]
    wheels = [n for n in odometry if n not in truth and not _NOT_WHEELS.search(n)]
    return {
        'image': _ranked([n for n in images if n not in depth], topics, _image_rank),
        'camera_info': [n for n, info in topics.items() if info.msgtype == CAMERA_INFO],
        'depth': _ranked(depth, topics, _depth_rank),
        'odometry': _ranked(wheels, topics, lambda n: 0 if 'wheel' in n.lower() else 1),
        'imu': _ranked([n for n, i in topics.items() if i.msgtype == IMU], topics, _imu_rank),
        'ground_truth': truth,
        'tf_static': [
            n
            for n, info in topics.items()
            if info.msgtype in TF_MESSAGES and n.endswith('tf_static')
        ],
    }


def choose_topics(
    topics: Mapping[str, TopicInfo], choice: TopicChoice
) -> tuple[TopicChoice, list[str]]:
    """Fill in what the user left open.

    Args:
        topics: topics of a bag.
        choice: what the user named.

    Returns:
        The topics to use, and one sentence per guess.

    Raises:
        BagError: a named topic is absent or of another type, or there is no image topic.
    """
    kinds = topics_by_kind(topics)
    notes: list[str] = []
    image = _pick('image', choice.image, kinds['image'], topics, _IMAGES, notes)
    if image is None:
        raise BagError(f'no image topic among {_listed(topics)}: record one or name it')
    chosen = TopicChoice(
        image=image,
        camera_info=_pick_info(image, choice.camera_info, kinds['camera_info'], topics, notes),
        depth=_pick('depth', choice.depth, kinds['depth'], topics, _IMAGES, notes),
        odometry=_pick('odometry', choice.odometry, kinds['odometry'], topics, {ODOMETRY}, notes),
        ground_truth=_pick(
            'ground_truth', choice.ground_truth, kinds['ground_truth'], topics, _POSES, notes
        ),
        tf_static=next(iter(kinds['tf_static']), None),
        imu=_pick('imu', choice.imu, kinds['imu'], topics, {IMU}, notes),
    )
    for note in notes:
        _log.info('%s', note)
    return chosen, notes


def _pick(
    kind: str,
    named: str | None,
    candidates: list[str],
    topics: Mapping[str, TopicInfo],
    msgtypes: Container[str],
    notes: list[str],
) -> str | None:
    if named is not None:
        return _named_topic(kind, named, topics, msgtypes)
    if len(candidates) > 1:
        notes.append(
            f'{kind} topic guessed: {candidates[0]} (also there: {", ".join(candidates[1:])}); '
            f'choose with {kind}_topic'
        )
    return candidates[0] if candidates else None


def _named_topic(
    kind: str, named: str, topics: Mapping[str, TopicInfo], msgtypes: Container[str]
) -> str:
    """The topic the user means, also when only its compressed transport was recorded."""
    for name in (named, *(named + transport for transport in _TRANSPORTS)):
        if name in topics and topics[name].msgtype in msgtypes:
            return name
    if named in topics:
        raise BagError(f'{named} is {topics[named].msgtype}: it cannot be the {kind} topic')
    raise BagError(f'{kind} topic {named} is not in the bag, which has {_listed(topics)}')


def _pick_info(
    image: str,
    named: str | None,
    candidates: list[str],
    topics: Mapping[str, TopicInfo],
    notes: list[str],
) -> str | None:
    """The camera_info beside the image, else the only one."""
    if named is not None:
        return _named_topic('camera_info', named, topics, {CAMERA_INFO})
    beside = f'{_base_name(image).rpartition("/")[0]}/camera_info'
    for name in (beside, f'{_base_name(image)}/camera_info'):
        if name in candidates:
            return name
    candidates = [name for name in candidates if not _DEPTH.search(name)]
    if not candidates:
        return None
    best = max(candidates, key=lambda name: len(_common_prefix(name, image)))
    notes.append(f'camera_info topic guessed: {best}; choose with camera_info_topic')
    return best


def _ranked(
    names: list[str], topics: Mapping[str, TopicInfo], rank: Callable[[str], int]
) -> list[str]:
    """Best first; among equals uncompressed first, then the one with more messages."""

    def key(name: str) -> tuple[int, bool, int, str]:
        info = topics[name]
        return rank(name), info.msgtype == COMPRESSED_IMAGE, -info.count, name

    return sorted((n for n in names if topics[n].count), key=key)


def _image_rank(name: str) -> int:
    if _NOT_COLOUR.search(name):
        return 2
    return 0 if _COLOUR.search(name) else 1


def _imu_rank(name: str) -> int:
    return 1 if _NOT_GYRO.search(name) else 0


def _depth_rank(name: str) -> int:
    if 'aligned' in name or 'registered' in name:
        return 0
    return 2 if 'disparity' in name else 1


def _base_name(topic: str) -> str:
    for transport in _TRANSPORTS:
        topic = topic.removesuffix(transport)
    return topic


def _common_prefix(first: str, second: str) -> list[str]:
    parts = zip(first.split('/'), second.split('/'), strict=False)
    common = []
    for a, b in parts:
        if a != b:
            break
        common.append(a)
    return common


def _listed(topics: Mapping[str, TopicInfo]) -> str:
    names = [f'{name} ({info.msgtype})' for name, info in topics.items()]
    return ', '.join(names[:20]) or 'no topics'
