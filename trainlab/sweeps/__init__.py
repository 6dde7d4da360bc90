"""Many runs of one command: which can train as one, how many at a time, and their folders."""
