"""A Prometheus endpoint on loopback that says how a site's processes are. Needs the extra `metrics`."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedeff.core.errors import ConfigError, DeploymentError
from fedeff.deployment.site import LOOPBACK, Site
from fedeff.deployment.status import ProcessStatus, status

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["check_metrics", "serve_metrics"]

_PER_PROCESS = {
    "up": "1 while the process runs, 0 otherwise",
    "restarts": "times that it was started again",
    "resident_bytes": "memory of it and what it started",
    "cpu_seconds": "processor time of it and what it started, as far as that still runs",
}


def check_metrics() -> None:
    """Raise `ConfigError` if `prometheus_client` is not installed."""
    if find_spec("prometheus_client") is None:
        raise ConfigError('--metrics-port needs prometheus_client; run pip install "fedeff[metrics]"')


def serve_metrics(site: Site) -> None:
    """Answer on the site's metrics port, from a thread of this process, until it ends.

    Raises:
        DeploymentError: if the port is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_SiteCollector(site))
    try:
        start_http_server(site.metrics_port, LOOPBACK, registry)
    except OSError as error:
        raise DeploymentError(
            f"port {site.metrics_port} of --metrics-port cannot be used: {error.strerror}"
        ) from error


class _SiteCollector:
    """Reads the site anew for each scrape: nothing is kept that could be out of date."""

    def __init__(self, site: Site) -> None:
        self._folder = site.folder

    def collect(self) -> Iterable["GaugeMetricFamily"]:
        from prometheus_client.core import GaugeMetricFamily

        now = status(Site.read(self._folder))
        for name, meaning in _PER_PROCESS.items():
            family = GaugeMetricFamily(f"fedeff_process_{name}", meaning, labels=["process"])
            for one in now.processes:
                family.add_metric([one.name], _value(one, name))
            yield family
        expiry = GaugeMetricFamily(
            "fedeff_certificate_expires_seconds",
            "seconds since 1970 when a certificate expires",
            labels=["file"],
        )
        for certificate in now.certificates:
            expiry.add_metric([certificate.path.name], certificate.expires_at.timestamp())
        yield expiry


def _value(process: ProcessStatus, name: str) -> float:
    return float(getattr(process, name))
