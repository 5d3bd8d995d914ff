"""What there is to know of a GPU, in eight minutes: is it right, fast, without waits, and within memory?

    python benchmarks/gpu.py                              # as `make gpu`; results go to benchmarks/results/gpu
    python benchmarks/gpu.py --parts versions encode=90   # some of the parts, and 90 seconds for one
    python benchmarks/gpu.py --device cpu                 # the script itself, in small sizes, without a GPU

Each part runs in a process of its own and is ended when its time is over: its limit, and what the parts before it have
left of theirs. Whatever a part finds out is written at once, so that nothing is lost with what comes after. Nothing is
installed and nothing is fetched; `make gpu-bundle` gathers what a bare machine lacks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

RESULTS = harness.RESULTS / "gpu"
# Functions of gpu_parts.py, in the order of their worth, for what is cut off is the end; and the seconds of each.
PARTS = {
    "versions": 20,
    "tests": 60,
    "tests_training": 120,
    "correctness": 20,
    "waits": 30,
    "profile": 45,
    "resume": 30,
    "memory": 30,
    "encode": 55,
    "train": 50,
    "tutorial": 20,
    "cards": 60,
}
TAIL = 4000  # characters kept of what a part printed where it failed
MOST_WARNINGS = 20


@dataclass(frozen=True)
class Session:
    """What all parts are run with: device, folder of the results, and a folder for files that go at the end."""

    device: str
    output: Path
    place: Path


def main() -> None:
    """Run the parts, print a line for each and a table at the end; exit code 1 where one did not come to its end."""
    args = arguments()
    if args.worker:
        work(args)
        return
    start = time.monotonic()
    if args.device == "cuda" and not has_card():
        raise SystemExit("torch sees no CUDA device: DEVICE=cpu (--device cpu) tries the script itself without one")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the part under way ends, too
    args.output.mkdir(parents=True, exist_ok=True)
    due, outcomes = time.monotonic() - start, []
    with tempfile.TemporaryDirectory(prefix="sbert-ft-gpu-", ignore_cleanup_errors=True) as place:
        session = Session(args.device, args.output, Path(place))
        for name in (name for name in PARTS if name in args.parts):
            due += PARTS[name]
            passed = time.monotonic() - start
            outcomes.append(run_part(name, min(args.parts[name] or due - passed, args.limit - passed), session))
            print("{part:15s} {status:9s} {seconds:6.1f} s  {about}".format(**outcomes[-1]), flush=True)
    write_json(args.output / "summary.json", {"device": args.device, "parts": outcomes})
    print("\n| part | status | seconds | |\n| --- | --- | --- | --- |")
    for outcome in outcomes:
        print("| {part} | {status} | {seconds} | {about} |".format(**outcome))
    print(f"\n{time.monotonic() - start:.0f} s; results in {args.output}")
    sys.exit(any(outcome["status"] in ("failed", "timed out") for outcome in outcomes))


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--limit", type=float, default=sum(PARTS.values()), help="seconds for the whole; default 540")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), metavar="NAME[=SECONDS]", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, help="folder; default benchmarks/results/gpu, for a CPU a temporary one")
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    limits = {name: seconds for name, _, seconds in (word.partition("=") for word in args.parts)}
    for name, seconds in limits.items():
        if name not in PARTS or not (seconds or "1").isdigit():
            parser.error(f"--parts: found '{name}', expected some of {', '.join(PARTS)}, or with seconds, as encode=90")
    args.parts = {name: float(seconds or 0) for name, seconds in limits.items()}
    if args.output is None:
        args.output = RESULTS if args.device == "cuda" else Path(tempfile.mkdtemp(prefix="sbert-ft-gpu-cpu-"))
    args.output = args.output.resolve()
    if args.device == "cpu" and args.output == RESULTS:
        parser.error(f"--output: {RESULTS} is for the results of a GPU; name another folder")
    return args


def has_card() -> bool:
    """Return whether torch sees a CUDA device; asked in another process, for this one needs no torch."""
    asked = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked]).returncode == 0


def run_part(name: str, seconds: float, session: Session) -> dict[str, Any]:
    """Run a part in a process of its own, add to its file how it ended, and return that without the findings."""
    path, log = session.output / f"{name}.json", session.place / f"{name}.log"
    path.unlink(missing_ok=True)
    start = time.monotonic()
    code = run_worker(name, seconds, session, log) if seconds >= 1 else None
    content: dict[str, Any] = {"status": "failed", "about": "", "machine": None, "warnings": [], "found": {}}
    if path.exists():
        content |= json.loads(path.read_text("utf-8"))
    printed = log.read_text("utf-8", errors="replace") if log.exists() else ""
    if seconds < 1:
        content |= {"status": "skipped", "about": "no time was left"}
    elif code is None:
        content |= {"status": "timed out", "about": f"ended after {seconds:.0f} s"}
    elif code != 0:
        lines = [text.strip() for text in printed.split("\n") if text.strip()] or ["it printed nothing"]
        error = next((text for text in reversed(lines) if re.match(r"[\w.]+Error\b", text)), lines[-1])
        content |= {"status": "failed", "about": content["about"] or error[:300]}
    if content["status"] in ("failed", "timed out"):
        content["tail"] = printed[-TAIL:]
    outcome = {"part": name, "status": content.pop("status"), "about": content.pop("about")}
    outcome |= {"seconds": round(time.monotonic() - start, 1), "limit_s": round(seconds, 1)}
    write_json(path, {**outcome, "device": session.device, **content})
    return outcome


def run_worker(name: str, seconds: float, session: Session, log: Path) -> int | None:
    """Return the exit code of a part's process; None where its time was over, and it was ended with all it started."""
    command = [sys.executable, "-u", __file__, "--worker", name, "--device", session.device]
    command += ["--output", str(session.output), "--place", str(session.place)]
    path = filter(None, [str(harness.ROOT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if session.device == "cpu":  # and no thread that waits for others, where there is so little to do
        environment = {"OMP_NUM_THREADS": "1", **environment, "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, cwd=harness.ROOT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def work(args: argparse.Namespace) -> None:
    """Be a part's process: write what it finds out, and last whether that is all."""
    import gpu_parts

    path, content = args.output / f"{args.worker}.json", {"machine": harness.machine(), "warnings": []}
    content["machine"]["command"] = f"python benchmarks/gpu.py --device {args.device} --parts {args.worker}"
    logging.basicConfig(level=logging.WARNING, handlers=[Listener(content["warnings"]), logging.StreamHandler()])
    context = gpu_parts.Context(args.device, args.place, lambda found: write_json(path, {**content, "found": found}))
    try:
        content["about"] = getattr(gpu_parts, args.worker)(context)
        content["status"] = "ok"
    except harness.Skipped as reason:
        content |= {"status": "skipped", "about": str(reason)}
    except gpu_parts.Failed as reason:
        content["about"] = str(reason)
        sys.exit(1)
    finally:
        context.write()


class Listener(logging.Handler):
    """Keeps the first sentences that are logged."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__()
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.kept) < MOST_WARNINGS:
            self.kept.append(record.getMessage())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all, for a process may be ended at any time, without the paths of this machine."""
    new, text = path.with_suffix(".new"), json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for place, shown in ((f"{harness.ROOT}/", ""), (str(harness.ROOT), "."), (f"{harness.ROOT.parent}/", "../")):
        text = text.replace(place, shown)
    new.write_text(text, "utf-8")
    os.replace(new, path)


if __name__ == "__main__":
    main()
