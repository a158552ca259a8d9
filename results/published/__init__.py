"""Figures that papers report, each with its source."""
