"""Networks for small images."""

from .resnet import resnet18

__all__ = ["resnet18"]
