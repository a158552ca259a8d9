"""Named training recipes: data, not code."""
