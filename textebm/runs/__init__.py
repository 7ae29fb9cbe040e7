"""A run directory from its recipe to its report."""
