"""A torchvision for timm's tests, where there is none, or one whose compiled operators do not fit PyTorch's build.

timm imports torchvision, whose import asks for two operators that no test calls. Import this module before timm.
"""

import importlib.util
import sys
from pathlib import Path

import torch


def _fits(package: Path) -> bool:
    try:
        for compiled in package.glob("_C*"):
            torch.ops.load_library(compiled)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


APART = str(Path(sys.prefix) / "torchvision")  # where the Makefile puts it
if importlib.util.find_spec("torchvision") is None:
    sys.path.append(APART)
SPEC = importlib.util.find_spec("torchvision")
if SPEC is not None and SPEC.origin is not None:
    if not _fits(Path(SPEC.origin).parent):
        OPERATORS = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
if APART in sys.path:  # else processes that tests start would find it, without the operators
    sys.path.remove(APART)
