"""Search methods, one a file. A sampler is a generator: it yields a list of `Ask`, is sent the
score of each (lower is better; None: it failed or diverged), and ends by returning. It is
deterministic in its arguments and these scores, so a sweep that was cut off is replayed with the
scores it has."""
