"""Shows a replay in the rerun viewer, or saves it for later: an observer of `bags.replay`.

World is the odom frame (z up). rerun-sdk is an optional extra.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from kpvo_ros.errors import CommandError
from kpvo_ros.geometry import se3
from kpvo_ros.types import Frame, OdometryEstimate, Status

_USED, _UNUSED = (0, 230, 118), (255, 145, 0)
_PATH_COLOUR = (30, 136, 229)
_CAMERA, _IMAGE = 'odom/camera', 'odom/camera/image'
_JPEG_QUALITY = 80
_LEVELS = {
    Status.STARTING: 'INFO',
    Status.TRACKING: 'INFO',
    Status.DEGRADED: 'WARN',
    Status.LOST: 'ERROR',
}


class RerunView:
    """Logs image, keypoints, depth, camera, path and status of every frame.

    Args:
        path: file to save (.rrd); '' opens the viewer.

    Raises:
        CommandError: rerun-sdk is not installed, or the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        if path and not path.endswith('.rrd'):
            raise CommandError(f'--rerun takes FILE.rrd or nothing, not {path!r}')
        self._rr = _load_rerun()
        self._positions: list[np.ndarray] = []
        self._last_status: tuple[Status, str] | None = None
        self._rr.init('kpvo', spawn=not path)
        if path:
            try:
                self._rr.save(path)
            except (OSError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise CommandError(
                    f'{path}: cannot be written ({reason}); choose another --rerun file'
                ) from None
        self._rr.log('odom', self._rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def __call__(self, frame: Frame, estimate: OdometryEstimate) -> None:
        """Log one frame."""
        self._rr.set_time('stamp', timestamp=frame.stamp_ns * 1e-9)
        self._log_camera(frame, estimate)
        self._log_image(frame, estimate)
        if estimate.has_pose:
            self._positions.append(estimate.T_odom_camera[:3, 3])
            line = self._rr.LineStrips3D([np.array(self._positions)], colors=[_PATH_COLOUR])
            self._rr.log('odom/path', line)
        self._log_numbers(estimate)

    def _log_camera(self, frame: Frame, estimate: OdometryEstimate) -> None:
        T = estimate.T_odom_camera
        quaternion = self._rr.Quaternion(xyzw=se3.quat_xyzw_from_matrix(T[:3, :3]))
        self._rr.log(_CAMERA, self._rr.Transform3D(translation=T[:3, 3], quaternion=quaternion))
        camera = frame.camera
        pinhole = self._rr.Pinhole(
            image_from_camera=camera.K,
            width=camera.width,
            height=camera.height,
            camera_xyz=self._rr.ViewCoordinates.RDF,
        )
        self._rr.log(_IMAGE, pinhole)

    def _log_image(self, frame: Frame, estimate: OdometryEstimate) -> None:
        self._rr.log(_IMAGE, self._rr.Image(frame.image).compress(jpeg_quality=_JPEG_QUALITY))
        features = estimate.features
        colors = np.where(features.score[:, None] > 0, _USED, _UNUSED).astype(np.uint8)
        points = self._rr.Points2D(features.xy, colors=colors, radii=2.0)
        self._rr.log(f'{_IMAGE}/keypoints', points)
        if frame.depth_m is not None:
            depth_m = np.nan_to_num(frame.depth_m, nan=0.0)
            self._rr.log(f'{_IMAGE}/depth', self._rr.DepthImage(depth_m, meter=1.0))

    def _log_numbers(self, estimate: OdometryEstimate) -> None:
        self._rr.log('inliers', self._rr.Scalars(float(estimate.inliers)))
        sigma_m = float(np.sqrt(np.trace(estimate.covariance[:3, :3])))
        self._rr.log('position_sigma_m', self._rr.Scalars(sigma_m))
        told = estimate.status, estimate.reason
        if told != self._last_status:
            text = f'{estimate.status.value} {estimate.reason}'.strip()
            self._rr.log('status', self._rr.TextLog(text, level=_LEVELS[estimate.status]))
            self._last_status = told


def _load_rerun() -> Any:
    try:
        return importlib.import_module('rerun')
    except ImportError as error:
        raise CommandError(
            f"the viewer is not installed ({error}): pip install 'rerun-sdk>=0.23'"
        ) from None
