"""A site: the folder that holds everything of one deployment, and what is written about it in `site.toml`."""

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from fedeff.core.errors import ConfigError
from fedeff.deployment.private_files import make_private_folder, replace_private

__all__ = ["CONNECTION", "LOOPBACK", "Phase", "ProcessRecord", "Site"]

CONNECTION = "site"  # the name of the connection in Flower's config.toml
LOOPBACK = "127.0.0.1"
Phase = Literal["down", "starting", "up", "failed"]
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class ProcessRecord:
    """A process as its supervisor last saw it. A pid alone may belong to somebody else by now."""

    name: str  # "supervisor", "superlink", "node-0", ...
    pid: int  # 0: it does not run
    started_at_s: float  # seconds since 1970 when this pid began; 0 without one
    port: int = 0  # that it listens on
    restarts: int = 0
    given_up: bool = False  # it died more often than it is restarted


@dataclass(frozen=True)
class Site:
    """Where a deployment keeps its files, what it was asked for, and what runs. `write` keeps it.

    >>> Site(Path("deployment"), clients=3, tls=True).certificate("server.crt").name
    'server.crt'
    """

    folder: Path
    clients: int = 1
    tls: bool = False
    auth: bool = False
    prompt: bool = False  # SuperNodes that answer sooner, by what is in `prompt_clients`
    port: int = 0  # of the SuperLink; 0: chosen when it starts
    metrics_port: int = 0  # of the Prometheus endpoint; 0: there is none
    phase: Phase = "down"
    failure: str = ""
    token: str = ""  # in the environment of every process of this start
    processes: tuple[ProcessRecord, ...] = ()

    def __post_init__(self) -> None:
        # In Flower's node configuration a quote or a backslash would end or change the path.
        if set("\"'\\\n") & set(str(self.folder)):
            raise ConfigError(
                f"the site's path {str(self.folder)!r} holds a quote or a backslash; choose another"
            )
        object.__setattr__(self, "folder", self.folder.expanduser().absolute())
        if self.clients < 1:
            raise ConfigError(f"--clients {self.clients} is no number of SuperNodes; give 1 or more")
        for name, port in (("--port", self.port), ("--metrics-port", self.metrics_port)):
            if not 0 <= port <= _LARGEST_PORT:
                raise ConfigError(f"{name} {port} is no port; give one from 1 to {_LARGEST_PORT}")
        if self.auth and not self.tls:
            raise ConfigError("--auth needs --tls: Flower authenticates SuperNodes over TLS only; give both")
        if self.phase not in get_args(Phase):
            raise ConfigError(f"the site's phase is {self.phase!r}, not one of {', '.join(get_args(Phase))}")

    @property
    def file(self) -> Path:
        """What is written about the site."""
        return self.folder / "site.toml"

    @property
    def database(self) -> Path:
        """What the SuperLink keeps: runs, and which node keys it knows or has revoked."""
        return self.folder / "superlink.db"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder, `FLWR_HOME` of every command that talks to this site."""
        return self.folder / "flower"

    @property
    def commands(self) -> Path:
        """Commands of the site's own, which go before others of their name."""
        return self.folder / "bin"

    @property
    def address(self) -> str:
        """Of the SuperLink, as `host:port`."""
        return f"{LOOPBACK}:{self.port}"

    def certificate(self, name: str) -> Path:
        """A file of the certificates: ca.crt, ca.key, server.crt or server.key."""
        return self.folder / "certificates" / name

    def node(self, number: int) -> Path:
        """The folder of a node: its key, the key of its state, and the state."""
        return self.folder / "nodes" / str(number)

    def log(self, name: str) -> Path:
        """What the process of that name says."""
        return self.folder / "logs" / f"{name}.log"

    def process(self, name: str) -> ProcessRecord | None:
        """What is known of a process; None where it never ran since the site came up."""
        return next((one for one in self.processes if one.name == name), None)

    def but(self, **changes: Any) -> "Site":
        """The same site with other values."""
        return replace(self, **changes)

    def write(self) -> None:
        """Keep the value in `site.toml`, which is never seen half written."""
        make_private_folder(self.folder)
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        replace_private(self.file, tomli_w.dumps(values).encode())

    @classmethod
    def read(cls, folder: Path) -> "Site":
        """The site of a folder.

        Raises:
            ConfigError: if there is none, or its `site.toml` cannot be read.
        """
        file = folder.expanduser().absolute() / "site.toml"
        try:
            values = tomllib.loads(file.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} is no site; make one with: fedeff deploy up --site {folder}"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {file}: {error}; remove it and start anew") from error
        return cls._of(folder, values)

    @classmethod
    def _of(cls, folder: Path, values: dict[str, Any]) -> "Site":
        known = {one.name for one in fields(cls)}
        try:
            processes = tuple(ProcessRecord(**one) for one in values.pop("processes", ()))
            given = {key: values[key] for key in values.keys() & known}
            return cls(folder, processes=processes, **given)
        except TypeError as error:
            raise ConfigError(f"{folder}/site.toml holds what no site has: {error}; start anew") from error
