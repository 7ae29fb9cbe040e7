"""Extra terms of the objective, each a small pure piece."""
