"""From conversations to tokens and loss masks."""
