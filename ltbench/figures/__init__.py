"""Figures from records and stored predictions, drawn by matplotlib."""
