# SPDX-License-Identifier: Apache-2.0
"""The part of the documentation that `make docs` writes: parameters, topics, modules, measured figures."""
