"""Images, splits, samplers, views and batches."""
