"""Checks of the services that environment variables name. Each check uses the service.

Each function returns one line about the service. If something is wrong, it raises a UserError or an ExternalError whose
message starts with the variable and says what to do.
"""

import os
from pathlib import Path

import boto3
import botocore.exceptions
import pyarrow.fs
import sqlalchemy
import sqlalchemy.exc
from botocore.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo
from optuna.storages import RDBStorage

from pipelines.runtime import environment
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import home, state_dir

S3_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION")
REFUSED_KEY_CODES = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken")


def check_optuna_storage() -> str:
    """Check that the database of studies answers, and that its tables, if any, are of this Optuna version.

    Nothing is written.
    """
    address = environment.get("OPTUNA_STORAGE")
    if address is None:
        return f"OPTUNA_STORAGE is not set: each study is a journal in {state_dir('tuning')}"
    try:
        engine = sqlalchemy.create_engine(address)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        if "studies" not in tables:
            return f"{redact(address)}: no studies yet; the first one creates the tables"
        studies = RDBStorage(address, skip_table_creation=True).get_all_studies()
    except (sqlalchemy.exc.ArgumentError, ImportError, ValueError) as error:
        raise UserError(f"OPTUNA_STORAGE: not the address of a database that can be used here: {error}") from None
    except sqlalchemy.exc.DatabaseError as error:
        reason = str(error.orig).partition("\n")[0]
        raise ExternalError(
            f"OPTUNA_STORAGE: the database does not answer: {reason}; start it, or name another"
        ) from None
    except RuntimeError as error:  # the tables are of another Optuna version
        reason = str(error).partition("\n")[0]
        raise ExternalError(
            f'OPTUNA_STORAGE: {reason}; run: optuna storage upgrade --storage "$OPTUNA_STORAGE"'
        ) from None
    return f"{redact(address)}: {len(studies)} studies"


def check_checkpoint_storage() -> str:
    """Check that a small file can be written to the storage of checkpoints, read back and deleted."""
    storage = environment.get("CHECKPOINT_STORAGE")
    if storage is None:
        return f"CHECKPOINT_STORAGE is not set: {state_dir('training')}"
    try:
        filesystem, folder = pyarrow.fs.FileSystem.from_uri(storage)
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            filesystem.create_dir(folder)
        file, content = f"{folder}/doctor-{os.getpid()}", os.urandom(64)
        with filesystem.open_output_stream(file) as stream:
            stream.write(content)
        with filesystem.open_input_stream(file) as stream:
            is_equal = stream.read() == content
        filesystem.delete_file(file)
    except OSError as error:
        remedy = "create the bucket and give the key access to it" if storage.startswith("s3:") else "make it writable"
        raise ExternalError(f"CHECKPOINT_STORAGE: {storage}: {str(error).splitlines()[0]}; {remedy}") from None
    if not is_equal:
        raise ExternalError(f"CHECKPOINT_STORAGE: {storage}: read back different bytes than written; name another")
    return f"{storage}: written, read back and deleted"


def check_s3() -> str | None:
    """Check that S3 answers and accepts the key; None if no variable of S3 is set.

    The key may lack the right to list buckets.
    """
    if not any(environment.get(name) for name in S3_VARIABLES):
        return None
    endpoint = environment.get("AWS_ENDPOINT_URL") or "Amazon's S3"
    try:
        settings = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
        buckets = boto3.Session().client("s3", config=settings).list_buckets()["Buckets"]
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSED_KEY_CODES:
            raise ExternalError(
                f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: {endpoint} does not accept them ({error}); set those that "
                f"it created"
            ) from None
        return f"{endpoint} answers; the key may not list the buckets ({code})"
    except botocore.exceptions.NoCredentialsError:
        raise ExternalError(
            f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: {endpoint} needs them, and none are found; set them in .env"
        ) from None
    except botocore.exceptions.BotoCoreError as error:
        raise ExternalError(
            f"AWS_ENDPOINT_URL: {endpoint} does not answer ({error}); start it, or name another"
        ) from None
    return f"{endpoint}: {len(buckets)} bucket(s)"


def check_dvc_remote() -> str:
    """Check that DVC's default remote can be reached and read. Its objects are not compared."""
    try:
        with Repo(str(home())) as repo:
            name = repo.config["core"].get("remote")
            if name is None:
                return "none; dvc remote add --default NAME s3://bucket/folder, see docs/sharing.md"
            odb = repo.cloud.get_remote_odb()
            if odb.fs.protocol == "local":
                place = odb.path.removesuffix("/files/md5")
                exists = Path(place).exists() or Path(place).parent.exists()  # DVC creates this folder, but no parents
            else:
                place = odb.path.partition("/")[0]
                exists = odb.fs.exists(place)
            address = redact(repo.config["remote"][name]["url"])
    except (DvcException, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError) as error:
        raise ExternalError(f"DVC's remote: {error}; see dvc remote list, and docs/sharing.md") from None
    if not exists:
        raise ExternalError(f"DVC's remote: {name}: there is no {place}; create it, or name another: dvc remote modify")
    return f"{name}: {address}"
