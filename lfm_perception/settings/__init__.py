# SPDX-License-Identifier: Apache-2.0
"""All parameters of the package with their types, defaults, ranges, units and descriptions.

YAML files, command-line options, ROS parameters, `config/perception.yaml` and `docs/parameters.md` derive
from `schema.py` and `model_schema.py`. A `Settings` value that exists is valid: each parameter is in its
range and no two contradict each other. Defaults of image and sampling parameters are the model card's.
"""

from lfm_perception.settings.drift import DriftSettings as DriftSettings
from lfm_perception.settings.fovea import FoveaSettings as FoveaSettings
from lfm_perception.settings.memory import MemorySettings as MemorySettings
from lfm_perception.settings.model_schema import EngineSettings as EngineSettings
from lfm_perception.settings.model_schema import OpenaiSettings as OpenaiSettings
from lfm_perception.settings.root import Settings as Settings
from lfm_perception.settings.root import parameter_specs as parameter_specs
from lfm_perception.settings.rules import RulesSettings as RulesSettings
from lfm_perception.settings.schema import DetectSettings as DetectSettings
from lfm_perception.settings.schema import ImageSettings as ImageSettings
from lfm_perception.settings.schema import InferenceSettings as InferenceSettings
from lfm_perception.settings.schema import NodeSettings as NodeSettings
from lfm_perception.settings.schema import QuestionSettings as QuestionSettings
from lfm_perception.settings.schema import SamplingSettings as SamplingSettings
from lfm_perception.settings.schema import ThermalSettings as ThermalSettings
from lfm_perception.settings.schema import TrackerSettings as TrackerSettings
from lfm_perception.settings.second_opinion import SecondOpinionSettings as SecondOpinionSettings
from lfm_perception.settings.spec import ParameterSpec as ParameterSpec
from lfm_perception.settings.validation import ONE_OBJECT_TOKENS as ONE_OBJECT_TOKENS
from lfm_perception.settings.validation import RENAMED as RENAMED
from lfm_perception.settings.yaml_file import ANY_NODE as ANY_NODE
from lfm_perception.settings.yaml_file import ROS_PARAMETERS as ROS_PARAMETERS
