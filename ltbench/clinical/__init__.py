"""The clinical view: what stored predictions say beyond the metrics of a table.

Everything here is computed from records and stored predictions, without a GPU, without training
data. What is chosen (a threshold, a temperature) is chosen on validation and applied to test.
"""
