"""Keeping: atomic writes, checkpoints, the folder of a run."""
