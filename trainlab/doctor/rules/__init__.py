"""Rules over the rows of a run: each looks at them and gives a Finding or nothing."""
