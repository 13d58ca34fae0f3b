"""The ROS 2 side: the only room that knows rclpy. Nodes translate, the core computes."""
