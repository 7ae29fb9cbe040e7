"""The command that opens a run to be tried in a browser: explore."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from textebm.cli.shared import DataOption, DeviceOption, RunArgument, load_model, note, stdout_kept_clean


def explore(
    run: RunArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where it is served; 0: any free one.")] = 7860,
    device: DeviceOption = "cpu",
    data: DataOption = None,
) -> None:
    """Try a run in the browser: read, write, edit and walk as you type, name its codes; nothing leaves the machine."""
    model = load_model(run, device)
    with stdout_kept_clean():
        from textebm.runs.explore import Explorer
        from textebm.runs.explore_page import ExplorePage

    with ExplorePage(Explorer(model, run, data_dir=data), port) as page:
        print(page.address, flush=True)
        note("open this address in a browser on this machine; Ctrl-C ends it")
        try:
            with stdout_kept_clean():
                page.serve_forever()
        except KeyboardInterrupt:
            note("ended")


def register(app: Any) -> None:
    app.command(epilog="Example: textebm explore runs/quickstart")(explore)
