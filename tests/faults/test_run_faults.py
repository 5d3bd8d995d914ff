"""Runs whose surroundings fail: a folder that goes, a disk or memory that is full, files damaged between sittings.

The runs are forks of the warm process (`warm/`), and what they leave is held against the unbroken run. Kills at
every call of the system are swept elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_resume import (
    EVALUATION,
    IN_CHECKPOINT,
    JUDGING,
    REPORT,
    ROOT,
    STEP,
    Bench,
    assert_same_run,
    changed,
    folder_in_memory,
    folder_of,
    log_of,
    newest_step,
    strike,
    tree,
    write_scored,
)
from warm import WarmProcess

from sbert_ft import BertClassifier, ConnectionBert, ConnectionDataset, fine_tune
from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import EvaluationSettings, TrainingSettings
from sbert_ft.errors import DataError, OutputError, ResourceError, RunFolderError, RunInterrupted, TrainingError
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.interruption import interruptible, memory_named

READING = ("sbert_ft.training.fine_tune", "prepare")
TOKENISING = ("sbert_ft.training.plan", "tokenize_connections")
MAKING_MOMENTS = ("sbert_ft.training.loop", "Optimizer")
SAVING_MODEL = ("sbert_ft.evaluation.pair_evaluator", "worst_pairs")  # right before it

SCENARIOS: dict[str, dict[str, Any]] = {
    "short": {"training": {"epochs": 3, "batch_size": 8, "eval_steps": 4, "save_steps": 3, "logging_steps": 5}},
    "frozen": {
        "model": {"freeze_embeddings": True, "freeze_layers": 1},
        "training": {"epochs": 3, "batch_size": 8, "save_steps": 3},
    },
}


@pytest.fixture(scope="module")
def bench(warm: WarmProcess, tiny_bert_folder: Callable[..., Path]) -> Iterator[Bench]:
    with folder_in_memory() as place:
        tiny_bert_folder(place / "model", hidden_size=16, intermediate=32, safetensors=True)
        tiny_bert_folder(place / "wide", hidden_size=24, intermediate=32, safetensors=True)
        write_scored(place / "train.csv", 64, seed=1)
        write_scored(place / "dev.csv", 20, seed=2)
        yield Bench(warm, place, SCENARIOS)


@pytest.fixture(scope="module")
def stopped(bench: Bench) -> Path:
    """Return the configuration of a run that was ended after step 10, one of the second epoch."""
    return bench.stopped("short", 10)


# ---------------------------------------------------------------- asked to end


@pytest.mark.parametrize(
    ("where", "nth", "step"),
    [(STEP, 5, 5), (EVALUATION, 2, 8), (IN_CHECKPOINT, 2, 4)],
    ids=["in a step", "in an evaluation", "in a checkpoint"],
)
def test_a_terminal_that_closes_leaves_a_checkpoint(bench: Bench, where: tuple[str, str], nth: int, step: int) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(where, nth, signal.SIGHUP))
    assert ended.code == 129 and "Traceback" not in ended.said, ended.said
    assert f"ended by SIGHUP after step {step}; continue with --resume" in ended.said
    assert newest_step(folder_of(config)) == step
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize("where", [READING, TOKENISING, REPORT], ids=["reading", "tokenising", "reporting"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_outside_of_the_training_ends_at_once_and_leaves_nothing_half_written(
    bench: Bench, where: tuple[str, str], number: int
) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(where, 1, number))
    assert ended.code == 128 + number and "Traceback" not in ended.said, ended.said
    folder = folder_of(config)
    assert folder.exists() == (where == REPORT)  # before the first step nothing is left
    if folder.exists():
        assert not [name for name in tree(folder) if ".sbert-ft-" in name or name.startswith(".")]
        assert bench.resume(config).code == 0
        assert_same_run(folder, bench.unbroken("short"))


@pytest.fixture
def signals_as_usual() -> Iterator[None]:
    """Let signals end this process, whatever the tests were started with: under nohup, SIGHUP is ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_handler_of_exceptions_on_the_way_keeps_a_run_from_ending(signals_as_usual: None, number: int) -> None:
    went_on = False
    with pytest.raises(RunInterrupted) as ended, interruptible():
        try:
            signal.raise_signal(number)
        except Exception:  # as logging has around each line that it writes
            went_on = True
    assert ended.value.signal_number == number and not went_on


# ---------------------------------------------------------------- the folder goes


@pytest.mark.parametrize(
    ("where", "nth"),
    [(STEP, 6), (EVALUATION, 2), (JUDGING, 2), (SAVING_MODEL, 1)],
    ids=["in a step", "in an evaluation", "in the last judging", "before the model"],
)
@pytest.mark.parametrize("other", [False, True], ids=["removed", "replaced"])
def test_a_folder_that_goes_ends_the_run_and_is_not_made_anew(
    bench: Bench, where: tuple[str, str], nth: int, other: bool
) -> None:
    config = bench.config("short")
    folder = folder_of(config)
    line = f"rm -rf '{folder}'" + (f" && mkdir '{folder}' && echo mine > '{folder}/thesis.txt'" if other else "")
    ended = bench.train(config, strike=strike(where, nth, shell=line))
    assert ended.code == 2 and "Traceback" not in ended.said, ended.said
    assert f"{folder}' was removed, moved or unmounted while the run wrote to it" in ended.said
    assert ("another folder is in its place" in ended.said) == other
    assert not folder.exists() or tree(folder) == {"thesis.txt": b"mine\n"}


def test_a_data_file_that_changes_does_not_touch_the_run_under_way(bench: Bench) -> None:
    config = bench.config("short")
    mine = shutil.copy(bench.place / "train.csv", bench.place / "changing.csv")
    changed(config, data={"train": str(mine)})
    line = f"head -n 9 '{mine}' > '{mine}.new' && mv '{mine}.new' '{mine}'"
    ended = bench.train(config, strike=strike(STEP, 5, shell=line))
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))
    ended = bench.resume(config)
    assert ended.code == 2 and "data.train.sha256 was" in ended.said and "data.train.n was 64, is 8" in ended.said


IN_A_MOUNT = """
import ctypes, shutil, subprocess, sys
from sbert_ft.cli import main
from sbert_ft.training import loop
config, place, kept = sys.argv[1:]
assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS: mounts of its own
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
mount = lambda options: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", place], check=True)
said = lambda *what: print("##", *what, file=sys.stderr, flush=True)
mount("size=300k")
said("full", main(["train", config]))
mount("remount,size=64m")
said("roomy", main(["train", config, "--resume"]))
shutil.copytree(place + "/run", kept)
subprocess.run(["umount", place], check=True)
mount("size=64m,ro")
said("read-only", main(["train", config]))
subprocess.run(["umount", place], check=True)
mount("size=64m")
call, seen = loop.backward, []
def counted(*arguments, **options):
    seen.append(1)
    if len(seen) == 8:
        subprocess.run(["umount", "-l", place], check=True)
    return call(*arguments, **options)
loop.backward = counted
said("unmounted", main(["train", config]))
"""


def can_mount() -> bool:
    line = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "probe", tempfile.gettempdir()]
    with contextlib.suppress(OSError):
        return subprocess.run(line, capture_output=True, timeout=60).returncode == 0
    return False


def test_a_disk_that_is_full_read_only_or_unmounted(bench: Bench) -> None:
    if not can_mount():
        pytest.skip("file systems can be mounted by the superuser only")
    unbroken = bench.unbroken("short")
    place = bench.place / "mounted"
    place.mkdir()
    config = bench.config("short", output_dir=place / "run")
    done = bench.warm.script(IN_A_MOUNT, config, place, bench.place / "kept")
    assert done.code == 0 and "Traceback" not in done.err, done.err
    full, roomy, read_only, unmounted, end = done.err.split("\n## ")
    assert "checkpoints and model need about" in full and "may fail before it is finished" in full
    assert "No space left on device" in full and "is still there: fix this, then continue with --resume" in full
    assert roomy.startswith("full 2\n") and "going on after step" in roomy
    assert read_only.startswith("roomy 0\n") and "Read-only file system" in read_only
    assert unmounted.startswith("read-only 2\n")
    assert "was removed, moved or unmounted" in unmounted and end == "unmounted 2\n"
    assert list(place.iterdir()) == []
    assert_same_run(bench.place / "kept", unbroken)


def test_a_run_behind_a_link_on_another_file_system_than_temporary_files(bench: Bench) -> None:
    real, link = bench.place / "real", bench.place / "link"
    real.mkdir()
    link.symlink_to(real, target_is_directory=True)
    config = bench.config("short", output_dir=link)
    ended = bench.train(config, strike=strike(STEP, 10, signal.SIGTERM))
    assert ended.code == 143, ended.said
    assert bench.resume(config).code == 0
    assert link.is_symlink()
    assert_same_run(real, bench.unbroken("short"))


# ---------------------------------------------------------------- damaged between sittings


def damage(config: Path, name: str, content: bytes | None) -> None:
    path = folder_of(config) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no lines for the steps up to 10"),
        (b"\x00\xff garbage\n[]\n{\n", "3 lines are not JSON objects and were skipped"),
    ],
    ids=["deleted", "garbage"],
)
def test_a_log_that_is_gone_is_said_and_the_model_is_the_same(
    bench: Bench, stopped: Path, content: bytes | None, said: str
) -> None:
    config = bench.copy_of(stopped)
    damage(config, "metrics.jsonl", content)
    ended = bench.resume(config)
    assert ended.code == 0 and f"metrics.jsonl{'' if content else chr(39)}" in ended.said and said in ended.said
    assert tree(folder_of(config) / "model") == tree(bench.unbroken("short") / "model")
    assert [line["step"] for line in log_of(folder_of(config)) if line["kind"] == "train"] == [15, 20, 24]


@pytest.mark.parametrize("content", [b"{", b"", b'{"training": {"seed": 8}}', b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_edited_where_nothing_reads_it_is_said_and_written_anew(
    bench: Bench, stopped: Path, content: bytes
) -> None:
    config = bench.copy_of(stopped)
    before = json.loads((folder_of(config) / "config.json").read_text())
    damage(config, "config.json", content)
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert "config.json' was edited or damaged since the run began and is written again" in ended.said
    assert json.loads((folder_of(config) / "config.json").read_text()) == before
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"{}"])
def test_a_run_that_nothing_says_the_beginning_of_goes_on_only_where_that_is_allowed(
    bench: Bench, stopped: Path, content: bytes | None
) -> None:
    config = bench.copy_of(stopped)
    damage(config, "fingerprint.json", content)
    before = tree(folder_of(config))
    ended = bench.resume(config)
    assert ended.code == 2 and "Traceback" not in ended.said
    assert "fingerprint.json" in ended.said and "--allow-changes" in ended.said and "--overwrite" in ended.said
    assert tree(folder_of(config)) == before
    ended = bench.resume(config, "--allow-changes")
    assert ended.code == 0 and "without being checked against it" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))
    assert "was finished" in bench.resume(config).said


def test_what_can_be_made_anew_is(bench: Bench, stopped: Path) -> None:
    config = bench.copy_of(stopped)
    folder = folder_of(config)
    damage(config, "ledger.json", b"{")
    assert bench.resume(config).code == 0
    assert_same_run(folder, bench.unbroken("short"))
    assert (folder / "ledger.json").read_bytes() == (bench.unbroken("short") / "ledger.json").read_bytes()


def test_without_any_checkpoint_the_run_begins_again_and_says_so(bench: Bench, stopped: Path) -> None:
    config = bench.copy_of(stopped)
    shutil.rmtree(folder_of(config) / "checkpoints")
    ended = bench.resume(config)
    assert ended.code == 0 and "holds no checkpoint: the run starts again from its first step" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize(("old", "new"), [(2**32 - 1, 946_684_800), (946_684_800, 4_070_908_800)])
def test_clocks_do_not_say_which_checkpoint_is_the_newest(bench: Bench, stopped: Path, old: int, new: int) -> None:
    config = bench.copy_of(stopped)
    folder = folder_of(config)
    for path in folder.rglob("*"):
        os.utime(path, (old, old))
    os.utime(folder / "checkpoints" / "step-00000010.safetensors", (new, new))
    ended = bench.resume(config)
    assert ended.code == 0 and "going on after step 10 of 24" in ended.said
    assert_same_run(folder, bench.unbroken("short"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_finished_run_whose_results_are_damaged_says_how_to_have_them_again(bench: Bench, content: bytes) -> None:
    config = bench.config("short")
    shutil.copytree(bench.unbroken("short"), folder_of(config))
    damage(config, "metrics.json", content)
    ended = bench.resume(config)
    assert ended.code == 2 and "metrics.json' is damaged" in ended.said and "delete it" in ended.said
    (folder_of(config) / "metrics.json").unlink()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


# ---------------------------------------------------------------- changed between sittings


def test_a_dev_file_that_is_gone_is_named_and_nothing_is_written(bench: Bench, stopped: Path) -> None:
    config = changed(bench.copy_of(stopped), data={"dev": str(bench.place / "gone.csv")})
    before = tree(folder_of(config))
    ended = bench.resume(config)
    assert ended.code == 2 and "gone.csv'" in ended.said and "Traceback" not in ended.said
    assert tree(folder_of(config)) == before


def test_another_vocabulary_is_refused_by_name(bench: Bench, stopped: Path) -> None:
    other = shutil.copytree(bench.place / "model", bench.place / "other-words")
    words = (other / "vocab.txt").read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    config = changed(bench.copy_of(stopped), model={"path": str(other)})
    before = tree(folder_of(config))
    ended = bench.resume(config)
    assert ended.code == 2 and "model.tokenizer was '" in ended.said and "model.weights was" not in ended.said
    assert tree(folder_of(config)) == before


def test_a_model_of_another_shape_is_refused_before_anything_is_written_though_changes_are_allowed(
    bench: Bench, stopped: Path
) -> None:
    config = changed(bench.copy_of(stopped), model={"path": str(bench.place / "wide")})
    before = tree(folder_of(config))
    ended = bench.resume(config, "--allow-changes")
    assert ended.code == 2 and "Traceback" not in ended.said
    assert (
        "step-00000010.safetensors' holds another model's weights: 'embeddings.LayerNorm.bias' is (16,) there"
        in ended.said
    )
    assert tree(folder_of(config)) == before


def test_weights_that_were_frozen_have_no_state_to_go_on_with_and_nothing_is_written(bench: Bench) -> None:
    config = bench.stopped("frozen", 10)
    changed(config, model={"freeze_layers": 0})
    before = tree(folder_of(config))
    ended = bench.resume(config, "--allow-changes")
    assert ended.code == 2 and "Traceback" not in ended.said
    assert "no state of the optimizer for 'encoder.layer.0." in ended.said and "freeze it again" in ended.said
    assert tree(folder_of(config)) == before


# ---------------------------------------------------------------- memory, and what is no number


def without_memory(where: tuple[str, str], nth: int, more_kb: int) -> dict[str, Any]:
    """Return what allows the run little more memory than it has at a function's nth call."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit, which limits a process's memory, is not installed")
    has = "$(awk '/^VmSize/ {print $2}' /proc/$PPID/status)"
    return strike(where, nth, shell=f"prlimit --pid $PPID --as=$(( ({has} + {more_kb}) * 1024 ))")


def minilm_config(bench: Bench, minilm_path: Path, **training: Any) -> Path:
    return changed(bench.config("short", **training), model={"path": str(minilm_path), "max_seq_length": 32})


def test_want_of_memory_is_a_sentence_with_what_would_need_less(bench: Bench, minilm_path: Path) -> None:
    config = minilm_config(bench, minilm_path)
    ended = bench.train(config, strike=without_memory(MAKING_MOMENTS, 1, 2_000))
    assert ended.code == 2 and "Traceback" not in ended.said, ended.said
    assert (
        "out of memory while the run went on: lower training.batch_size (8) or model.max_seq_length (32)" in ended.said
    )


IN_FRESH_FORKS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import sbert_ft.commands.train, sbert_ft.training.run, transformers.models.bert.modeling_bert
from warm.calls import command
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            said = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1), os.dup2(said, 2)
            code = command({}, **json.loads(line))
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_in_a_step_forwards_are_halved_until_they_fit_or_it_is_said_that_none_does(
    bench: Bench, minilm_path: Path, tmp_path: Path
) -> None:
    halved = "going on from step 2 with forwards of 32 rows; the batch stays the same"
    # forks of a process that has computed nothing: the allocator of one that has trained keeps what is not to be found
    with subprocess.Popen(
        [sys.executable, "-c", IN_FRESH_FORKS, str(ROOT / "tests"), str(tmp_path / "said")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        # what the allocator has kept from earlier steps differs by its threads
        for room_kib in (20_000, 10_000, 4_000, 1_000, 200):
            config = minilm_config(bench, minilm_path, batch_size=64, epochs=4, save_steps=1)
            request = {"argv": ["train", str(config)], "strike": without_memory(STEP, 3, room_kib)}
            print(json.dumps(request), file=process.stdin, flush=True)
            ready = select.select([process.stdout], [], [], 120)[0]
            if not ready:
                process.kill()
            code, said = process.stdout.readline().strip(), (tmp_path / "said").read_text("utf-8")
            assert code in ("0", "2") and "Traceback" not in said, (code, said)
            if halved in said:
                break
    assert halved in said
    assert newest_step(folder_of(config)) >= 2


PRODUCTS_IN_FULL_MEMORY = """
import resource
from pathlib import Path
import numpy as np
from scipy.linalg.blas import dgemm
from sbert_ft.training.run import _allocate_blas_buffers
_allocate_blas_buffers()
has = int(next(line for line in Path("/proc/self/status").open() if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, ((has + 6_000) * 1024,) * 2)
square = np.ones((256, 256))
print(np.array_equal(square @ square, dgemm(1.0, square, square)))
"""


def test_an_evaluation_s_products_need_no_memory_that_the_training_may_have_filled() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("/proc, which says how much memory a process has, is not there")
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS_IN_FULL_MEMORY],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    settings: Any = None
    with pytest.raises(RuntimeError, match="shapes"), memory_named(settings, "it went on"):
        raise RuntimeError("shapes cannot be multiplied")


def test_a_loss_that_is_no_number_names_eight_lines_and_counts_the_others(bench: Bench) -> None:
    config = bench.config("short", batch_size=16)
    content = json.loads(config.read_text())
    content["objective"] = {"name": "cosine", "weight": 1e30}
    config.write_text(json.dumps(content))
    ended = bench.train(config)
    assert ended.code == 2 and " and 8 more of the training data)" in ended.said


def test_texts_that_are_cut_are_counted_in_dev_too(bench: Bench) -> None:
    config = bench.config("short", epochs=1)
    ended = bench.train(config, "--set", "model.max_seq_length=9")
    assert ended.code == 0, ended.said
    ledger = json.loads((folder_of(config) / "ledger.json").read_text())
    for name in ("train", "dev"):
        cut = next(finding for finding in ledger[name]["findings"] if finding["kind"] == "cut")
        assert f"{name}.csv': {cut['count']} rows with a text longer than 9 tokens, which is cut" in ended.said
        lines = (bench.place / f"{name}.csv").read_text().splitlines()
        long = [i for i, line in enumerate(lines[1:], 2) if any(len(text.split()) > 7 for text in line.split(",")[:2])]
        assert cut["count"] == len(long) and cut["first"] == long[:5]


# ---------------------------------------------------------------- in Python


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """Hold the caller's random state, signal handlers and logging against what they were."""

    def taken() -> list[Any]:
        ours = logging.getLogger("sbert_ft")
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        return [torch.get_rng_state().tolist(), [signal.getsignal(n) for n in numbers], ours.handlers[:], ours.level]

    before = taken()
    yield
    assert taken() == before


def weights_of(model: SiameseBert | BertClassifier) -> dict[str, torch.Tensor]:
    module = model.bert.encoder if isinstance(model, SiameseBert) else model.trained
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


TRAINING = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-3, precision="float32")
QUICK = EvaluationSettings(bootstrap_samples=20)


class Strikes(logging.Handler):
    """Does something as soon as a line that begins so is logged."""

    def __init__(self, beginning: str, what: Callable[[], object]) -> None:
        super().__init__()
        self.beginning, self.what = beginning, what

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.beginning):
            self.what()


@pytest.mark.parametrize("fault", ["no number", "interrupted", "folder gone", "no file", "folder taken"])
def test_fine_tune_that_fails_leaves_the_model_and_the_surroundings_as_they_were(
    bench: Bench, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sbert_ft")
    model = SiameseBert.from_pretrained(bench.place / "model", device="cpu", precision="float32")
    before = weights_of(model)
    run = tmp_path / "run"
    expected: dict[str, type[Exception]] = {
        "no number": TrainingError,
        "interrupted": RunInterrupted,
        "folder gone": OutputError,
        "no file": DataError,
        "folder taken": RunFolderError,
    }
    if fault == "folder taken":
        run.mkdir()
        (run / "thesis.txt").write_text("mine")
    strikes = {
        "interrupted": lambda: signal.raise_signal(signal.SIGTERM),
        "folder gone": lambda: shutil.rmtree(run),
    }
    ours = logging.getLogger("sbert_ft")
    ours.addHandler(striking := Strikes("step 8: dev", strikes.get(fault, lambda: None)))
    try:
        with surroundings_kept(), pytest.raises(expected[fault]):
            fine_tune(
                model,
                bench.place / ("gone.csv" if fault == "no file" else "train.csv"),
                dev=bench.place / "dev.csv",
                output_dir=run,
                objective=ObjectiveSettings("cosine", weight=1e30 if fault == "no number" else 1.0),
                training=TRAINING,
                evaluation=QUICK,
            )
    finally:
        ours.removeHandler(striking)
    assert_equal_weights(weights_of(model), before)
    assert not model.bert.encoder.training and model.decision is None
    assert all(parameter.requires_grad for parameter in model.bert.encoder.parameters())
    assert model.encode(["a man is playing the guitar"]).shape == (1, 16)


@pytest.fixture
def fitted(bench: Bench) -> BertClassifier:
    bert = ConnectionBert.from_pretrained(bench.place / "model", device="cpu", precision="float32")
    model = BertClassifier(bert, kind="single")
    return model.fit(["red", "green", "blue", "black"] * 4, ["a", "b"] * 8, training=TRAINING, evaluation=QUICK)


@pytest.mark.parametrize("fault", ["blank text", "no number", "no temporary folder", "folder taken"])
def test_fit_that_fails_leaves_the_classifier_with_its_head_and_classes(
    fitted: BertClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before, classes = weights_of(fitted), fitted.classes_.tolist()
    texts = ["red", "", "blue", "black", "white", "young"] if fault == "blank text" else ["red", "green", "blue"] * 2
    errors = {"blank text": DataError, "no number": TrainingError, "folder taken": RunFolderError}
    if fault == "no temporary folder":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    if fault == "folder taken":
        (tmp_path / "thesis.txt").write_text("mine")
    if fault == "no number":
        with torch.no_grad():
            next(fitted.bert.encoder.parameters())[:] = 3e38
        before = weights_of(fitted)
    with surroundings_kept(), pytest.raises(errors.get(fault, OutputError)):
        fitted.fit(
            texts,
            ["x", "y", "z"] * 2,
            training=TRAINING,
            evaluation=QUICK,
            output_dir=tmp_path if fault == "folder taken" else None,
        )
    assert fitted.classes_.tolist() == classes
    assert_equal_weights(weights_of(fitted), before)


@pytest.mark.parametrize("has_room", [True, False])
def test_memory_that_runs_out_in_python_is_the_typed_error(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    if not has_room:  # then the weights are kept in memory
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    pairs = ConnectionDataset.from_file(bench.place / "train.csv")
    model = SiameseBert.from_pretrained(bench.place / "model", device="cpu", precision="float32")
    before = weights_of(model)
    hook = model.bert.encoder.register_forward_hook(lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    try:
        with surroundings_kept(), pytest.raises(ResourceError, match="memory"):
            fine_tune(model, pairs, output_dir=tmp_path / "run", training=TRAINING, evaluation=QUICK)
    finally:
        hook.remove()
    assert_equal_weights(weights_of(model), before)


def test_weights_that_are_no_numbers_are_never_the_best(bench: Bench, tiny_bert_folder: Callable[..., Path]) -> None:
    model = tiny_bert_folder(bench.place / "broken", hidden_size=16, safetensors=True)
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][:] = 3e38
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = changed(bench.config("short", eval_steps=1, save_steps=1), model={"path": str(model)})
    ended = bench.train(config)
    assert ended.code == 2 and "Traceback" not in ended.said, ended.said
    folder = folder_of(config)
    assert newest_step(folder) == 0 and not (folder / "model").exists() and not (folder / "metrics.json").exists()
