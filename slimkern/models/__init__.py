"""Networks for small images."""

from slimkern.models.resnet import resnet18

__all__ = ["resnet18"]
