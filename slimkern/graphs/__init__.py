"""Steps recorded once, to be taken again without their Python: CUDA graphs on a GPU, lists of operators on a CPU."""
