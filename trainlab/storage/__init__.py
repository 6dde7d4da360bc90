"""What a run leaves on disk: atomic writes, checkpoints, the folder of a run."""
