"""`python -m textebm`, as `accelerate launch` and `torchrun` start it."""

from textebm.cli import app

if __name__ == "__main__":
    app(prog_name="textebm")
