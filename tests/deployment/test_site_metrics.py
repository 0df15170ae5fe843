"""The Prometheus endpoint: what it says of a site, and that it is on loopback."""

import os
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fedeff.deployment import ProcessRecord, Site, make_certificates, processes, read_certificate
from fedeff.deployment.metrics import serve_metrics
from fedeff.deployment.ports import free_port


def test_it_tells_what_runs_and_what_expires_as_it_is_now(tmp_path: Path) -> None:
    mine = ProcessRecord("superlink", os.getpid(), processes.started_at_s(os.getpid()), restarts=2)
    site = Site(
        tmp_path, tls=True, metrics_port=free_port(), processes=(mine, ProcessRecord("node-0", 0, 0.0))
    )
    make_certificates(tmp_path / "certificates")
    site.write()
    serve_metrics(site)
    told = scraped(site.metrics_port)
    assert told["fedeff_process_up", "superlink"] == 1
    assert told["fedeff_process_up", "node-0"] == 0
    assert told["fedeff_process_restarts", "superlink"] == 2
    assert told["fedeff_process_resident_bytes", "superlink"] > 2**20
    assert told["fedeff_process_cpu_seconds", "superlink"] > 0
    expires_s = read_certificate(tmp_path / "certificates" / "server.crt").expires_at.timestamp()
    assert told["fedeff_certificate_expires_seconds", "server.crt"] == expires_s > time.time()
    site.but(processes=()).write()
    assert ("fedeff_process_up", "superlink") not in scraped(site.metrics_port)


def scraped(port: int) -> dict[tuple[str, str], float]:
    """Values by name and the value of the one label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
