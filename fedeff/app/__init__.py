"""The built-in Flower app: its settings as values, whole runs of it, and runs of anyone's app.

The Flower components are `fedeff.app.server:app` and `fedeff.app.client:app`; another app's folder
is run by `fedeff.app.foreign`. Importing this loads neither torch, ray nor flwr.
"""

from fedeff.app.run import Plan, continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.app.settings import SettingDoc, Settings, documented
from fedeff.app.sweep import Sweep, grid

__all__ = [
    "Plan",
    "RunFolder",
    "Runtime",
    "SettingDoc",
    "Settings",
    "Sweep",
    "continue_run",
    "documented",
    "grid",
    "simulate",
]
