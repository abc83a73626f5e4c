"""The command line: `python -m seqops info | bench | word2vec | neighbors | analogy | evaluate | plot`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from typing import Any

import torch

import seqops
from seqops.embeddings import _commands
from seqops.ops._register import INTERPRET

__all__ = ["info", "main"]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> dict[str, Any]:
    """Versions, devices, and the path that each op takes on each device, as plain data."""
    versions = {"seqops": seqops.__version__, "python": platform.python_version(), "torch": torch.__version__}
    versions |= {package: _version(package) or "not installed" for package in ("triton", "numpy")}
    cpu = platform.processor() or platform.machine()
    devices: list[dict[str, Any]] = [{"device": "cpu", "name": cpu, "threads": torch.get_num_threads()}]
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        devices.append(
            {"device": f"cuda:{i}", "name": p.name, "capability": f"{p.major}.{p.minor}", "memory": p.total_memory}
        )
    has_triton = _version("triton") is not None
    paths = {"cpu": "triton, interpreted" if INTERPRET and has_triton else "torch"}
    if len(devices) > 1:
        paths["cuda"] = (
            "triton where the kernels cover dtype and size, else torch"
            if has_triton
            else "unavailable: triton is not installed"
        )
    ops = {op: paths for op in seqops.functional.__all__ if op[0].islower()}
    return {"versions": versions, "devices": devices, "ops": ops}


def _print_info(facts: dict[str, Any]) -> None:
    print("  ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    for d in facts["devices"]:
        if d["device"] == "cpu":
            print(f"cpu     {d['name']}, {d['threads']} threads")
        else:
            print(f"{d['device']:8}{d['name']}, sm {d['capability']}, {d['memory'] / 2**30:.0f} GiB")
    width = max(map(len, facts["ops"]))
    for op, paths in facts["ops"].items():
        print(f"{op:{width}}  " + "  ".join(f"{device}: {path}" for device, path in paths.items()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seqops", description="Sequence models' ops as fast kernels.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("info", help="versions, devices, and which path each op takes here")
    command.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("bench", help="time the ops here: a few shapes, or as --help says", add_help=False)
    _commands.add_commands(commands)
    options, rest = parser.parse_known_args(arguments)
    if options.command == "bench":
        from seqops.bench import run

        return run.main(rest or ["--quick"])
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command != "info":
        return _commands.run(options)
    facts = info()
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_info(facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
