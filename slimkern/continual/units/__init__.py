"""AutoActivator: a unit of random nodes for each task, and the choice of the unit to wake."""
