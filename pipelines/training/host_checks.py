"""Checks that every other host of the connected cluster can take part in a training."""

from pyarrow.fs import FileSystem

from pipelines.networks.own_networks import FOLDER
from pipelines.runtime import environment
from pipelines.runtime.errors import UserError
from pipelines.runtime.keys import digest_code
from pipelines.training.checkpoints import PROBE_CONTENT, VARIABLE, probe
from pipelines.training.checks import CODE
from pipelines.training.cluster import run_on_other_hosts


def check_reachable(storage: str) -> None:
    """Check that the driver can write to ``storage`` and that every other host of the connected cluster can read it.

    Raises:
        UserError: another host cannot read it.
        ExternalError: the driver cannot write to it.
    """
    with probe(storage) as path:
        errors = run_on_other_hosts(read_error, storage, path)
    blind = {host: error for host, error in errors.items() if error}
    if blind:
        host, error = next(iter(blind.items()))
        given = environment.get(VARIABLE) or "not set"
        raise UserError(
            f"{VARIABLE}: {given}, but {len(blind)} host(s) of the cluster cannot read what is written to {storage}, "
            f"{host} for one ({error}); give a folder or s3://bucket/folder that all of them reach"
        )


def read_error(storage: str, path: str) -> str:
    """Why this host cannot read the probe file; empty if it can."""
    try:
        with FileSystem.from_uri(storage)[0].open_input_file(path) as file:
            return "" if file.read() == PROBE_CONTENT else "its content differs"
    except OSError as error:
        return str(error)


def check_same_code() -> None:
    """Refuse a cluster with a host that has another version of the training code.

    Raises:
        UserError: a host's code differs from the driver's.
        ExternalError: a host does not answer.
    """
    code = (*CODE, FOLDER)
    here = digest_code(*code)
    others = [host for host, digest in run_on_other_hosts(digest_code, *code).items() if digest != here]
    if others:
        raise UserError(
            f"RAY_ADDRESS: the code of {', '.join(code)} on host {others[0]} differs from the code here; remove the "
            f"project from that host's Python path, so that Ray sends it the code of this folder"
        )
