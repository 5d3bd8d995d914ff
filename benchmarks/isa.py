"""Copies of ONNX Runtime and OpenVINO that compute as on a CPU without AVX512, for `--isa avx2`.

    python benchmarks/isa.py        # make the copies for this interpreter, and print their folders as JSON

torch is limited by environment variables. These two engines ask the processor itself, and use AVX512 and AMX only where
the instruction XGETBV says that the system saves their registers. In the copies XGETBV is replaced by its answer on a
CPU with AVX2 alone, so that they take the kernels of such a CPU. Nothing else is changed. AVX-VNNI, which some CPUs
have without AVX512, does not depend on that answer and stays.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness

PACKAGES = ("onnxruntime", "openvino")
# The bytes of XGETBV also occur within other instructions. It is XGETBV after `xor ecx, ecx`, or before the code that
# joins the halves of its answer. Registers of x87, SSE and AVX are bits 0 to 2. The first form writes to the stack, so
# it is not used for the second, which occurs in a function that keeps values below its stack pointer.
XGETBV = re.compile(rb"(?<=\x31\xc9)\x0f\x01\xd0|\x0f\x01\xd0(?=\x89\xc0\x48\xc1\xe2\x20)", re.DOTALL)
PUSH_7_POP_RAX, MOV_AL_7_NOP = b"\x6a\x07\x58", b"\xb0\x07\x90"


def limit(isa: str | None, python: str = sys.executable) -> dict[str, str]:
    """Return the environment in which an interpreter's torch and engines multiply with no more than an instruction set.

    Args:
        isa: Such as avx2; None for all that the CPU has.
        python: Whose engines; copies are made where there are none yet.

    Raises:
        SystemExit: The copies could not be made.
    """
    if isa is None:
        return {}
    environment = harness.limited_to(isa)
    if not needed():
        return environment
    done = subprocess.run([python, __file__], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the engines of {python} could not be limited to {isa}: {done.stderr.strip()}")
    return environment | harness.search_first(*json.loads(done.stdout))


def needed() -> bool:
    """Return whether this CPU has instructions that the engines must be kept from."""
    return "avx512f" in cpu_flags()


def record(isa: str | None) -> dict[str, Any] | None:
    """Return how torch and the engines were limited, for a result; None where they were not."""
    if isa is None:
        return None
    how = "copies in which XGETBV answers as on a CPU with AVX2 alone" if needed() else "not needed on this CPU"
    return {"torch": harness.limited_to(isa), "engines": how, "avx_vnni_stays": "avx_vnni" in cpu_flags()}


def cpu_flags() -> set[str]:
    """Return the instructions that the CPU has by the names of Linux; empty elsewhere, where AVX512 is not found."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def copies() -> list[str]:
    """Return the folders of this interpreter's limited packages, which are made in its environment if they are absent.

    Their names hold the package's version, so another version gets a copy of its own.
    """
    found = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        place = Path(sys.prefix) / "engines-avx2" / f"{package}-{version(package)}"
        if not place.exists():
            making = place.with_name(f"{place.name}.part")
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(Path(spec.origin).parent, making / package, ignore=shutil.ignore_patterns("__pycache__"))
            n_replaced = sum(limit_library(file) for file in sorted(making.rglob("*.so*")))
            if not n_replaced:
                raise SystemExit(f"{package} {version(package)} has no XGETBV that this script knows how to replace")
            making.rename(place)
        found.append(str(place))
    return found


def limit_library(file: Path) -> int:
    """Replace XGETBV in a library, and return how often it was found."""
    content, n_replaced = limited(file.read_bytes())
    if n_replaced:
        file.write_bytes(content)
    return n_replaced


def limited(code: bytes) -> tuple[bytes, int]:
    """Return machine code in which XGETBV says that only the registers of x87, SSE and AVX are saved, and how often."""

    def answer(match: re.Match[bytes]) -> bytes:
        return PUSH_7_POP_RAX if code[match.start() - 2 : match.start()] == b"\x31\xc9" else MOV_AL_7_NOP

    return XGETBV.subn(answer, code)


if __name__ == "__main__":
    print(json.dumps(copies()))
