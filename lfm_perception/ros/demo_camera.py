# SPDX-License-Identifier: Apache-2.0
"""The program of the demo world's camera: `ros2 run lfm_perception demo_camera`."""

from __future__ import annotations

from lfm_perception.interruption import quiet_interruption


def main() -> None:
    """Run until SIGINT, SIGTERM or the shutdown of the context."""
    with quiet_interruption():
        from lfm_perception.ros.simulated_camera import run

        run()


if __name__ == "__main__":
    main()
