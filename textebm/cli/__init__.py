"""The command line: ``textebm COMMAND``. Each command is a few lines that call the library.

Results go to stdout, everything else to stderr. What the user can mend is one ``error: …`` and exit code 2; Ctrl-C
is 130; a reader that closes the pipe ends the command quietly. Anything else is a bug and shows its traceback.
Heavy imports happen inside the commands, so that ``textebm --help`` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup

from textebm import __version__
from textebm.cli import (
    attributes,
    audit,
    bench,
    codes,
    data,
    densities,
    doctor,
    explore,
    inspection,
    latents,
    recipes,
    reproduce,
    runs,
    sentences,
    sweep,
)
from textebm.errors import TextEBMError
from textebm.recipe.implementation import code_allowed
from textebm.terminal import PlainStream, plain

# What a machine refuses: no space, no permission, a disk that fails, too many open files.
TROUBLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EFBIG,
)


class _Commands(TyperGroup):
    """The one place where an exception becomes an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """--allow-code may stand before or behind the command."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, sorted(args[:end], key=lambda each: each != "--allow-code") + args[end:])

    def invoke(self, ctx: Any) -> Any:
        _wait_briefly()
        atexit.register(gc.freeze)  # else Python's end searches all that libraries hold for garbage, half a second
        try:
            with contextlib.redirect_stdout(cast(TextIO, PlainStream(sys.stdout))):
                result = super().invoke(ctx)
                sys.stdout.flush()  # here, where a closed pipe can still be answered
            return result
        except TextEBMError as error:
            print(f"error: {plain(str(error))}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _drop_output()
            raise typer.Exit(141) from None
        except OSError as error:
            if error.errno not in TROUBLE:
                raise
            _drop_output()
            place = f"{plain(str(error.filename))}: " if error.filename else ""
            print(f"error: {place}{error.strerror}; check free space and permissions", file=sys.stderr)
            raise typer.Exit(2) from None

    def main(self, *arguments: Any, **options: Any) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by who started us, as `>&-` does
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        return super().main(*arguments, **options)


def _drop_output() -> None:
    """Python flushes stdout once more when it exits; give it somewhere to flush to."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wait_briefly() -> None:
    """Threads that wait for work give their core back after microseconds, not milliseconds: where others want the cores
    too, two threads are four times as fast so, and as fast as before where nobody does (figures: recipes/README.md).
    GNU OpenMP reads this when torch is loaded, which happens inside the commands."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"


app = typer.Typer(
    cls=_Commands,
    name="textebm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: textebm train quickstart",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"textebm {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run classes that a recipe or model names as package.module:Class.")
    ] = False,
) -> None:
    """Sequence VAEs with energy-based priors: train, generate, edit and measure."""
    ctx.with_resource(code_allowed(allow_code))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # sentences are UTF-8 whatever the locale says
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


for _group in (runs, doctor, reproduce, sweep, sentences, latents, inspection, explore, audit, densities, bench):
    _group.register(app)
app.add_typer(codes.app, name="codes")
app.add_typer(attributes.app, name="attribute")
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
