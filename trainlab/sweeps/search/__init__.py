"""What to try next: spaces, axes, samplers."""
