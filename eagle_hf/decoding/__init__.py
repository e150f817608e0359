"""Lossless decoding: draft a tree, verify it in one target pass, commit the accepted branch."""
