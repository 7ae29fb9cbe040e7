"""Training: the loop, what it writes down, and how it stops and starts again."""
