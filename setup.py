"""The package list, nothing else: metadata and tool settings are in pyproject.toml.

kernels/ is installed as seqops.kernels, never as a top-level `kernels`, which is the name of another package on PyPI.
"""

from setuptools import setup

setup(
    package_dir={"seqops": "seqops", "seqops.bench": "bench", "seqops.kernels": "kernels"},
    packages=[
        "seqops",
        "seqops.bench",
        "seqops.cpu",
        "seqops.decoding",
        "seqops.embeddings",
        "seqops.integrations",
        "seqops.kernels",
        "seqops.nn",
        "seqops.ops",
    ],
    package_data={"seqops": ["py.typed"]},
)
