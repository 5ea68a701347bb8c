"""Which packages there are: found, not listed. All else about the package is in pyproject.toml.

A file of its own, since two folders do not have the name of their package: `app/` is installed as `moeviz_app`, so that
nobody's `import app` finds ours, and `kernels/` is no package at all, since Hugging Face owns that name.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["moeviz", "moeviz.*"]),
        *find_packages("kernels"),
        "moeviz_app",
        *(f"moeviz_app.{name}" for name in find_packages("app")),
    ],
    package_dir={"moe_kernels": "kernels/moe_kernels", "moeviz_app": "app"},
)
