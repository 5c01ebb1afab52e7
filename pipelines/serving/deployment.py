"""The versions that a server answers with, and their replacement when an alias moves."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server

from pipelines.registry.versions import aliases_of, find_version
from pipelines.runtime.errors import UserError
from pipelines.serving.loaded_version import LoadedVersion, load_found
from pipelines.serving.queue import Queue
from pipelines.tracking.store_requests import describe_store_error

LOG = logging.getLogger("uvicorn.error")  # the server's own log
ALIASES = ("champion", "challenger")


class Deployed:
    """A loaded version with its queue, and MLflow's scoring server for it."""

    def __init__(self, version: LoadedVersion, executor: ThreadPoolExecutor):
        self.version = version
        self.queue = Queue(version.predict, executor)
        self.scoring_server = scoring_server.init(version.model)


class Deployment:
    """The versions of a registered model that a server answers with.

    Args:
        client: client of the registry.
        name: registered model.
        wanted: number or alias of the version that answers by default.

    Raises:
        UserError: the registry has no such model, version or alias.
        ExternalError: files are missing or differ from the registered ones, or the model does not work.
    """

    def __init__(self, client: MlflowClient, name: str, wanted: str = "champion"):
        self.client, self.name, self.wanted = client, name, wanted
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.loading = threading.Lock()
        self.deployed: dict[str, Deployed] = {}
        self.default = self.get(wanted)

    def labels(self) -> list[str]:
        """Return the versions that requests may name: the wanted one, and the aliases that exist."""
        aliases = aliases_of(self.client, self.name)
        return [self.wanted, *(alias for alias in ALIASES if alias in aliases and alias != self.wanted)]

    def get(self, label: str) -> Deployed:
        """Return the version with this label; it is loaded when it is first asked for.

        Raises:
            UserError: it is not one of :meth:`labels`.
            ExternalError: it cannot be loaded.
        """
        if (found := self.deployed.get(label)) is not None:
            return found
        with self.loading:
            if label not in self.deployed:
                if label not in (known := self.labels()):
                    raise UserError(f"version: {label!r} given; this server has {', '.join(known)}")
                self._deploy(label)
            return self.deployed[label]

    def refresh(self) -> None:
        """Replace each loaded version whose alias moved. The old one answers until the new one has been checked.

        A new version that cannot be loaded is reported in the log, and the old one stays.
        """
        for label in list(self.deployed):
            try:
                with self.loading:
                    self._deploy(label)
            except Exception as error:  # any fault of the registry or of one version; the others are still refreshed
                number = self.deployed[label].version.number
                LOG.error("%s stays version %s: %s", label, number, describe_store_error(error))

    def _deploy(self, label: str) -> None:
        """Load and check the version that ``label`` names now, unless it is the one that is loaded."""
        found = find_version(self.client, self.name, label)
        before = self.deployed.get(label)
        if before is not None and before.version.number == str(found.version):
            return
        version = load_found(found)
        version.check()
        self.deployed[label] = Deployed(version, self.executor)
        if label == self.wanted:
            self.default = self.deployed[label]
        LOG.info("%s is %s", label, version)
