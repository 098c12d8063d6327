"""What the benchmarks' drivers share."""
import datetime
import json
import os
import platform
import re
import subprocess

BUILD = os.environ.get("BUILD", "build")
MIB = 1 << 20


def tool(name):
    return os.path.join(BUILD, "bench", name)


def spill_folder():
    for name in ("TERRACE_NVME_PATH", "TMPDIR"):
        if os.environ.get(name):
            return os.environ[name].split(":")[0]
    return "/var/tmp"


def disk_tier():
    """The disk tier as `terrace info` sees it."""
    out = subprocess.run([os.path.join(BUILD, "bin", "terrace"), "info", "--json"],
                         check=True, capture_output=True, text=True).stdout
    return next(t for t in json.loads(out)["tiers"] if t["class"] == "disk")


def machine():
    with open("/proc/cpuinfo", encoding="ascii") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    with open("/proc/meminfo", encoding="ascii") as f:
        memory = int(re.search(r"MemTotal:\s*(\d+)", f.read()).group(1)) // 1024
    return {"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(),
            "cpu": model.group(1) if model else platform.machine(), "memory_MiB": memory,
            "kernel": platform.release()}


def machine_line(m):
    return f"{m['date']}, {m['cpus']} x {m['cpu']}, {m['memory_MiB']} MiB, Linux {m['kernel']}"


def save(result, folder, name):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + ".json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
    return path
