"""Training a draft head: the loss, the arguments, the Trainer."""
