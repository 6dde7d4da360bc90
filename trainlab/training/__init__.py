"""The loop: a Trainer and its randomness. Imports torch and nothing of Hydra."""
