"""Images between ROS messages and OpenCV arrays: the Python face of cv_bridge.

For machines without a ROS 2 installation. Same names and call signatures as the real package.
"""

from cv_bridge.bridge import CvBridge, CvBridgeError

__all__ = ['CvBridge', 'CvBridgeError']
