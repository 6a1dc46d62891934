"""What docs/how-to/serve.md says of a plant's server: systemd unit, proxy configuration, and the container's limits."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving import picture

pytestmark = pytest.mark.line
PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "serve.md"
USER = 10001
CONTAINED = """
set -e
ip link set lo up 2>/dev/null || python3 -c "
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH', b'lo', 0x43))"
mount --make-rprivate /
mount -t tmpfs tmpfs "$WORK/data"
chown "$USER_ID" "$WORK/data"
mount -o remount,ro,bind /
mount --bind "$WORK/models" "$WORK/models"
mount -o remount,ro,bind "$WORK/models"
cd /
if touch "$WORK/models/written" 2>/dev/null; then echo "the models can be written"; exit 1; fi
export HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1
setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
  "$PYTHON" -m flawforge serve part="$WORK/models/part" --host 0.0.0.0 --db "$WORK/data/results.db" >"$WORK/data/log" 2>&1 &
"$PYTHON" -c "$ASK" "$WORK/picture.png" || { cat "$WORK/data/log"; exit 1; }
kill %1
wait %1
cat "$WORK/data/log"
"""
ASK = """
import json, sys, time
import httpx
with httpx.Client(base_url="http://127.0.0.1:8000", headers={"Authorization": "Bearer " + "a" * 40}, timeout=60) as ask:
    for turn in range(200):
        try:
            if ask.get("/v1/ready").status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    data = open(sys.argv[1], "rb").read()
    answer = ask.post("/v1/inspect", content=data, headers={"content-type": "image/png"}).raise_for_status()
    (result,) = answer.json()["results"]
    drawn = ask.get(f"/v1/results/{result['id']}/overlay.png")
    print(json.dumps([result["verdict"], drawn.status_code, len(ask.get("/v1/results").json()["results"])]))
"""


def block(language: str) -> str:
    """The page's only block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_systemd_unit_is_one(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze; run: apt-get install systemd")
    unit = tmp_path / "flawforge.service"
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", block("ini"), flags=re.MULTILINE)
    unit.write_text(re.sub(r"^User=\S+", "User=daemon", text, flags=re.MULTILINE))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_proxys_configuration_is_one(tmp_path: Path) -> None:
    nginx, openssl = shutil.which("nginx"), shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("there is no nginx or openssl; run: apt-get install nginx-light openssl")
    certificate = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=line3 -keyout line3.key -out line3.pem"
    subprocess.run([openssl, *shlex.split(certificate)], cwd=tmp_path, capture_output=True, check=True)
    server = block("nginx").replace("/etc/ssl/", f"{tmp_path}/")
    config = tmp_path / "nginx.conf"
    config.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n{server}}}\n")
    done = subprocess.run([nginx, "-t", "-c", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "syntax is ok" in done.stderr


def test_it_serves_as_in_its_container(exports: dict[str, Path], tmp_path: Path) -> None:
    """No network but loopback, no capability, another user, a read-only file system, and only the store can be written."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("namespaces need root, unshare and setpriv")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    shutil.copytree(exports["onnx"], tmp_path / "models" / "part")
    (tmp_path / "data").mkdir()
    (tmp_path / "picture.png").write_bytes(picture())
    seen = [
        "setpriv",
        "--reuid",
        str(USER),
        "--regid",
        str(USER),
        "--clear-groups",
        sys.executable,
        "-c",
        "import flawforge",
    ]
    user = USER if subprocess.run(seen, capture_output=True, check=False).returncode == 0 else 0  # Python may lie in /root
    told = {"WORK": str(tmp_path), "PYTHON": sys.executable, "ASK": ASK, "USER_ID": str(user)}
    told |= {"FLAWFORGE_TOKENS": f"operator line3 {'a' * 40}"}
    done = subprocess.run(
        ["unshare", "-m", "-n", "bash", "-c", CONTAINED],
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip(f"namespaces are not allowed here ({done.stderr.strip()})")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[0]) == ["NG", 200, 1]
    assert "what was accepted is recorded" in done.stdout
