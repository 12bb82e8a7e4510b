# SPDX-License-Identifier: Apache-2.0
"""Memory: captions, events and counts over time, in one encrypted file that can be searched. No ROS."""

from lfm_perception.memory.question import MemoryQuestion as MemoryQuestion
from lfm_perception.memory.store import Entry as Entry
from lfm_perception.memory.store import MemoryStore as MemoryStore
from lfm_perception.memory.store import Query as Query
from lfm_perception.memory.writer import MemoryWriter as MemoryWriter
