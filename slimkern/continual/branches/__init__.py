"""SCL-PNC: a branch for each task beside the others, and a classifier of fixed directions for all of them."""
