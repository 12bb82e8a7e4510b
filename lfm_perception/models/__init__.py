# SPDX-License-Identifier: Apache-2.0
"""Models by name: those that can be pulled (`registry`), those on this computer (`store`), pulling (`hub`).

Only the command line uses this package. The perception node takes the paths of files and never downloads.
"""
