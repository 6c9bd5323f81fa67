"""Reproducing a table of a paper: train its rows, attack them by its columns, set both numbers side by side."""
