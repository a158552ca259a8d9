"""Views: what a recipe does to pictures before a method sees them."""
