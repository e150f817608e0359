"""From prompts to what a draft head is trained on: one YAML file, one command, step by step."""

from eagle_hf.pipeline.executor import Executor
from eagle_hf.pipeline.sample import MeasuredSample
from eagle_hf.pipeline.settings import DataConfig

__all__ = ["DataConfig", "Executor", "MeasuredSample"]
