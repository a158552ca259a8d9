"""A site of static pages: boards, a page a run, a page a method. Opens from disk, needs no network.

`making.make_site` is what `bench.py report` does. Every number is taken from `ltbench.report`, or
from a run's record and stored predictions; nothing is computed in another way than for tables.
"""
