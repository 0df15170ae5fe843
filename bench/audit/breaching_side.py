"""breaching's side of a comparison, run by the Python of its own environment; it has no fedeff.

python breaching_side.py WORK

WORK/case.npz holds the weights of a SmoothNet by name, an image `x` (1, 3, side, side) and its label `y`;
WORK/case.json the attacks (their names in breaching, and what is changed in their configuration) and a
seed. What each rebuilt comes to WORK/found.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.audit.networks import SmoothNet


class _Metadata(dict[str, Any]):
    """What breaching reads now as attributes, now by key."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def main(work: Path) -> None:
    """Run the attacks, one after the other, on one thread."""
    torch.set_num_threads(1)
    breaching, case = _breaching(), json.loads((work / "case.json").read_text())
    arrays = dict(np.load(work / "case.npz"))
    x, y = torch.from_numpy(arrays.pop("x")), torch.from_numpy(arrays.pop("y"))
    network = SmoothNet(channels=x.shape[1], side=x.shape[2], classes=case["classes"])
    network.load_state_dict({key: torch.from_numpy(values) for key, values in arrays.items()})
    found = {}
    for name, overrides in case["attacks"].items():
        torch.manual_seed(case["seed"])
        found[name] = _attacked(breaching, network, x, y, case["classes"], name, overrides)
    (work / "found.json").write_text(json.dumps(found))


def _breaching() -> Any:
    """The package, also beside a torch without CUDA: there the registry's torchvision lacks its operators.

    breaching never calls them, but without their signatures torchvision cannot be imported.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [one for one in sys.modules if one.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
    import breaching

    return breaching


def _attacked(
    breaching: Any,
    network: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    name: str,
    overrides: list[str],
) -> dict[str, Any]:
    loss = torch.nn.CrossEntropyLoss()
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(network(x), y), parameters)
    data = _Metadata(modality="vision", task="classification", shape=tuple(x.shape[1:]), classes=classes)
    payload = {"parameters": parameters, "buffers": None, "metadata": data}
    shared = {
        "gradients": list(gradients),
        "buffers": None,
        "metadata": {"num_data_points": len(y), "labels": None, "local_hyperparams": None},
    }
    configuration = breaching.get_attack_config(name, overrides)
    attacker = breaching.attacks.prepare_attack(network, loss, configuration)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found, _ = attacker.reconstruct([payload], [shared], {})
    return {
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "inputs": found["data"].tolist(),
        "labels": found["labels"].flatten().tolist(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
