"""From prompts to what a draft head is trained on: one YAML file, one command, step by step."""

from eagle_hf.pipeline.config_file import read_config
from eagle_hf.pipeline.executor import Executor
from eagle_hf.pipeline.inputs import Inputs
from eagle_hf.pipeline.local import LocalExecutor, privacy_settings, serving_settings
from eagle_hf.pipeline.looking import describe_steps
from eagle_hf.pipeline.merging import merge_shards
from eagle_hf.pipeline.running import run_data
from eagle_hf.pipeline.sample import (
    MeasuredSample,
    measure_sample,
    prompts_left,
    sample_prompts,
    sample_size,
)
from eagle_hf.pipeline.settings import AnswerStepSettings, DataConfig, PromptSettings
from eagle_hf.pipeline.sharding import Shard
from eagle_hf.pipeline.target import RunTarget

__all__ = [
    "AnswerStepSettings",
    "DataConfig",
    "Executor",
    "Inputs",
    "LocalExecutor",
    "MeasuredSample",
    "PromptSettings",
    "RunTarget",
    "Shard",
    "describe_steps",
    "measure_sample",
    "merge_shards",
    "privacy_settings",
    "prompts_left",
    "read_config",
    "run_data",
    "sample_prompts",
    "sample_size",
    "serving_settings",
]
