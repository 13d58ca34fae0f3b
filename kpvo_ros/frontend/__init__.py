"""From pixels to keypoints and matches. No ROS, no training, no map."""
