"""Helpers for sensor_msgs; for machines without a ROS 2 installation."""
