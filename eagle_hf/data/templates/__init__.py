"""Chat templates: what they are given, what they write, and where an answer lies in it."""
