"""Two processes with the shipped DDS profile: raw images arrive."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

_COUNT = 40
_PUBLISHER = """
import array, sys, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('sender')
publisher = node.create_publisher(Image, '/transport/image', qos_profile_sensor_data)
deadline = time.monotonic() + 30.0
while publisher.get_subscription_count() == 0:
    if time.monotonic() > deadline:
        sys.exit('nobody listens')
    time.sleep(0.02)
for number in range(int(sys.argv[1])):
    message = Image(height=480, width=640, encoding='rgb8', step=640 * 3)
    message.header.stamp.sec = number
    message.data = array.array('B', bytes([number]) * (640 * 480 * 3))
    publisher.publish(message)
    time.sleep(1.0 / 30.0)
time.sleep(0.5)
"""


@pytest.mark.slow
def test_raw_vga_images_reach_another_process(ros_context):
    received: dict[int, tuple[int, int]] = {}
    node = rclpy.create_node('receiver', context=ros_context)
    node.create_subscription(
        Image,
        '/transport/image',
        lambda image: received.update({image.header.stamp.sec: (len(image.data), image.data[-1])}),
        qos_profile_sensor_data,
    )
    executor = SingleThreadedExecutor(context=ros_context)
    executor.add_node(node)

    sender = subprocess.Popen([sys.executable, '-c', _PUBLISHER, str(_COUNT)])
    try:
        deadline = time.monotonic() + 60.0
        while sender.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        assert sender.wait(timeout=5.0) == 0
    finally:
        sender.kill()
        executor.shutdown()
        node.destroy_node()

    # without the profile one image in thirty arrives; best effort may lose a few
    assert len(received) >= 0.8 * _COUNT
    assert all(found == (640 * 480 * 3, sec) for sec, found in received.items())
