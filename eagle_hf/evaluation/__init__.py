"""Measuring a head: prompts by category, this process's speed, equality, and the report."""
