"""The Slurm file of docs/gpus.md, parsed and run: each of two machines is a torchrun of its own on this one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT
from test_distributed import configuration, data, log_of, printed  # noqa: F401 (data is a fixture)

# Options of sbatch (its manual page) that the file may use.
SBATCH = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal"}


def slurm_file() -> str:
    """Return the Slurm file of the document."""
    (found,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "gpus.md").read_text("utf-8"), re.DOTALL)
    return str(found)


def stand_in(place: Path, name: str, command: str) -> None:
    """Write a command of a cluster that this machine does not have."""
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/bash\n{command}\n")
    (place / name).chmod(0o755)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_slurm_file_starts_our_command_on_each_machine(tmp_path: Path) -> None:
    from torch.distributed.run import get_args_parser

    script = tmp_path / "job.sh"
    script.write_text(slurm_file())
    subprocess.run(["bash", "-n", str(script)], check=True)
    given = dict(line.removeprefix("#SBATCH --").split("=") for line in slurm_file().splitlines() if "#SBATCH" in line)
    assert set(given) <= SBATCH
    assert given["ntasks-per-node"] == "1", "torchrun starts the processes of a machine"
    assert re.fullmatch(r"TERM@\d+", given["signal"]), "to the steps of the job, which is torchrun"
    commands = tmp_path / "bin"
    stand_in(commands, "scontrol", "echo node1; echo node2")
    stand_in(commands, "srun", 'exec "$@"')
    stand_in(commands, "torchrun", f'printf "%s\\n" "$@" > {tmp_path}/arguments')
    slurm = {
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": given["nodes"],
        "SLURM_GPUS_ON_NODE": given["gpus-per-node"],
        "SLURM_JOB_ID": "77",
    }
    environment = {**os.environ, **slurm, "PATH": f"{commands}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-eu", str(script)], check=True, env=environment)
    arguments = get_args_parser().parse_args((tmp_path / "arguments").read_text().splitlines())
    assert (arguments.nnodes, arguments.nproc_per_node) == ("2", given["gpus-per-node"])
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint, arguments.rdzv_id) == ("c10d", "node1:29500", "77")
    assert arguments.module and arguments.training_script == "sbert_ft"
    assert arguments.training_script_args == ["train", "run.json"]
    assert arguments.max_restarts == 0
    threads = re.search(r"OMP_NUM_THREADS=(\d+)", slurm_file())
    assert threads is not None
    assert int(threads[1]) * int(given["gpus-per-node"]) == int(given["cpus-per-task"])


def test_two_machines_make_one_run(data: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    """Real torchruns, which find each other as they do on a cluster."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the Slurm file is for Linux")
    (tmp_path / "run.json").write_text(json.dumps(configuration(data, "cosent", tmp_path / "run")))
    script = tmp_path / "job.sh"
    script.write_text(slurm_file().replace("29500", str(free_port())))
    commands = tmp_path / "bin"
    stand_in(commands, "scontrol", "echo localhost")
    stand_in(commands, "srun", 'exec "$@"')
    stand_in(commands, "torchrun", f'OMP_NUM_THREADS=1 exec {sys.executable} -m torch.distributed.run "$@"')
    slurm = {"SLURM_JOB_NODELIST": "", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "77"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **slurm, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": path}
    files = [(tmp_path / f"{machine}.out", tmp_path / f"{machine}.err") for machine in range(2)]
    with ExitStack() as opened:
        streams = [[opened.enter_context(path.open("w")) for path in pair] for pair in files]
        command, machines = ["bash", "-eu", str(script)], []
        for out, err in streams:
            machines.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=out, stderr=err))
            opened.callback(machines[-1].kill)
        codes = [machine.wait(120) for machine in machines]
    said = [printed(path) for pair in files for path in pair]
    assert codes == [0, 0], said
    assert [record["step"] for record in log_of(tmp_path / "run")] == [1, 2, 3]
    assert "dealt to 2 processes" in " ".join(json.loads((tmp_path / "run" / "metrics.json").read_text())["plan"])
    assert sorted("3 steps in" in text for text in said) == [False, False, False, True], "one machine reports"
