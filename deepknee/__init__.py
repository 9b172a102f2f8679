"""Kellgren-Lawrence grading of knee radiographs with attention maps (DeepKnee)."""
