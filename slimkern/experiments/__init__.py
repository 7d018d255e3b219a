"""Run folders, progress and reports: what happens around a training run."""
