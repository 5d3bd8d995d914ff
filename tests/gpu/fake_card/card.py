"""A simulated CUDA device: the CUDA code runs with a CPU build of torch, on tensors without values.

`FakeCard` is a torch dispatch mode. Tensors on ``cuda`` are fake (torch's `FakeTensorMode`), and tensors on the CPU are
real. A device guard, hooks and a page-locked allocator for CUDA, compiled once from C++, make autograd and
``pin_memory`` accept them; they must be loaded before torch is imported. It finds tensors on different devices,
operations that CUDA does not have, waits for the device, and blocking copies to it, each with the function of this
project that requested it. It cannot test values, the kernels' own limits (where a gradient is needed, attention in rows
is computed by plain products here), memory and speed: `make gpu` is for those.

A value that is read from the device is 0, so every comparison of vectors agrees.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import traceback
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

GUARD = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <map>
#include <mutex>
using namespace c10;
struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device card() { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return card(); }
  Device getDevice() const override { return card(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, card()); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, card()); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, card()); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, Guard) }

struct PageLocked final : Allocator {  // ordinary memory that is remembered as page-locked
  static std::map<const char*, size_t>& taken() { static auto* all = new std::map<const char*, size_t>; return *all; }
  static std::mutex& lock() { static auto* one = new std::mutex; return *one; }
  static void release(void* place) {
    { std::lock_guard<std::mutex> held(lock()); taken().erase(static_cast<const char*>(place)); }
    free_cpu(place);
  }
  DataPtr allocate(size_t n) override {
    void* place = n ? alloc_cpu(n) : nullptr;
    if (place) { std::lock_guard<std::mutex> held(lock()); taken()[static_cast<const char*>(place)] = n; }
    return {place, place, n ? &release : nullptr, Device(DeviceType::CPU)};
  }
  DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
  static bool holds(const void* place) {
    std::lock_guard<std::mutex> held(lock());
    auto next = taken().upper_bound(static_cast<const char*>(place));
    if (next == taken().begin()) return false;
    --next;
    return static_cast<const char*>(place) < next->first + next->second;
  }
};

struct CUDAHooks final : at::CUDAHooksInterface {  // registered by this very name
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void init() const override {}
  Allocator* getPinnedMemoryAllocator() const override { static PageLocked one; return &one; }
  bool isPinnedPtr(const void* place) const override { return PageLocked::holds(place); }
};
namespace at { using ::CUDAHooks; REGISTER_CUDA_HOOKS(CUDAHooks); }
"""


def load_guard(place: Path) -> None:
    """Compile the guard into `place` if it is not there, and load it together with torch's own libraries."""
    assert "torch" not in sys.modules, "the guard has to be there before torch"
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent
    library = place / "fake_cuda_guard.so"
    if not library.exists():
        source = place / "guard.cpp"
        source.write_text(GUARD)
        compiler = shutil.which(os.environ.get("CXX") or "g++")
        assert compiler is not None, "no C++ compiler"
        command = [compiler, "-std=c++20", "-O0", "-w", "-shared", "-fPIC", f"-I{root / 'include'}", str(source)]
        command += ["-o", str(library), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True)
    for name in (root / "lib" / "libc10.so", root / "lib" / "libtorch_cpu.so", library):
        ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)


load_guard(Path(os.environ["FAKE_CARD_PLACE"]))

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils import _foreach_utils  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.item.default)
# Operations whose result has as many elements as the values say, for which the card has to be waited for.
COUNTED_BY_VALUES = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
ATTENTION = ("_varlen_attn", "scaled_dot_product", "_efficient_attention", "_flash_attention", "_cudnn_attention")


def asked_by() -> str:
    """Return the topmost function of this project on the stack, and its caller; a library's if there is none."""
    frames = traceback.extract_stack()
    ours = [frame for frame in frames if "/sbert_ft/" in frame.filename]
    theirs = [f for f in frames if "/sentence_transformers/" in f.filename or "/transformers/" in f.filename]
    named = (ours or theirs)[::-1][:2]
    return " < ".join(f"{Path(frame.filename).stem}.{frame.name}" for frame in named)


class _Fake(FakeTensorMode):
    avoid_device_init = True  # whatever is said of a card


class FakeCard(TorchDispatchMode):
    """A dispatch mode in which tensors on CUDA are fake and tensors on the CPU are real.

    Attributes:
        waits: Reads of values, by the function that requested them: the CPU waits until the device has finished all
            queued work.
        blocking: Copies to the device from memory that is not page-locked, or without ``non_blocking``.
        copies: The other copies to the device.
        calls: Operations on the device by name, without views and new memory: at least as many kernel launches.
        most_elements: An operation whose result has more elements raises torch's out-of-memory error; None for no
            limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = _Fake(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.blocking: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.most_elements: int | None = None

    def clear(self) -> None:
        """Reset all counts."""
        for counter in (self.waits, self.blocking, self.copies, self.calls):
            counter.clear()

    def attention_calls(self) -> dict[str, int]:
        """Return the attention operators that were called, by name."""
        return {name: n for name, n in self.calls.items() if any(word in name for word in ATTENTION)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on fake tensors where one of them, or its result, is on the card."""
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_card = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not on_card and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        if _is_launched(func):
            self.calls[str(func)] += 1
        if func in READS:  # item(), tolist(), float(), bool()
            self.waits[f"read: {asked_by()}"] += 1
            kind = args[0].dtype
            return True if kind == torch.bool else 0.0 if kind.is_floating_point else 0
        if func._schema.name in ("aten::to", "aten::_to_copy") and target is not None:
            if on_card and target.type == "cpu":
                self.waits[f"to the CPU: {asked_by()}"] += 1
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if not on_card:
                self._note_copy(args[0], bool(kwargs.get("non_blocking")))
        if func is aten.copy_.default and isinstance(args[0], FakeTensor) and not isinstance(args[1], FakeTensor):
            self._note_copy(args[1], len(args) > 2 and bool(args[2]))
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor) and isinstance(args[1], FakeTensor):
            self.waits[f"copied to the CPU: {asked_by()}"] += 1
            return args[0].zero_()
        if func in COUNTED_BY_VALUES or _selects_by_mask(func, args):
            self.waits[f"{func}: {asked_by()}"] += 1
        args, kwargs = tree_map_only(torch.Tensor, self._as_fake, (args, kwargs))
        with self.fake:
            result = func(*args, **kwargs)
        if self.most_elements is not None and isinstance(result, torch.Tensor) and result.numel() > self.most_elements:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than the fake card has.")
        return result

    def _note_copy(self, tensor: torch.Tensor, goes_on_alone: bool) -> None:
        free = goes_on_alone and tensor.is_pinned()
        (self.copies if free else self.blocking)[f"{tuple(tensor.shape)} {tensor.dtype}: {asked_by()}"] += 1

    def _as_fake(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor, static_shapes=True)


def _selects_by_mask(func: Any, args: Any) -> bool:
    return func is aten.index.Tensor and any(index is not None and index.dtype == torch.bool for index in args[1])


def _is_launched(func: Any) -> bool:
    name = func._schema.name
    if name.startswith(("prim::", "aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh")):
        return False
    results = func._schema.returns
    of_view = [one.alias_info is not None and not one.alias_info.is_write for one in results]
    return not of_view or not all(of_view)


def _no_address(tensor: torch.Tensor) -> int:
    return id(tensor)


@contextmanager
def card_in_place() -> Iterator[FakeCard]:
    """Let torch's Python code report a device like an H200, and run its operations on fake tensors."""
    properties = types.SimpleNamespace(
        name="fake card", total_memory=139 << 30, major=9, minor=0, multi_processor_count=132
    )
    told: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: properties.name,
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *_: (138 << 30, 139 << 30),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "empty_cache": lambda: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "synchronize": lambda *_: None,
        "manual_seed_all": lambda *_: None,
    }
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    card = FakeCard()
    with ExitStack() as stack:
        for name, value in told.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # fake tensors have no address; who asks for one wants to know whether a tensor is another
        stack.enter_context(mock.patch.object(FakeTensor, "data_ptr", _no_address, create=True))
        foreach_types = [*_foreach_utils._foreach_supported_types, FakeTensor]
        stack.enter_context(mock.patch.object(_foreach_utils, "_foreach_supported_types", foreach_types))
        stack.enter_context(card)
        yield card
