"""Beyond one machine: the stages of a data run on a Ray cluster, and what a plan takes.

stages  RayExecutor, is_ray
plan    plan_scale, simulated_sample, feature_bytes_a_token
"""

from eagle_hf.cluster.connection import is_ray
from eagle_hf.cluster.executor import RayExecutor
from eagle_hf.cluster.scale import (
    ScalePlan,
    WantedScale,
    feature_bytes_a_token,
    plan_scale,
    simulated_sample,
)

__all__ = [
    "RayExecutor",
    "ScalePlan",
    "WantedScale",
    "feature_bytes_a_token",
    "is_ray",
    "plan_scale",
    "simulated_sample",
]
