"""Flower's `backend_config`, read: what means something here is used, the rest refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["Backend"]

_SECTIONS = ("init_args", "client_resources", "actor")
_RESOURCES = ("num_cpus", "num_gpus")


@dataclass(frozen=True)
class Backend:
    """What one client may use, and arguments for `ray.init`."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Mapping[str, Any] | None) -> "Backend":
        """From Flower's mapping, whose keys may use `-` or `_`.

        Raises `ConfigError` for a key that has no meaning here.
        """
        sections = _normalised(config or {})
        for section in sections:
            if section not in _SECTIONS:
                raise unknown_name("backend_config key", section, _SECTIONS)
        if any(_mapping(sections, "actor").values()):
            raise ConfigError(
                "backend_config['actor'] is not supported; for TensorFlow set TF_FORCE_GPU_ALLOW_GROWTH=true"
            )
        resources = _mapping(sections, "client_resources")
        for key, value in resources.items():
            if key not in _RESOURCES:
                raise unknown_name("backend_config['client_resources'] key", key, _RESOURCES)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ConfigError(f"client_resources[{key!r}] is {value!r}; expected a number of 0 or more")
        return cls(
            num_cpus=float(resources.get("num_cpus", 1.0)),
            num_gpus=float(resources.get("num_gpus", 0.0)),
            init_args=_mapping(sections, "init_args"),
        )


def _normalised(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key).replace("-", "_"): _normalised(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }


def _mapping(sections: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = sections.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"backend_config[{name!r}] is {value!r}; expected a mapping")
    return dict(value)
