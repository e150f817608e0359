"""From prompts to what a draft head is trained on: one YAML file, one command, step by step."""

from eagle_hf.pipeline.config_file import read_config
from eagle_hf.pipeline.executor import Executor
from eagle_hf.pipeline.local import LocalExecutor, privacy_settings, serving_settings
from eagle_hf.pipeline.merging import merge_shards
from eagle_hf.pipeline.running import run_data
from eagle_hf.pipeline.sample import MeasuredSample
from eagle_hf.pipeline.settings import AnswerStepSettings, DataConfig, PromptSettings
from eagle_hf.pipeline.sharding import Shard
from eagle_hf.pipeline.target import RunTarget

__all__ = [
    "AnswerStepSettings",
    "DataConfig",
    "Executor",
    "LocalExecutor",
    "MeasuredSample",
    "PromptSettings",
    "RunTarget",
    "Shard",
    "merge_shards",
    "privacy_settings",
    "read_config",
    "run_data",
    "serving_settings",
]
