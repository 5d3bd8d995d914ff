"""The types that a device multiplies, which errors mean out of memory, and which processes can use a device."""

from __future__ import annotations

import pytest
import torch

from sbert_ft.encoder.devices import half_precisions, host_memory, is_out_of_memory, multiplies_bfloat16, to_device
from sbert_ft.errors import ResourceError

CARD = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "types"),
    [((6, 1), ()), ((7, 0), ("float16",)), ((7, 5), ("float16",)), ((8, 0), ("bfloat16", "float16"))],
)
def test_half_precision_types_follow_from_what_the_card_can(
    capability: tuple[int, int], types: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert half_precisions(CARD) == types


def test_a_cpu_has_bfloat16_where_it_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert half_precisions(cpu) == (("bfloat16",) if multiplies_bfloat16(cpu) else ())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert half_precisions(cpu) == ()


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA driver error: out of memory",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
        "could not create a primitive",
        "std::bad_alloc",
    ],
)
def test_what_libraries_say_when_memory_is_gone_is_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(ValueError(message))


def test_another_fault_is_not_taken_for_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_forked_process_is_told_that_it_cannot_use_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    for use in (lambda: host_memory(3, CARD), lambda: to_device(torch.zeros(3), CARD)):
        with pytest.raises(ResourceError, match=r"forked process.*spawn"):
            use()
    cpu = torch.device("cpu")
    assert host_memory(3, cpu).dtype == torch.int64 and len(host_memory(3, cpu)) == 3
    tensor = torch.zeros(3)
    assert to_device(tensor, cpu) is tensor
