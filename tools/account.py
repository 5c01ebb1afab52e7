"""Accounts of a tracking server: make one, change its password or its rights, or delete it; as an administrator.

python -m tools.account kim                        makes it, or changes its password, which is asked for
python -m tools.account kim --permission EDIT      makes it, or changes what it may do with others' runs and models
python -m tools.account kim --delete

The server is MLFLOW_TRACKING_URI, the administrator MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD.
"""

import argparse
import getpass
import os
import sys
import warnings

from mlflow.exceptions import MlflowException

with warnings.catch_warnings(action="ignore"):  # on Starlette's own plans
    from mlflow.server.auth.client import AuthServiceClient

from pipelines.runtime.errors import ExternalError, UserError, run

PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")


def password_of(name: str) -> str:
    """The new password: asked for twice on a terminal, else the first line of standard input.

    Raises:
        UserError: the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass(f"New password of {name}: ")
    if getpass.getpass("The same again: ") != password:
        raise UserError("the two passwords differ; nothing was changed")
    return password


def exists(server: AuthServiceClient, name: str) -> bool:
    """Whether the server has an account of this name."""
    try:
        server.get_user(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def change(server: AuthServiceClient, name: str, permission: str | None) -> None:
    """Make the account where there is none; else change what it may do, or without ``permission`` its password."""
    if not exists(server, name):
        server.create_user(name, password_of(name))
        print(f"{name}: made")
    elif not permission:
        server.update_user_password(name, password_of(name))
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
        raise UserError(f"MLFLOW_TRACKING_URI: '{uri}' given; the address of a tracking server, http:// or https://")
    server = AuthServiceClient(uri)
    try:
        if arguments.delete:
            server.delete_user(arguments.name)
            print(f"{arguments.name}: deleted; its runs and models stay")
        else:
            change(server, arguments.name, arguments.permission)
    except MlflowException as error:
        raise ExternalError(f"{uri}: {error}") from None


if __name__ == "__main__":
    run(main)
