"""Installs the packages kneel and deepknee, and the command deepknee."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# what extras, tests and notebooks need stands below this line of requirements.txt
RUNTIME, _, TESTS = (HERE / "requirements.txt").read_text(encoding="utf-8").partition("# -- notebooks and tests")
REQUIREMENTS = [line.split("#")[0].strip() for line in RUNTIME.splitlines()]
# an extra is what a line there says it is for, as in "# extra [ray]: ..."
EXTRA = {"ray": [line.split("#")[0].strip() for line in TESTS.splitlines() if "# extra [ray]" in line]}
BUILD_ONLY = ("setuptools", "wheel")

setup(
    name="deepknee",
    version="0.1.0",
    description="Landmarks and Kellgren-Lawrence grades of plain knee radiographs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["kneel*", "deepknee*"]),
    package_data={"kneel.phantom": ["shape_statistics.json"]},
    install_requires=[line for line in REQUIREMENTS if line and not line.startswith(BUILD_ONLY)],
    extras_require=EXTRA,
    entry_points={"console_scripts": ["deepknee = deepknee.cli:main"]},
)
