"""Rollouts of a policy in training, drafted by a head that follows it."""

from eagle_hf.rollouts.callback import SpeculativeRollouts

__all__ = ["SpeculativeRollouts"]
