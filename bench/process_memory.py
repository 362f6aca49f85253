"""What memory a process holds, as the kernel counts it.

The peak that `wait4` and `getrusage` tell of a child begins at what its parent held when it was started, so a benchmark that has a model in memory
cannot ask them. `run` starts the child from a process that holds nothing.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def status(key: str) -> int:
    """A line of /proc/self/status, such as VmRSS or VmHWM, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"[bench] /proc/self/status must have {key}, got none")


def run(command: list, **options) -> dict:
    """Runs it to its end: `returncode`, `stderr`, `seconds` and `memory`, the most bytes that it held resident. Options are those of `subprocess.run`."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as told:
        done = subprocess.run([sys.executable, __file__, told.name, *map(str, command)], stderr=subprocess.PIPE, text=True, **options)
        if not (text := told.read()):
            raise SystemExit("[bench] a process must start, got: " + (done.stderr.strip().splitlines() or ["nothing"])[-1])
        return json.loads(text) | {"returncode": done.returncode, "stderr": done.stderr}


def main() -> int:
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[2:])
    _, code, usage = os.wait4(process.pid, 0)
    pathlib.Path(sys.argv[1]).write_text(json.dumps({"seconds": time.perf_counter() - start, "memory": usage.ru_maxrss * 1024}))
    process.returncode = os.waitstatus_to_exitcode(code)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main())
