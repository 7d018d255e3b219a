"""Triton kernels, one file per operator, and the plans they are launched by."""
