# ruff: noqa: E402, SIM115 (what is imported lies in a folder that is named first; streams are not closed)
"""The warm process: it imports everything, computes once, and forks for each request (see `warm/__init__.py`).

A request is a line of JSON on standard input. The answers on standard output are the number of the forked process, and
when it has ended its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS)]

import torch

torch.set_num_threads(1)  # the processes under test are forks
for name in (
    *("encodings.utf_8_sig", "pandas", "pyarrow.parquet", "tokenizers", "transformers.models.bert.modeling_bert"),
    *("scipy.stats", "sklearn.isotonic", "sklearn.linear_model", "sklearn.metrics"),
    "sentence_transformers.sentence_transformer.losses",
    *(f"sbert_ft.commands.{name}" for name in ("config", "doctor", "encode", "evaluate", "predict", "score", "train")),
    *("sbert_ft.cli", "sbert_ft.data.dataset", "sbert_ft.doctor.folder", "sbert_ft.training.fine_tune"),
    "sbert_ft.training.run",
):
    importlib.import_module(name)


ROOM = ("stdout", "stderr")


def warm_up() -> None:
    """Load a small model, compute with it, save it and train it a step, so that no child is the first to."""
    environment = dict(os.environ)
    from conftest import make_bert_folder

    os.environ.clear()
    os.environ.update(environment)  # importing conftest sets the libraries offline
    from sbert_ft import ConnectionDataset, SiameseBert, TrainingSettings, fine_tune

    with tempfile.TemporaryDirectory() as place:
        model = SiameseBert.from_pretrained(make_bert_folder(Path(place) / "model"), device="cpu", precision="float32")
        model.encode(["a dog", "the cat"])
        model.save_pretrained(Path(place) / "saved")
        pairs = ConnectionDataset.from_pairs([("a dog", f"a cat {n}", n / 9) for n in range(10)])
        fine_tune(model, pairs, dev=pairs, output_dir=Path(place) / "run", training=TrainingSettings(max_steps=1))


def report_of(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request in the child, and return what is written to its report; never raises."""
    report: dict[str, Any] = {"code": 99}
    began = time.monotonic()
    try:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)  # whatever the tests themselves were started with
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for name, value in request["environment"].items():
            os.environ[name] = value
        tempfile.tempdir = None
        if request["cwd"] is not None:
            os.chdir(request["cwd"])
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        module, _, function = request["call"].partition(":")
        report["code"] = getattr(importlib.import_module(module), function)(report, **request["arguments"])
        if sys.stdout is not None:
            sys.stdout.flush()  # as the interpreter does at its end
    except SystemExit as end:
        report["code"] = end.code if isinstance(end.code, int) else 98
    except BaseException:
        traceback.print_exc()
        report["code"] = 99
    report["seconds"] = time.monotonic() - began
    return report


def child(request: dict[str, Any], pipes: dict[str, tuple[int, int]]) -> None:
    """Be the forked process; does not return."""
    code = 99
    try:
        os.dup2(os.open(request["stdin"] or os.devnull, os.O_RDONLY), 0)
        for number, name in enumerate(ROOM, 1):
            os.dup2(pipes[name][1], number)
        for ends in pipes.values():
            for end in ends:
                os.close(end)
        with open(request["report"], "w", encoding="utf-8") as file:  # opened before the run is watched or limited
            report = report_of(request)
            code = report["code"]
            json.dump(report, file)
    finally:
        os._exit(code)


def drained(pipes: dict[str, int], request: dict[str, Any]) -> None:
    """Copy what comes out of the pipes to the files of the request, until the last writer has closed them.

    Pipes, because a limit on the size of files would keep a child from saying what is wrong.
    """
    with selectors.DefaultSelector() as selector:
        for name, end in pipes.items():
            selector.register(end, selectors.EVENT_READ, open(request[name], "wb", buffering=0))
        while selector.get_map():
            for key, _ in selector.select():
                if data := os.read(key.fd, 1 << 16):
                    key.data.write(data)
                else:
                    selector.unregister(key.fd)
                    key.data.close()
                    os.close(key.fd)


def main() -> None:
    warm_up()
    gc.collect()
    gc.freeze()  # a child's collector leaves alone what is here, and so copies none of its pages
    os.write(1, b"ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        pipes = {name: os.pipe() for name in ROOM}
        pid = os.fork()
        if pid == 0:
            child(request, pipes)
        for _, end in pipes.values():
            os.close(end)
        os.write(1, b"%d\n" % pid)
        drained({name: end for name, (end, _) in pipes.items()}, request)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
