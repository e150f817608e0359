"""Tiny policies that TRL's trainers train, with rewards by rule."""
