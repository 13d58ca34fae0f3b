"""Visual odometry of one camera: odometry, TF, keypoints and diagnostics from one process.

ros2 launch kpvo_ros vo.launch.py image_topic:=/camera/image_raw
    camera_info_topic:=/camera/camera_info
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
    ('camera_info_topic', 'camera_info', 'sensor_msgs/CameraInfo of these images'),
    ('depth_topic', 'depth', 'depth registered to the image, for scale.source depth'),
    ('mask_topic', 'mask', 'mono8, non-zero = ignore, for node.use_mask'),
    ('wheel_odom_topic', 'wheel_odom', 'nav_msgs/Odometry, for scale.source or prediction.wheel'),
    ('imu_topic', 'imu', 'sensor_msgs/Imu, for prediction.gyro'),
    ('odom_topic', 'odom', 'where the odometry is published'),
    ('params_file', str(SHARE / 'config' / 'vo.yaml'), 'parameters of the robot'),
    ('use_sim_time', 'false', 'true with a simulator or a bag that publishes /clock'),
    ('publish_tf', '', 'false when an EKF owns odom to base_link; empty: as in params_file'),
    ('two_d_mode', '', 'true for x, y and yaw only; empty: as in params_file'),
    ('log_level', 'info', 'debug, info, warn or error'),
)


def start_node(context):
    """Make the node with the arguments of this launch."""
    values = context.launch_configurations
    overrides = {'use_sim_time': values['use_sim_time'].lower() == 'true'}
    for name in ('publish_tf', 'two_d_mode'):
        if values[name]:  # the file decides unless the command line does
            overrides[f'node.{name}'] = values[name].lower() == 'true'
    image = values['image_topic']
    depth = values['depth_topic']
    return [
        Node(
            package='kpvo_ros',
            executable='vo_node',
            name='vo_node',
            namespace=values['namespace'],
            output='screen',
            parameters=[values['params_file'], overrides],
            remappings=[
                ('image', image),
                ('image/compressed', f'{image}/compressed'),
                ('camera_info', values['camera_info_topic']),
                ('depth', depth),
                ('depth/compressedDepth', f'{depth}/compressedDepth'),
                ('mask', values['mask_topic']),
                ('wheel_odom', values['wheel_odom_topic']),
                ('imu', values['imu_topic']),
                ('odom', values['odom_topic']),
            ],
            ros_arguments=['--log-level', f'vo_node:={values["log_level"]}'],
        )
    ]


def generate_launch_description():
    """Describe the arguments, then start the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_node)])
