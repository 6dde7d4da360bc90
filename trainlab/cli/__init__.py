"""From what was typed to one checked config; many runs; a resumed run; and the commands."""
