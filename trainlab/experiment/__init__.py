"""One run, phase by phase, and the other tasks that one config can ask for."""
