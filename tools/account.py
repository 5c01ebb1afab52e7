"""Accounts of a tracking server, managed by an administrator.

python -m tools.account kim                        create the account, or change its password; asks for the password
python -m tools.account kim --permission EDIT      create it, or change its permission on others' runs and models
python -m tools.account kim --delete

The server is MLFLOW_TRACKING_URI; the administrator is MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD.
"""

import argparse
import getpass
import os
import sys
import warnings

from mlflow.exceptions import MlflowException

with warnings.catch_warnings(action="ignore"):  # a deprecation within Starlette
    from mlflow.server.auth.client import AuthServiceClient

from pipelines.runtime.errors import ExternalError, UserError, run_main

PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")


def read_password(name: str) -> str:
    """Ask for a new password twice on a terminal; without a terminal, read the first line of standard input.

    Raises:
        UserError: the two passwords differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass(f"New password of {name}: ")
    if getpass.getpass("Repeat the password: ") != password:
        raise UserError("the two passwords differ; nothing was changed")
    return password


def account_exists(server: AuthServiceClient, name: str) -> bool:
    """Whether the server has an account with this name."""
    try:
        server.get_user(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def create_or_change(server: AuthServiceClient, name: str, permission: str | None) -> None:
    """Create the account if it is missing; otherwise change its permission or, without ``permission``, its password."""
    if not account_exists(server, name):
        server.create_user(name, read_password(name))
        print(f"{name}: created")
    elif not permission:
        server.update_user_password(name, read_password(name))
        print(f"{name}: the password was changed")
    if permission:
        for kind in ("experiment", "registered_model"):
            server.grant_user_permission(name, kind, "*", permission)
        print(f"{name}: {permission} on all experiments and models")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.account")
    parser.add_argument("name")
    parser.add_argument("--permission", choices=PERMISSIONS, help="on all experiments and registered models")
    parser.add_argument("--delete", action="store_true")
    arguments = parser.parse_args()
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        raise UserError(
            f"MLFLOW_TRACKING_URI: '{uri}' given; must be the address of a tracking server, http:// or https://"
        )
    server = AuthServiceClient(uri)
    try:
        if arguments.delete:
            server.delete_user(arguments.name)
            print(f"{arguments.name}: deleted; its runs and models are kept")
        else:
            create_or_change(server, arguments.name, arguments.permission)
    except MlflowException as error:
        raise ExternalError(f"{uri}: {error}") from None


if __name__ == "__main__":
    run_main(main)
