"""Bundles: a row of a table in one file, with all that its numbers can be computed again from.

A bundle comes from a stranger, so it is read as data and never run: no pickles, no path that leads
out of it, no more bytes than announced. `docs/leaderboard.md` describes the format.
"""
