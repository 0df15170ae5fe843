"""The gradient-leakage audit: what can be rebuilt from exactly what a client sends.

    from fedeff.app import Settings
    from fedeff.audit import audit_leak, write_audit
    result = audit_leak(Settings(dataset="digits", batch_size=1, local_steps=1), clients=20)
    print(result.verdict.sentence)
    write_audit(result, "audit")

Names are loaded when they are first asked for: an attack imports its own module, and nothing above it.
Neither this nor `audit_leak` loads torch before an audit is made.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from fedeff.audit.judging.rules import Rules
    from fedeff.audit.judging.verdict import Verdict
    from fedeff.audit.leak import audit_leak
    from fedeff.audit.report import write_audit
    from fedeff.audit.result import AuditResult, read_result

__all__ = ["AuditResult", "Rules", "Verdict", "audit_leak", "read_result", "write_audit"]

_MODULES = {
    "AuditResult": "result",
    "Rules": "judging.rules",
    "Verdict": "judging.verdict",
    "audit_leak": "leak",
    "read_result": "result",
    "write_audit": "report",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
