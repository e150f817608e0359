"""Beyond one machine: what a plan takes.

plan    plan_scale, simulated_sample, feature_bytes_a_token
"""

from eagle_hf.cluster.scale import (
    ScalePlan,
    WantedScale,
    feature_bytes_a_token,
    plan_scale,
    simulated_sample,
)

__all__ = [
    "ScalePlan",
    "WantedScale",
    "feature_bytes_a_token",
    "plan_scale",
    "simulated_sample",
]
