# SPDX-License-Identifier: Apache-2.0
"""A second opinion: crops of tracks are handed to an adviser, and its answers are merged into the scenes.

`policy` decides what is asked, `service` asks it on a thread of its own, `advisers/` are those that answer.
"""

from lfm_perception.second_opinion.opinions import AdviserError as AdviserError
from lfm_perception.second_opinion.opinions import Outcome as Outcome
from lfm_perception.second_opinion.opinions import Reply as Reply
from lfm_perception.second_opinion.opinions import Request as Request
from lfm_perception.second_opinion.opinions import outcome_to_json as outcome_to_json
from lfm_perception.second_opinion.service import SecondOpinion as SecondOpinion
