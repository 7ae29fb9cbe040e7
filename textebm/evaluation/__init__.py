"""What is measured, how, and against whom: each metric a pure function, and `suite.evaluate` to run them all."""
