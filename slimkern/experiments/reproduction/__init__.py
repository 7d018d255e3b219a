"""Published results, and what it takes to redo them."""
