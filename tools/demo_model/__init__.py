# SPDX-License-Identifier: Apache-2.0
"""The making of the demo model: network, training, export to GGUF, parity, release. Not installed."""
