"""Memory cgroups (v1 or v2) and swap files, for programs that are to have less.

    out = run(command, limit)                    without swap
    out = run(command, limit, swap=folder, swap_bytes=n)

Both need root, or a cgroup that this user may divide. What was made is removed
at the end, also when something failed.
"""
import contextlib
import os
import signal
import subprocess
import time


class Killed(Exception):
    """The program was ended, because it passed the limit."""


def write_to(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def read_from(path):
    with open(path, encoding="ascii") as f:
        return f.read()


def places():
    """Where groups may be made: this process's group and those above. True: v1."""
    groups = [line.split(":", 2) for line in read_from("/proc/self/cgroup").splitlines()]
    v1 = next((path for _, controllers, path in groups if "memory" in controllers.split(",")), None)
    path = v1 if v1 is not None else next((p for n, _, p in groups if n == "0"), "/")
    root = "/sys/fs/cgroup" if v1 is None else "/sys/fs/cgroup/memory"
    while True:
        yield root + path.rstrip("/"), v1 is not None
        if path in ("", "/"):
            return
        path = os.path.dirname(path)


class Group:
    """A memory cgroup with a limit in bytes; OSError where there can be none."""

    def __init__(self, limit, swap=False):
        reason = None
        for parent, self.v1 in places():
            self.path = os.path.join(parent, f"terrace-bench.{os.getpid()}")
            try:
                os.mkdir(self.path)
            except OSError as e:
                reason = e
                continue
            try:
                self._limit(int(limit) // 4096 * 4096, swap)
                return
            except OSError as e:
                os.rmdir(self.path)
                reason = e
        raise OSError(f"no memory cgroup can be made: {reason}")

    def _set(self, name, value, optional=False):
        path = os.path.join(self.path, name)
        if not optional or os.path.exists(path):
            write_to(path, str(value))

    def _get(self, name):
        try:
            return read_from(os.path.join(self.path, name))
        except OSError:
            return ""

    def _limit(self, limit, swap):
        if self.v1:
            self._set("memory.swappiness", 60 if swap else 0)
            self._set("memory.limit_in_bytes", limit)
            if not swap:
                self._set("memory.memsw.limit_in_bytes", limit, optional=True)
        else:
            self._set("memory.max", limit)
            self._set("memory.swap.max", "max" if swap else 0, optional=True)

    def enter(self):
        write_to(os.path.join(self.path, "cgroup.procs"), str(os.getpid()))

    def peak(self):
        """Most bytes ever used; None where the kernel does not tell."""
        text = self._get("memory.max_usage_in_bytes" if self.v1 else "memory.peak")
        return int(text) if text else None

    def kills(self):
        text = self._get("memory.oom_control" if self.v1 else "memory.events")
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def remove(self):
        for pid in self._get("cgroup.procs").split():
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        for _ in range(50):
            try:
                if self.v1:
                    self._set("memory.force_empty", 0)
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


class SwapFile:
    """Swap of a size in a folder, as long as it is open; OSError where refused."""

    def __init__(self, folder, size):
        self.path = os.path.join(folder, f"terrace-bench-swap.{os.getpid()}")
        try:
            with open(self.path, "wb") as f:
                os.chmod(self.path, 0o600)
                os.posix_fallocate(f.fileno(), 0, size)
            for command in ("mkswap", "swapon"):
                done = subprocess.run([command, self.path], capture_output=True, text=True, check=False)
                if done.returncode:
                    raise OSError(f"{command}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        except OSError:
            self.remove()
            raise

    def remove(self):
        subprocess.run(["swapoff", self.path], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


def run(command, limit=None, swap=None, swap_bytes=0, env=None, timeout=None):
    """A command's output and its group's peak. Without a limit: no group, None.

    Killed where it passed the limit, or the timeout in seconds; OSError with its last words where it
    failed, or where the group or the swap cannot be made.
    """
    with contextlib.ExitStack() as stack:
        group = None
        if swap:
            stack.enter_context(SwapFile(swap, swap_bytes))
        if limit:
            group = stack.enter_context(Group(limit, bool(swap)))
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout,
                                  env={**os.environ, **(env or {})},
                                  preexec_fn=group.enter if group else None)
        except subprocess.TimeoutExpired as e:
            raise Killed(f"it was too slow: ended after {timeout:.0f} s") from e
        if group and group.kills():
            raise Killed(f"it passed the limit of {limit >> 20} MiB and was killed")
        if done.returncode:
            words = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise OSError(words[-1])
        return done.stdout, group.peak() if group else None
