"""Intrinsics files: our flat layout, ROS camera_info YAML, Kalibr, EuRoC's sensor.yaml.

All are YAML and tell themselves apart by their keys. Files are read with the safe loader only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kpvo_ros.bags.cameras import build_camera
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera

_MAX_BYTES = 1 << 20


def read_intrinsics(path: str | Path) -> Camera:
    """Read the camera described by a YAML file.

    Understood are: a flat file with `width height fx fy cx cy distortion_model distortion`, a ROS
    camera_info file (`camera_matrix: {data: [...]}`), a Kalibr camchain (`cam0: {intrinsics,
    resolution, ...}`; its first camera), and EuRoC's `sensor.yaml`.

    Raises:
        BagError: the file is missing, is not YAML, or does not describe a calibrated camera.
    """
    document = read_yaml(path)
    where = f'intrinsics file {str(path)!r}'
    try:
        return _camera_from(document, where)
    except KeyError as error:
        raise BagError(
            f'{where} lacks {error.args[0]!r}: give width, height, fx, fy, cx, cy'
        ) from None
    except (TypeError, ValueError, OverflowError):
        raise BagError(f'{where} holds values that are not numbers: check the file') from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a small YAML file that holds a mapping, also as OpenCV writes it.

    Raises:
        BagError: the file is missing, too large, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BagError(f'{str(path)!r} is too large for a calibration file: check the path')
        text = path.read_text('utf-8')
    except FileNotFoundError:
        raise BagError(f'intrinsics file {str(path)!r} does not exist: check the path') from None
    except (OSError, UnicodeDecodeError, ValueError):
        raise BagError(f'{str(path)!r} cannot be read as text: pass a YAML file') from None
    try:
        document = yaml.safe_load(_without_opencv_marks(text))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError):
        raise BagError(f'{str(path)!r} is not valid YAML: check the file') from None
    if not isinstance(document, dict):
        raise BagError(f'{str(path)!r} holds no keys: pass a YAML file with camera intrinsics')
    return document


def _without_opencv_marks(text: str) -> str:
    """OpenCV's `%YAML:1.0` line and matrix tag are not YAML 1.1."""
    lines = text.replace('!!opencv-matrix', '').splitlines()
    return '\n'.join(line for line in lines if not line.startswith('%YAML:'))


def _camera_from(document: Mapping[str, Any], where: str) -> Camera:
    if 'camera_matrix' in document:
        return _from_camera_info(document, where)
    for name in ('cam0', *sorted(k for k in document if str(k).startswith('cam'))):
        if isinstance(document.get(name), Mapping) and 'intrinsics' in document[name]:
            return _from_kalibr(document[name], where)
    if 'intrinsics' in document:
        return _from_kalibr(document, where)
    return build_camera(
        document['width'],
        document['height'],
        [document[key] for key in ('fx', 'fy', 'cx', 'cy')],
        _model_name(document),
        _numbers(document.get('distortion')),
        where,
    )


def _from_camera_info(document: Mapping[str, Any], where: str) -> Camera:
    K = _numbers(document['camera_matrix'])
    if len(K) != 9:
        raise BagError(f'{where} has a camera_matrix of {len(K)} numbers: it needs 9')
    return build_camera(
        document['image_width'],
        document['image_height'],
        [K[0], K[4], K[2], K[5]],
        _model_name(document),
        _numbers(document.get('distortion_coefficients')),
        where,
    )


def _from_kalibr(document: Mapping[str, Any], where: str) -> Camera:
    if document.get('camera_model', 'pinhole') != 'pinhole':
        raise BagError(
            f'{where} uses camera_model {document["camera_model"]!r}: calibrate as pinhole'
        )
    intrinsics = _numbers(document['intrinsics'])
    resolution = _numbers(document['resolution'])
    if len(intrinsics) != 4 or len(resolution) != 2:
        raise BagError(f'{where} needs 4 intrinsics and a resolution of 2 numbers: check the file')
    distortion = document.get('distortion_coeffs', document.get('distortion_coefficients'))
    width, height = (int(v) for v in resolution)
    return build_camera(
        width, height, intrinsics, _model_name(document), _numbers(distortion), where
    )


def _model_name(document: Mapping[str, Any]) -> str:
    return str(document.get('distortion_model') or 'plumb_bob')


def _numbers(value: Any) -> list[float]:
    """A list of numbers, plain, nested in rows, or under `data`; nothing is an empty list."""
    if isinstance(value, Mapping):
        value = value['data']
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError('not a list')
    return [float(v) for v in np.asarray(value, dtype=np.float64).ravel()]
