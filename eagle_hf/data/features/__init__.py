"""The target's states over examples, on disk."""
