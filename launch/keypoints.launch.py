"""Keypoints with descriptors of one camera, without odometry.

ros2 launch kpvo_ros keypoints.launch.py image_topic:=/camera/image_raw
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(get_package_share_directory('kpvo_ros'))

ARGUMENTS = (
    ('namespace', '', 'namespace of the node and its relative topics'),
    ('image_topic', 'image', 'sensor_msgs/Image (or CompressedImage, see node.image_transport)'),
    ('mask_topic', 'mask', 'mono8, non-zero = ignore, for node.use_mask'),
    ('params_file', str(SHARE / 'config' / 'keypoints.yaml'), 'parameters'),
    ('use_sim_time', 'false', 'true with a simulator or a bag that publishes /clock'),
    ('log_level', 'info', 'debug, info, warn or error'),
)


def start_node(context):
    """Make the node with the arguments of this launch."""
    values = context.launch_configurations
    image = values['image_topic']
    return [
        Node(
            package='kpvo_ros',
            executable='keypoint_node',
            name='keypoint_node',
            namespace=values['namespace'],
            output='screen',
            parameters=[
                values['params_file'],
                {'use_sim_time': values['use_sim_time'].lower() == 'true'},
            ],
            remappings=[
                ('image', image),
                ('image/compressed', f'{image}/compressed'),
                ('mask', values['mask_topic']),
            ],
            ros_arguments=['--log-level', f'keypoint_node:={values["log_level"]}'],
        )
    ]


def generate_launch_description():
    """Describe the arguments, then start the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_node)])
