"""Write requirements.lock from what pip resolves (`make lock`).

pip's own report is used, so that the lock needs no tool beyond pip. Pins that exist for Linux alone,
or for an older Python, carry a marker.
"""

import json
import re
import sys
from pathlib import Path

# The same cv2 without windows, which a server without libGL can import (the lock is installed without dependencies).
INSTEAD = {"opencv-python": "opencv-python-headless"}
LINUX_ONLY = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton$)")
# What pip leaves out on a newer interpreter than the oldest that is supported: redis, in Prefect's server, asks for it.
OLDER_PYTHON = ['async-timeout==5.0.1 ; python_full_version < "3.11.3"']
HEADER = """\
# Exact versions that are tested together: Python 3.11 and newer, everything that `pip install -e ".[dev]"` needs.
# Written by `make lock`; do not edit. Ranges, and the reasons for them, stand in pyproject.toml.
"""


def pins(report: dict) -> list[str]:
    """One `name==version` line per resolved package, facegen itself left out."""
    lines = []
    for package in report["install"]:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        version = package["metadata"]["version"].split("+")[0]
        name = INSTEAD.get(name, name)
        marker = ' ; sys_platform == "linux"' if LINUX_ONLY.match(name) else ""
        if name != "facegen":
            lines.append(f"{name}=={version}{marker}")
    return sorted(lines + OLDER_PYTHON)


if __name__ == "__main__":
    text = HEADER + "\n".join(pins(json.load(sys.stdin))) + "\n"
    Path("requirements.lock").write_text(text, encoding="utf-8")
