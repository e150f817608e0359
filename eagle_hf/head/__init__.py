"""The draft head: configuration, module, vocabulary map and on-disk layout."""
