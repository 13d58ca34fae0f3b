"""The door to recordings: `open_source` guesses what lies at a path and opens it.

Bags (ROS 1 and 2), folders of images in several layouts, and video files look the same behind it:
a `Source` of records.
"""

from __future__ import annotations

from pathlib import Path

from kpvo_ros.bags.layouts import find_layout
from kpvo_ros.bags.listing import ListingSource
from kpvo_ros.bags.source import Selection, Source
from kpvo_ros.errors import BagError

BAG_SUFFIXES = frozenset({'.mcap', '.db3', '.bag'})
VIDEO_SUFFIXES = frozenset({'.mp4', '.avi', '.mkv', '.mov', '.m4v', '.webm', '.mpg', '.mpeg'})


def open_source(
    path: str | Path,
    *,
    image_topic: str | None = None,
    camera_info_topic: str | None = None,
    depth_topic: str | None = None,
    odometry_topic: str | None = None,
    ground_truth_topic: str | None = None,
    imu_topic: str | None = None,
    intrinsics: str | Path | None = None,
    stride: int = 1,
    start_s: float = 0.0,
    duration_s: float | None = None,
    rectified: bool = False,
) -> Source:
    """Open a recording.

    Args:
        path: bag (directory, .mcap, .db3, .bag), folder of images, or video file.
        image_topic: image topic of a bag, None to guess; the other topics likewise.
        camera_info_topic: topic with the intrinsics of `image_topic`.
        depth_topic: topic with depth aligned to `image_topic`.
        odometry_topic: nav_msgs/Odometry of the wheels.
        imu_topic: sensor_msgs/Imu whose gyro is read.
        ground_truth_topic: nav_msgs/Odometry or geometry_msgs/PoseStamped with the truth.
        intrinsics: YAML file that takes precedence over recorded intrinsics.
        stride: take every n-th image.
        start_s: skip this many seconds.
        duration_s: stop after this many seconds, None for all.
        rectified: the images of the bag are rectified: use P of camera_info, no distortion.

    Raises:
        BagError: there is nothing to read, with one line saying why and what to do.
    """
    path = Path(path)
    selection = Selection(stride, start_s, duration_s)
    yaml_path = None if intrinsics is None else Path(intrinsics)
    if not path.exists():
        raise BagError(f'{str(path)!r} does not exist: check the path')
    if path.is_dir() and not is_bag_folder(path):
        return ListingSource(find_layout(path, yaml_path), selection)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        from kpvo_ros.bags.video import VideoSource

        return VideoSource(path, yaml_path, selection)
    if path.is_dir() or path.suffix.lower() in BAG_SUFFIXES:
        from kpvo_ros.bags.bag_source import BagSource
        from kpvo_ros.bags.topics import TopicChoice

        named = image_topic, camera_info_topic, depth_topic, odometry_topic, ground_truth_topic
        topics = TopicChoice(*named, imu=imu_topic)
        return BagSource(path, topics, yaml_path, selection, rectified)
    raise BagError(
        f'{str(path)!r} is neither a bag (.mcap, .db3, .bag, folder with metadata.yaml), a folder '
        'of images, nor a video file: check the path'
    )


def is_bag_folder(path: Path) -> bool:
    """Whether a folder is a rosbag2, also one that lost its metadata.yaml in a power cut."""
    return (path / 'metadata.yaml').is_file() or any(
        child.suffix in ('.mcap', '.db3') for child in path.iterdir()
    )
