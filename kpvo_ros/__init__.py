"""Visual localization for robots with one camera: odometry, keypoints, depth, landmarks.

The package has a core that never heard of ROS and thin ROS 2 nodes around it (`kpvo_ros.ros`).
`docs/architecture.md` gives the reading order; `docs/conventions.md` the frames and units.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
