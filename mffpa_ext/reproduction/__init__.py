"""The paper's tables as grids of trainings: what was published, what is to be run, running it, and the comparison."""
