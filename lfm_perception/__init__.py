"""Grounded perception for robots: a vision-language model under a per-frame token budget."""

__version__ = "0.1.0"
