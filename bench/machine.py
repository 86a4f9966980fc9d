"""What a reader needs to place figures: the machine, the day and the code."""

import os
import pathlib
import platform
import subprocess
import time

# Instructions that engines for these networks choose their kernels by.
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")


def cpu_info(key):
    """The first value of `key` in Linux's list of processors, or nothing."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return ""


def cache(level):
    try:
        return pathlib.Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text().strip()
    except OSError:
        return None


def memory_gib():
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def commit(folder):
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def description(folder):
    flags = (cpu_info("flags") or cpu_info("Features")).split()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(folder),
        "machine": {
            "cpu": cpu_info("model name") or platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "instructions": [name for name in INSTRUCTIONS if name in flags],
            "l2_cache": cache(2),
            "l3_cache": cache(3),
            "memory_gib": memory_gib(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
    }
