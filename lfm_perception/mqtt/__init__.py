# SPDX-License-Identifier: Apache-2.0
"""MQTT: events and summaries for a fleet service, kept on disk until its broker has them. Without ROS.

`Outbox` is the bounded queue on disk, `Sender` the connection that empties it, `payloads` makes what is sent.
"""
