"""Certificates, node keys, launching and watching SuperLink and SuperNodes."""

from fedeff.deployment.certificates import (
    Certificate,
    make_certificates,
    read_certificate,
    renew_server_certificate,
)
from fedeff.deployment.commands import environment
from fedeff.deployment.launching import bring_up, is_up, running, take_down
from fedeff.deployment.node_keys import is_revoked, make_node_key, make_state_key
from fedeff.deployment.revocation import revoke
from fedeff.deployment.site import ProcessRecord, Site
from fedeff.deployment.status import ProcessStatus, SiteStatus, node_status, status

__all__ = [
    "Certificate",
    "ProcessRecord",
    "ProcessStatus",
    "Site",
    "SiteStatus",
    "bring_up",
    "environment",
    "is_revoked",
    "is_up",
    "make_certificates",
    "make_node_key",
    "make_state_key",
    "node_status",
    "read_certificate",
    "renew_server_certificate",
    "revoke",
    "running",
    "status",
    "take_down",
]
