"""The store: every picture decoded and resized once, in one memory-mapped file."""
