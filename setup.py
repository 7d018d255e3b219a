"""The part of the build that needs Python; everything declarative is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "building"))

from native_extensions import BuildNative, BuildPython, last_words, native_extensions

distribution = setup(ext_modules=native_extensions(), cmdclass={"build_ext": BuildNative, "build_py": BuildPython})
for line in last_words(distribution):
    print(line, flush=True)
