"""Measuring a drafter on a machine: seconds of forwards, traces of proposals, and plans."""
