"""How each planted fault is made: `fault(trainer, severity)` spoils a Trainer at step 0, in place.

Deterministic: the same fault on the same Trainer gives the same broken one. What `severity` means
stands in each function. Raises ConfigError where a recipe has nothing to spoil.
"""
