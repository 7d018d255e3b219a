"""Continual learning: tasks, data, methods, the training loop and its metrics."""
