"""``omnistorage probe``: what a server keeps, by trying it."""

from __future__ import annotations

import click

from omnistorage.cli.core.app import App, naming
from omnistorage.cli.core.verb import Verb


@click.command(cls=Verb, rows=True, example="omnistorage probe logs", short_help="Try what a server keeps.")
@click.argument("url", metavar="URL")
@click.pass_obj
def probe(app: App, /, url: str) -> None:
    """Try what the server of URL really keeps, and print the options to write down.

    Conditions, the order of listings, and whatever else differs between servers is tried with small objects in a folder
    of their own, omnistorage-probe-..., which is removed. --json has one object.
    """
    from omnistorage.ops.probing import probe as run

    at = app.locate(url, is_object=False)
    app.draw(f"probe {url}")
    with naming(at.text):
        found = run(at.backend)
    app.done = len(found.findings)
    if app.json:
        rows = [{"option": f.option, "trial": f.trial, "kept": f.kept, "note": f.note} for f in found.findings]
        app.out.json({"backend": at.backend.name, "options": dict(found.options), "findings": rows})
        return
    width = max((len(one.trial) for one in found.findings), default=0)
    for one in found.findings:
        app.out.line(f"{one.trial:{width}}  {'yes' if one.kept else f'no: {one.note}'}")
    if not found.options:
        app.out.line(f"{at.backend.name} has no options that depend on the server")
    for option, kept in found.options.items():
        app.out.line(f"{option} = {'true' if kept else 'false'}")
