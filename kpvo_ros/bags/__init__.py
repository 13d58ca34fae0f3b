"""Recorded camera streams: reading, writing and converting them, without ROS installed."""
