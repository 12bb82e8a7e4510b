# SPDX-License-Identifier: Apache-2.0
"""Eyes for agents: what a program that plans with a language model may look at and ask, as MCP tools."""
