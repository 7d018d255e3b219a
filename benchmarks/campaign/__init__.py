"""A campaign: all that is worth knowing of a GPU, in order of what it tells, within so many seconds."""
