# SPDX-License-Identifier: Apache-2.0
"""Rules: from tracks to events, without code. YAML in, events out; pure, without ROS, files or a clock.

A rule file names zones and lines of the image and conditions over tracks (`docs/rules.md`); the engine takes
the tracks of each camera frame and gives the events that begin and end.
"""

from lfm_perception.rules.condition_reader import Known as Known
from lfm_perception.rules.engine import RuleEngine as RuleEngine
from lfm_perception.rules.events import Event as Event
from lfm_perception.rules.reader import parse_rules as parse_rules
from lfm_perception.rules.reader import read_rules as read_rules
from lfm_perception.rules.schema import Problem as Problem
from lfm_perception.rules.schema import RuleFile as RuleFile
