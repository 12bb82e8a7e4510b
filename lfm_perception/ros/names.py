# SPDX-License-Identifier: Apache-2.0
"""Names of nodes in the ROS graph. Two nodes of one name receive each other's services and parameters."""

from __future__ import annotations

import time
from collections import Counter

from rclpy.node import Node

from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node


def shared_names(node: Node) -> list[str]:
    """The full names that several of the nodes discovered so far have; hidden ones are left out."""
    names = Counter(
        f"{namespace.rstrip('/')}/{name}" for name, namespace in node.get_node_names_and_namespaces()
    )
    return sorted(name for name, count in names.items() if count > 1 and "/_" not in name)


def warn_of_namesakes(node: Node) -> None:
    """Log a warning when another node has this node's name."""
    name = node.get_fully_qualified_name()
    if name in shared_names(node):
        node.get_logger().warning(
            f"another node is called {name} too, so services and parameters reach either of them: "
            "end one, or give one another namespace (namespace:=)"
        )


def find_shared_names(seconds: float) -> list[str]:
    """`shared_names` of the whole graph after so many seconds of discovery."""
    with transport.without_shared_memory(), spinning_node("doctor_names") as node:
        time.sleep(seconds)
        return shared_names(node)
