# SPDX-License-Identifier: Apache-2.0
"""Commands in an operator's words, and the tool calls that they mean. Pure: no model, no node.

`tools` are the operations, one table row each; `slots` are the values that an argument may have, of which
`numbers` reads those with units; `calls` are the calls of a command, which `engine/calls.py` decodes.
"""

from lfm_perception.commands.calls import Call as Call
from lfm_perception.commands.calls import Command as Command
from lfm_perception.commands.calls import check_probability as check_probability
from lfm_perception.commands.tools import REFUSAL as REFUSAL
from lfm_perception.commands.tools import TOOLS as TOOLS
from lfm_perception.commands.tools import check_tools as check_tools
from lfm_perception.commands.tools import tool_list as tool_list
