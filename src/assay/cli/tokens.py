"""The commands ``assay token``."""

from __future__ import annotations

import click

from assay.cli.common import find_project


@click.group("token")
def token() -> None:
    """Bearer tokens for the service, of the roles score, feedback and admin."""


@token.command("new")
@click.argument("role", type=click.Choice(["score", "feedback", "admin"]))
def new_command(role: str) -> None:
    """Make a token of ROLE and print it, once; only its hash is kept.

    score: rows, /info, /metrics. feedback: also labels. admin: also promote and roll back.
    """
    from assay.service.tokens import new_token, tokens_path

    path = tokens_path(find_project().root)
    made, text = new_token(path, role)
    click.echo(text)
    click.echo(f"token {made.id}, shown this once; {path} keeps its hash. Send Authorization: Bearer TOKEN", err=True)


@token.command("list")
def list_command() -> None:
    """List the tokens: id, role, and when each was made."""
    from assay.service.tokens import read_tokens, tokens_path

    for each in read_tokens(tokens_path(find_project().root)):
        click.echo(f"{each.id}  {each.role:<9} {each.made}")


@token.command("revoke")
@click.argument("name", metavar="ID")
def revoke_command(name: str) -> None:
    """Revoke a token; running services refuse it from then on."""
    from assay.service.tokens import revoke_token, tokens_path

    removed = revoke_token(tokens_path(find_project().root), name)
    click.echo(f"token {removed.id} ({removed.role}) is revoked")
