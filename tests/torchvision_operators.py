"""What lets torchvision be imported beside a build of PyTorch that its compiled operators do not fit.

timm, Lightning and the Trainer of Transformers import torchvision, whose import asks for two operators that no test
calls. Import this module before them.
"""

import importlib.util
from pathlib import Path

import torch


def _fit() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    try:
        for compiled in Path(spec.origin).parent.glob("_C*"):
            torch.ops.load_library(compiled)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


if not _fit():
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
