"""What memory this process holds, as the kernel counts it."""
import pathlib


def status(key: str) -> int:
    """A line of /proc/self/status, such as VmRSS or VmHWM, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"[bench] /proc/self/status must have {key}, got none")
