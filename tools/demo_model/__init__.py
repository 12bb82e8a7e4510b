"""The making of the demo model: network, training, export to GGUF, parity, release. Not installed."""
