"""The services that the environment names, each tried for real: what there is, or what is wrong and what to do.

Each function returns a line; what is wrong is a UserError or a ExternalError that begins with the variable.
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

S3 = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION")
WRONG_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken")


def optuna_storage() -> str:
    """Whether the database of studies answers and has tables of this Optuna, or none yet; nothing is written."""
    address = environment.value("OPTUNA_STORAGE")
    if address is None:
        return f"OPTUNA_STORAGE is not set: each study is a journal in {state_dir('tuning')}"
    try:
        engine = sqlalchemy.create_engine(address)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        if "studies" not in tables:
            return f"{redact(address)}: no studies yet; the first one makes its tables"
        studies = RDBStorage(address, skip_table_creation=True).get_all_studies()
    except (sqlalchemy.exc.ArgumentError, ImportError, ValueError) as error:
        raise UserError(f"OPTUNA_STORAGE: not the address of a database that can be used here: {error}") from None
    except sqlalchemy.exc.DatabaseError as error:
        reason = str(error.orig).partition("\n")[0]
        raise ExternalError(
            f"OPTUNA_STORAGE: the database does not answer: {reason}; start it, or name another"
        ) from None
    except RuntimeError as error:  # of a schema that another Optuna has made
        raise ExternalError(
            f'OPTUNA_STORAGE: {str(error).partition(chr(10))[0]}; optuna storage upgrade --storage "$OPTUNA_STORAGE"'
        ) from None
    return f"{redact(address)}: {len(studies)} studies"


def checkpoint_storage() -> str:
    """Whether a small file can be written there, read back and deleted."""
    place = environment.value("CHECKPOINT_STORAGE")
    if place is None:
        return f"CHECKPOINT_STORAGE is not set: {state_dir('training')}"
    try:
        filesystem, folder = pyarrow.fs.FileSystem.from_uri(place)
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            filesystem.create_dir(folder)
        file, content = f"{folder}/doctor-{os.getpid()}", os.urandom(64)
        with filesystem.open_output_stream(file) as stream:
            stream.write(content)
        with filesystem.open_input_stream(file) as stream:
            same = stream.read() == content
        filesystem.delete_file(file)
    except OSError as error:
        mend = "make the bucket and give the key the right to it" if place.startswith("s3:") else "make it writable"
        raise ExternalError(f"CHECKPOINT_STORAGE: {place}: {str(error).splitlines()[0]}; {mend}") from None
    if not same:
        raise ExternalError(f"CHECKPOINT_STORAGE: {place}: what was written is read back otherwise; name another")
    return f"{place}: written, read back and deleted"


def s3() -> str | None:
    """Whether S3 answers and takes the key, which may have no right to list buckets; None where no variable asks."""
    if not any(environment.value(name) for name in S3):
        return None
    where = environment.value("AWS_ENDPOINT_URL") or "Amazon's S3"
    try:
        settings = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
        buckets = boto3.Session().client("s3", config=settings).list_buckets()["Buckets"]
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in WRONG_KEY:
            raise ExternalError(
                f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: {where} does not take them ({error}); set those it has made"
            ) from None
        return f"{where} answers; which buckets there are the key may not list ({error.response['Error']['Code']})"
    except botocore.exceptions.NoCredentialsError:
        raise ExternalError(
            f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: {where} needs them, and none are found; set them in .env"
        ) from None
    except botocore.exceptions.BotoCoreError as error:
        raise ExternalError(f"AWS_ENDPOINT_URL: {where} does not answer ({error}); start it, or name another") from None
    return f"{where}: {len(buckets)} bucket(s)"


def dvc_remote() -> str:
    """Whether DVC's default remote can be reached, with the rights to look into it; its objects are not compared."""
    try:
        with Repo(str(home())) as repo:
            name = repo.config["core"].get("remote")
            if name is None:
                return "none; dvc remote add --default NAME s3://bucket/folder, see docs/sharing.md"
            odb = repo.cloud.get_remote_odb()
            if odb.fs.protocol == "local":
                place = odb.path.removesuffix("/files/md5")
                there = Path(place).exists() or Path(place).parent.exists()  # DVC makes the folder, and no more
            else:
                place = odb.path.partition("/")[0]
                there = odb.fs.exists(place)
            address = redact(repo.config["remote"][name]["url"])
    except (DvcException, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError) as error:
        raise ExternalError(f"DVC's remote: {error}; see dvc remote list, and docs/sharing.md") from None
    if not there:
        raise ExternalError(f"DVC's remote: {name}: there is no {place}; make it, or name another: dvc remote modify")
    return f"{name}: {address}"
