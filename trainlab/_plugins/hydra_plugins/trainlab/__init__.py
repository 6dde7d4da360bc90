"""Thin plug-ins of Hydra."""
