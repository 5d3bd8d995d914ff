"""Choose the device and the precision by what the hardware multiplies fast, and describe them in one line."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from sbert_ft.encoder import cpu
from sbert_ft.errors import InputError, ResourceError, quoted

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16", "float16")

# Values of oneDNN's environment variable for the instruction set with which bfloat16 is emulated.
_NARROW_ISAS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")

# Words in out-of-memory messages of torch, cuBLAS, cuDNN, oneDNN and C++.
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "alloc_cpu", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("ALLOCATION_FAILED", "could not create a primitive", "could not create a memory", "bad_alloc"),
)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the requested device; for None the first available one of CUDA, Apple's MPS and the CPU.

    Raises:
        InputError: No supported device has this name.
        ResourceError: The device is not available.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{quoted(device)} is not a device: expected cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda":
        n_cards = torch.cuda.device_count()
        if not torch.cuda.is_available() or (chosen.index or 0) >= n_cards:
            raise ResourceError(f"device {chosen} is not there: torch {torch.__version__} finds {n_cards} CUDA devices")
        return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError(f"device mps is not there: torch {torch.__version__} finds no Apple graphics card")
    if chosen.type not in ("cpu", "mps"):
        raise InputError(f"device {quoted(device)} is not supported: expected cpu, cuda, cuda:1 or mps")
    return torch.device(chosen.type)


def describe_device(device: torch.device) -> str:
    """Return the device as text, with the GPU's name and memory in GiB, or the CPU's threads and capability."""
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{device} ({card.name}, {card.total_memory / 2**30:.1f} GiB)"
    if device.type == "mps":
        return f"mps (Apple, {torch.mps.recommended_max_memory() / 2**30:.1f} GiB)"
    return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16: CUDA from Ampere on, or a CPU with AMX or AVX512-BF16.

    Elsewhere bfloat16 is emulated and slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _NARROW_ISAS:
        return False
    return not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def half_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the names of the 16-bit types that the hardware multiplies; empty where float32 is fastest."""
    found = ["bfloat16"] if multiplies_bfloat16(device) else []
    if device.type == "mps" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)):
        found.append("float16")
    return tuple(found)


def cpu_flags() -> set[str]:
    """Return the names of the processor's capabilities; empty if neither torch nor the system reports them."""
    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.12 on
        return {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return cpu.cpu_flags()


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type in which the encoder computes; the weights are also kept in float32.

    Raises:
        InputError: No precision has this name.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"precision {quoted(precision)} is not one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that the device, or this machine, has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def host_memory(n: int, device: torch.device) -> Tensor:
    """Return an uninitialised int64 tensor on the CPU, shape (n,), which `to_device` can copy to `device`.

    For a CUDA device the memory is page-locked: only from such memory can a copy run while the CPU continues.
    """
    check_usable_here(device)
    return torch.empty(n, dtype=torch.int64, pin_memory=device.type == "cuda")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy of a CPU tensor on `device`, without waiting for a CUDA device; for a CPU the tensor itself."""
    if device.type != "cuda":
        return tensor.to(device)
    check_usable_here(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def check_usable_here(device: torch.device) -> None:
    """Check that this process can use `device`.

    Raises:
        ResourceError: The process was forked from a process that had used CUDA, so it cannot use a CUDA device.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ResourceError(
            f"{device} cannot be used in a forked process after the parent process has used it",
            "start processes with multiprocessing's method 'spawn', or load the model only in the child process",
        )


def token_budget(device: torch.device) -> int:
    """Return the largest number of tokens in a forward that still helps speed: enough to keep the device busy.

    On a CPU the memory of a larger forward is returned to the system each time, and must then be allocated
    again page by page (see `benchmarks/LOG.md`).
    """
    return {"cpu": 2048, "mps": 16_384}.get(device.type, 65_536)


def memory_bytes() -> int:
    """Return this machine's memory in bytes; 1 TiB if the system does not report it."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2**40
