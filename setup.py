"""The part of the build that needs Python; everything declarative is in pyproject.toml."""

from setuptools import setup

setup()
