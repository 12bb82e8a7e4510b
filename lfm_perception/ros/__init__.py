# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 face: nodes and messages. Nothing outside this folder imports rclpy."""
