"""Rows of files and data sets, read one by one; a bad row costs that row."""
