"""The key-value caches of target and drafter, and the buffers they lie in."""
