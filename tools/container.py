"""Do the steps of `deploy/Dockerfile` work where there is no Docker?

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie /tmp/root
    python -m tools.container /tmp/root [--port 8619]

Takes the Dockerfile line by line, in a bare Debian root (as root, on Linux): copies what it copies, runs what it runs,
with the environment that it sets; then starts the container's command as its user, waits for its health check, opens a
page by a web socket, and stops it. Printed is each step with its seconds. What is not the same: the root is Debian's
and not Python's image, both stages share it, and nothing confines the process but the root and the user.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.visit import Visit

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
SECONDS_TO_START = 120
TO_STOP = 30
# Return pip's settings from the machine's own installs: the registry, and the certificates it trusts.
PIP = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each on one line."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def copied(root: Path, work: str, words: list[str]) -> None:
    """COPY from the repository; nothing to do between the stages, since they share the root."""
    if words[0].startswith("--from"):
        return
    *sources, target = words
    into = root / work.lstrip("/") / target
    for source in map(ROOT.joinpath, sources):
        place = into if source.is_dir() else (into / source.name if target.endswith("/") else into)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)


def inside(root: Path, work: str, command: str, user: str = "0:0") -> list[str]:
    """A command in that root, in a process space of its own, as that user, without any privilege to gain."""
    who, group = user.split(":")
    drop = f"setpriv --reuid {who} --regid {group} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
    there = f"cd {work} && {command}" if user == "0:0" else f"cd {work} && exec {drop} sh -c {shlex.quote(command)}"
    run = f"exec /usr/sbin/chroot {root} /bin/sh -c {shlex.quote(there)}"
    mounts = f"mount -t proc proc {root}/proc"
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", f"{mounts}; {run}"]


def built(root: Path, run: bool) -> dict:
    """Run the steps, where `run` says so; what the last stage says about how the container is started."""
    said: dict = {"ENV": {}, "USER": "0:0", "ENTRYPOINT": [], "CMD": []}
    work = "/"
    for name, rest in steps(DOCKERFILE.read_text()):
        begun = time.monotonic()
        if name == "WORKDIR":
            work = rest
            (root / work.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            copied(root, work, shlex.split(rest))
        elif name == "ENV":
            said["ENV"] |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name in ("ENTRYPOINT", "CMD"):
            said[name] = json.loads(rest)
        elif name == "USER":
            said["USER"] = rest
        elif name == "RUN" and run:
            environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", **PIP}
            subprocess.run(inside(root, work, rest), env=environment, check=True)
            print(f"{time.monotonic() - begun:6.1f} s  RUN {rest[:90]}", flush=True)
    return said | {"WORKDIR": work}


def main() -> int:
    """Build, start, look, stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="a bare Debian root with Python, which is written into")
    parser.add_argument("--port", type=int, default=8619, help="in place of the container's 8501 (default: 8619)")
    parser.add_argument("--built", action="store_true", help="the steps were run before: only start the command")
    args = parser.parse_args()
    root = args.root.resolve()
    prepare(root)
    said = built(root, not args.built)
    command = shlex.join(said["ENTRYPOINT"] + said["CMD"]).replace("8501", str(args.port))
    environment = {name: value.replace("$PATH", "/usr/bin:/bin") for name, value in said["ENV"].items()}
    begun = time.monotonic()
    server = subprocess.Popen(inside(root, said["WORKDIR"], command, said["USER"]), env=environment)
    try:
        wait_for_health(server, args.port)
        print(f"{time.monotonic() - begun:6.1f} s  healthy", flush=True)
        uids = {line.split()[1] for line in processes(server.pid)}
        with Visit(f"http://127.0.0.1:{args.port}") as tab:
            drawn = "tokens through embedded" in tab.open("prompt=Once&model=embedded")
        print(f"page drawn: {drawn}; users of its processes: {', '.join(sorted(uids))}", flush=True)
    finally:
        begun = time.monotonic()
        for line in processes(server.pid)[-1:]:
            os.kill(int(line.split()[0]), signal.SIGTERM)
        server.wait(TO_STOP)
        print(f"{time.monotonic() - begun:6.1f} s  stopped", flush=True)
    return 0 if drawn and uids == {said["USER"].split(":")[0]} else 1


def prepare(root: Path) -> None:
    """Provide what every image of Python has, and the network's names."""
    python = root / "usr/local/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    if not python.exists():
        python.symlink_to("/usr/bin/python3")
    for file in ("/etc/resolv.conf", PIP.get("PIP_CERT", ""), "/etc/pip.conf"):
        if file and Path(file).exists():
            (root / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file.lstrip("/"))


def wait_for_health(server: subprocess.Popen, port: int) -> None:
    """Ask as the image's health check does."""
    from urllib.request import urlopen

    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and server.poll() is None:
        try:
            urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError("The container's command did not become healthy.")


def processes(parent: int) -> list[str]:
    """`PID UID` of what the command started, the innermost last, without what only holds the root."""
    found, next_ones = [], [str(parent)]
    while next_ones:
        listed = subprocess.run(
            ["ps", "-o", "pid=,uid=", "--ppid", ",".join(next_ones)], capture_output=True, text=True
        )
        lines = listed.stdout.splitlines()
        next_ones = [line.split()[0] for line in lines]
        found += lines
    return [line for line in found if line.split()[1] != "0"] or found


if __name__ == "__main__":
    sys.exit(main())
