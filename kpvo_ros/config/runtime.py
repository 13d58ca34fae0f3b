"""Every parameter of the run-time system, declared once.

The defaults run a hand-held or wheeled robot with a VGA camera and no further knowledge; the
sentences say when to change a value. `VoConfig` is what `kpvo replay` and vo_node take,
`KeypointConfig` what keypoint_node takes.
"""

from __future__ import annotations

import dataclasses

from kpvo_ros.config.frontend import FrontendConfig as FrontendConfig
from kpvo_ros.config.places import LoopClosureConfig, MemoryConfig
from kpvo_ros.config.schema import parameter, section


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """How points of the map are found in the new image, and when a pose is believed."""

    method: str = parameter(
        'hybrid',
        'flow follows points by optical flow, descriptor matches keypoints, hybrid falls back '
        'from flow to descriptors when the flow fails.',
        choices=('flow', 'descriptor', 'hybrid'),
    )
    flow_window_px: int = parameter(
        16,
        'Side of the patch that optical flow finds a point with; enlarge for blurred images. '
        'Multiples of 8 are cheapest.',
        low=5,
        high=64,
    )
    flow_refine_px: int = parameter(
        11,
        'Side of the patch that refines the result; small patches follow depth edges and zoom.',
        low=5,
        high=63,
    )
    flow_levels: int = parameter(
        4, 'Pyramid levels of the optical flow; more allow faster image motion.', low=0, high=8
    )
    flow_max_error_px: float = parameter(
        0.3, 'A track is kept when flowing back ends this close to its start.', low=0.05, high=10.0
    )
    patch_max_move_px: float = parameter(
        1.0,
        'A track is given up when aligning it with its first sight moves it further than this.',
        low=0.1,
        high=10.0,
    )
    match_ratio: float = parameter(
        0.85,
        'Best over second-best descriptor distance above which a match is refused.',
        low=0.1,
        high=1.0,
    )
    inlier_threshold_px: float = parameter(
        2.0, 'Reprojection error up to which a point supports the pose.', low=0.2, high=20.0
    )
    min_inliers: int = parameter(
        15, 'Fewer supporting points than this and the frame is LOST.', low=6, high=1000
    )
    degraded_inliers: int = parameter(
        40, 'Fewer supporting points than this and the frame is DEGRADED.', low=6, high=2000
    )
    max_speed_m_s: float = parameter(
        30.0,
        'A pose that implies a faster motion is refused; set it to what the robot can do.',
        low=0.01,
        high=200.0,
    )
    max_turn_rad_s: float = parameter(
        12.0, 'A pose that implies a faster turn is refused.', low=0.01, high=100.0
    )
    correction_m_s: float = parameter(
        0.5,
        'When the pose is found to be off, as after a blackout, the published one walks over at '
        'this speed; a controller must be able to bear it.',
        low=0.001,
        high=1000.0,
    )
    correction_rad_s: float = parameter(0.5, 'The same for the heading.', low=0.001, high=1000.0)


@dataclasses.dataclass(frozen=True)
class KeyframeConfig:
    """When a frame becomes part of the map, and how much map is kept."""

    min_parallax_deg: float = parameter(
        1.0,
        'A new point is triangulated when its rays differ by this angle; larger is more exact.',
        low=0.05,
        high=20.0,
    )
    bootstrap_parallax_deg: float = parameter(
        1.5,
        'Without depth, the map starts when half of the points have this parallax.',
        low=0.1,
        high=20.0,
    )
    min_tracked_ratio: float = parameter(
        0.7,
        "A keyframe is made when fewer than this share of its predecessor's points is still seen.",
        low=0.1,
        high=1.0,
    )
    max_flow_ratio: float = parameter(
        0.1,
        'A keyframe is made when points moved by this share of the image width since the last.',
        low=0.01,
        high=1.0,
    )
    window: int = parameter(
        12, 'Keyframes whose points are searched in a new image.', low=2, high=200
    )
    adjust_window: int = parameter(
        8,
        'Keyframes adjusted together after every new one; 2 switches the adjustment off.',
        low=2,
        high=50,
    )
    restart_after_s: float = parameter(
        1.0,
        'After being lost this long a new map is made at the held pose; longer gives the robot '
        'more time to return into sight of the old one.',
        low=0.0,
        high=3600.0,
    )


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """Where metres come from."""

    source: str = parameter(
        'none',
        'depth (topic or files), camera_height (needs scale.camera_height_m and a visible floor), '
        'wheel (an odometry topic), learned (needs depth.source learned), or none (poses in an '
        'arbitrary unit).',
        choices=('none', 'depth', 'camera_height', 'wheel', 'learned'),
    )
    camera_height_m: float = parameter(
        0.0,
        'Height of the camera above the floor; needed by source camera_height.',
        low=0.0,
        high=100.0,
    )
    camera_pitch_deg: float = parameter(
        0.0,
        'Angle by which the camera looks down from the horizontal; a start value for the floor.',
        low=-89.0,
        high=89.0,
    )
    min_depth_m: float = parameter(
        0.1, 'Depth readings below this are ignored.', low=0.0, high=100.0
    )
    max_depth_m: float = parameter(
        20.0,
        'Depth readings above this are ignored; sensors are bad far away.',
        low=0.1,
        high=1000.0,
    )
    depth_sigma: float = parameter(
        0.02, 'Standard deviation of a depth reading relative to the depth.', low=0.0001, high=1.0
    )
    depth_bias_sigma: float = parameter(
        0.005,
        'What all depth readings may have in common (calibration), relative; it does not average '
        'out, so the published covariance grows with the way by it.',
        low=0.0,
        high=1.0,
    )


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """Depth and motion from a network that looks at two images; needs torch."""

    source: str = parameter(
        'off',
        'learned looks at every keyframe in a thread of its own: new points of the map have a '
        'depth at once, and the depth is published.',
        choices=('off', 'learned'),
    )
    weights_path: str = parameter(
        '',
        'Weights (.safetensors), for those of your own training; empty takes the ones that came '
        'with the package.',
    )
    precision: str = parameter(
        'auto',
        'auto computes in bfloat16 on a processor that multiplies it in hardware (AMX, '
        'AVX512-BF16); float32 to compare computers.',
        choices=('auto', 'float32', 'bfloat16'),
    )
    max_sigma: float = parameter(
        0.3,
        'Pixels whose depth is less certain than this, relative, are left out; lower it where '
        'the cloud shows obstacles that are not there.',
        low=0.01,
        high=10.0,
    )
    bias_sigma: float = parameter(
        0.05,
        'What the depths of a place may have in common, relative; it does not average out, and no '
        'depth or scale is taken to be better.',
        low=0.001,
        high=1.0,
    )
    carry: bool = parameter(
        True,
        'While no points of the map are found, go on by the motion the network sees, as DEGRADED; '
        'costs the time of the network for each such image.',
    )
    rate_hz: float = parameter(
        2.0,
        'Depth images a second that are made between keyframes while somebody listens, as a '
        'costmap needs them at rest; 0 for those of keyframes alone.',
        low=0.0,
        high=60.0,
    )


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """What the robot feels of its own motion, between images and while it sees nothing."""

    wheel: bool = parameter(
        False,
        'Predict by the wheel odometry, and go on by it while the camera sees nothing; needs '
        'poses in metres.',
    )
    gyro: bool = parameter(
        False, 'Predict rotation by the gyro of an IMU; helps when the robot turns abruptly.'
    )
    wheel_way_sigma: float = parameter(
        0.02,
        'Standard deviation of the way by the wheels, relative; raise it for soft ground.',
        low=0.0001,
        high=1.0,
    )
    wheel_turn_sigma_deg_m: float = parameter(
        1.0,
        'Standard deviation of the heading by the wheels, per metre of way; raise it for tracks '
        'and skid steering.',
        low=0.0001,
        high=90.0,
    )
    wheel_turn_sigma: float = parameter(
        0.05, 'Standard deviation of a turn by the wheels, relative.', low=0.0001, high=1.0
    )
    gyro_bias_sigma_rad_s: float = parameter(
        0.01,
        'What the gyro may show at rest before its bias was learned, which takes a moment of '
        'standing still.',
        low=0.00001,
        high=1.0,
    )


@dataclasses.dataclass(frozen=True)
class FramesConfig:
    """Names of coordinate frames and where the camera sits (REP-103, REP-105)."""

    map_frame: str = parameter('map', 'Name of the frame in which loop closure corrects drift.')
    odom_frame: str = parameter('odom', 'Name of the frame in which the pose drifts smoothly.')
    base_frame: str = parameter('base_link', 'Name of the robot frame whose pose is published.')
    camera_frame: str = parameter(
        '', 'Name of the optical frame; empty takes it from the image header.'
    )
    extrinsics_xyz_m: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0),
        'Position of the camera in the base frame; used when TF has no base-to-camera transform.',
        low=-100.0,
        high=100.0,
    )
    extrinsics_rpy_rad: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0),
        'Roll, pitch, yaw of the camera body (x forward, not optical) in the base frame; used '
        'when TF has no base-to-camera transform.',
        low=-6.2832,
        high=6.2832,
    )
    tf_timeout_s: float = parameter(
        2.0, 'How long to wait for TF before the parameters above are used.', low=0.0, high=600.0
    )


@dataclasses.dataclass(frozen=True)
class NodeConfig:
    """What is particular to a live node that takes images."""

    autostart: bool = parameter(
        True, 'Configure and activate at start; false when a lifecycle manager does it.'
    )
    image_transport: str = parameter(
        'raw', 'Subscribe to raw or compressed images.', choices=('raw', 'compressed')
    )
    publish_debug_image: bool = parameter(
        False, 'Publish the image with its keypoints drawn; costs bandwidth.'
    )
    no_data_warning_s: float = parameter(
        5.0, 'Warn with the likely cause when no image came for this long.', low=0.5, high=600.0
    )
    diagnostics_period_s: float = parameter(
        1.0, 'Time between two diagnostics messages.', low=0.1, high=60.0
    )
    use_mask: bool = parameter(
        False, 'Subscribe to mask, an image whose non-zero pixels are ignored.'
    )
    mask_wait_s: float = parameter(
        0.02,
        'How long an image waits for its mask while masks come; raise it to get every mask of a '
        'slow segmentation, at the price of latency.',
        low=0.0,
        high=5.0,
    )
    mask_max_age_s: float = parameter(
        0.5,
        'When the mask of an image is late, one of another image is used up to this age.',
        low=0.0,
        high=60.0,
    )


@dataclasses.dataclass(frozen=True)
class VoNodeConfig(NodeConfig):
    """What is particular to the live odometry."""

    publish_tf: bool = parameter(
        True, 'Broadcast odom to base_link; false when an EKF owns that transform.'
    )
    publish_map_tf: bool = parameter(
        True,
        'Broadcast map to odom as well once loop closure has something to say; false when another '
        'localisation owns it. Needs publish_tf.',
    )
    two_d_mode: bool = parameter(False, 'Publish x, y and yaw only; for robots on a flat floor.')
    publish_depth: bool = parameter(
        True, 'Publish the depth image the odometry worked with, with its camera_info.'
    )
    cloud_range_m: float = parameter(
        5.0,
        'The cloud of learned depth ends at this distance; set it to the range of your costmap.',
        low=0.1,
        high=1000.0,
    )
    depth_tolerance_s: float = parameter(
        0.02,
        'A depth image belongs to an image when their stamps differ by less.',
        low=0.0,
        high=1.0,
    )
    depth_wait_s: float = parameter(
        0.1,
        'How long an image waits for its depth image; raise it for a slow depth sensor.',
        low=0.0,
        high=5.0,
    )
    trajectory_path: str = parameter(
        'trajectory_tum.txt',
        'File that the service save_trajectory writes; an existing file is never overwritten, the '
        'new one gets a number.',
    )


@dataclasses.dataclass(frozen=True)
class VoConfig:
    """Everything vo_node and `kpvo replay` can be told."""

    frontend: FrontendConfig = section(FrontendConfig)
    tracking: TrackingConfig = section(TrackingConfig)
    keyframes: KeyframeConfig = section(KeyframeConfig)
    memory: MemoryConfig = section(MemoryConfig)
    loop_closure: LoopClosureConfig = section(LoopClosureConfig)
    scale: ScaleConfig = section(ScaleConfig)
    depth: DepthConfig = section(DepthConfig)
    prediction: PredictionConfig = section(PredictionConfig)
    frames: FramesConfig = section(FramesConfig)
    node: VoNodeConfig = section(VoNodeConfig)
    seed: int = parameter(
        0,
        'Seed of every random draw; the same seed and input give the same output.',
        low=0,
        high=2**31 - 1,
    )


@dataclasses.dataclass(frozen=True)
class KeypointConfig:
    """Everything keypoint_node can be told."""

    frontend: FrontendConfig = section(FrontendConfig)
    node: NodeConfig = section(NodeConfig)
