"""Views of runs that a table of closing accuracies doesn't give: by width, by cost, by block, by test batch."""
