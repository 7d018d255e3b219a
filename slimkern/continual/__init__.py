"""Continual learning: tasks, data, exemplars, methods, the training loop and its metrics."""
