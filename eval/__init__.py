"""Sampling plans, metrics and comparisons of guidance rules, and the command line."""
