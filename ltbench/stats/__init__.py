"""Could a difference be chance? Intervals and comparisons from stored predictions."""
