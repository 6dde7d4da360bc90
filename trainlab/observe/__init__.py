"""Seeing: what a step computes, its statistics, and where they are shown; changes nothing."""
