"""Shards encoded on a cluster of two raylets on this machine, whose workers and driver are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbert_ft.vectors.shards import ShardSet

pytest.importorskip("ray", reason="ray is not installed (pip install 'sbert-ft[ray]')")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'sbert-ft[parquet]')")

N_TEXTS, SHARD_SIZE = 480, 30
MAX_SECONDS = 240


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of two nodes with two CPUs together, one of which Ray Data needs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    sentences = (f"Text {i} is about the number {i * i}, " + "as are all the others. " * 8 for i in range(N_TEXTS))
    file.write_text("".join(f"{sentence}\n" for sentence in sentences), "utf-8")
    return file


@pytest.fixture(scope="module")
def expected(minilm_path: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process writes."""
    folder = tmp_path_factory.mktemp("one") / "vectors"
    process = encode(minilm_path, texts, folder)
    said = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode == 0, said
    return folder


def encode(model: Path, texts: Path, folder: Path, *more: str, address: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sbert_ft", "encode", str(model), str(texts), "-o", f"{folder}/"]
    command += ["--shard-size", str(SHARD_SIZE), "--device", "cpu", "--quiet", *more]
    environment = {**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("vectors-*.parquet"))


def wait_for_shards(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + MAX_SECONDS
    while len(shards(folder)) < n:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def workers() -> list[int]:
    """Return the processes of actors that hold a model: Ray gives them their class as title."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = place.read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::MapWorker"):
            found.append(int(place.parent.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc")
def test_a_killed_worker_costs_its_shard_and_a_killed_driver_is_resumed(
    address: str, minilm_path: Path, texts: Path, expected: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "vectors"
    first = encode(minilm_path, texts, folder, "--cluster", "ray", address=address)
    wait_for_shards(folder, 1, first)
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    wait_for_shards(folder, 3, first)  # by a worker that was started in its place
    (other,) = workers()
    assert other != worker
    os.kill(other, signal.SIGSTOP)  # so that it does not end its work before Ray ends it
    first.send_signal(signal.SIGKILL)
    first.communicate()
    until = time.monotonic() + MAX_SECONDS
    while workers():  # Ray ends those of a driver that is gone
        assert time.monotonic() < until
        time.sleep(0.1)
    there = {path.name: path.stat().st_mtime_ns for path in shards(folder)}
    assert len(there) < N_TEXTS // SHARD_SIZE and not (folder / "manifest.json").exists()

    second = encode(minilm_path, texts, folder, "--cluster", "ray", "--resume", address=address)
    said = second.communicate(timeout=MAX_SECONDS)[1]
    assert second.returncode == 0, said
    after = {path.name: path.stat().st_mtime_ns for path in shards(folder)}
    assert {name: after[name] for name in there} == there  # none is done twice
    found, wanted = ShardSet.open(folder), ShardSet.open(expected)
    assert [facts.sha256 for facts in found.shards] == [facts.sha256 for facts in wanted.shards]


def test_what_a_worker_refuses_is_one_sentence_of_the_driver(address: str, minilm_path: Path, tmp_path: Path) -> None:
    """The second shard has a text that is too long for --on-truncate error, which only a worker sees."""
    file, folder = tmp_path / "texts.txt", tmp_path / "vectors"
    file.write_text("short\n" * SHARD_SIZE + "long " * 600 + "\n", "utf-8")
    process = encode(minilm_path, file, folder, "--on-truncate", "error", "--cluster", "ray", address=address)
    said = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode == 2 and "Traceback" not in said
    assert "shard 1" in said and "max_seq_length is" in said
    assert [path.name for path in shards(folder)] == ["vectors-00000-of-00002.parquet"]
