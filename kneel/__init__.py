"""Knee radiographs: reading films, phantoms, and the 16 landmarks (KNEEL)."""
