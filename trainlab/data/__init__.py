"""Real data: splits, their preprocessing, and batches as a function of the training position."""
