"""The stand-in device of tests/support/stand_in_device.h for Python, in this process and in programs."""

import os
import types

import torch
from conftest import ROOT

LIBRARY = ROOT / "build" / "release" / "lib" / "liblmhead_stand_in.so"


def load() -> torch.device:
    """The device, with the little that PyTorch's Python wants of one."""
    torch.ops.load_library(str(LIBRARY))
    module = types.ModuleType("torch.stand_in")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: 2
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    if not hasattr(torch, "stand_in"):
        torch._register_device_module("stand_in", module)
    return torch.device("stand_in:1")


def environment(**variables: str) -> dict[str, str]:
    """In which programs have the device too."""
    return {**os.environ, "LD_PRELOAD": str(LIBRARY), **variables}
