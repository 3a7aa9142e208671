"""Names the system packages that the tests need and this machine lacks; fails if there are any."""

from __future__ import annotations

import shutil
import sys
from ctypes.util import find_library

# program → Debian package
NEEDS = {
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}
# library → Debian package
LIBRARIES = {"gomp": "libgomp1"}  # LightGBM's


def missing() -> list[str]:
    """Debian packages of the programs and libraries that are not there, sorted."""
    found = {package for program, package in NEEDS.items() if not shutil.which(program)}
    return sorted(
        found | {package for name, package in LIBRARIES.items() if not find_library(name)}
    )


def main() -> int:
    packages = missing()
    if "--packages" in sys.argv:
        print("\n".join(packages))
        return 0
    if packages:
        print(
            f"the tests need: {' '.join(packages)}\n"
            f"as root: apt-get update && apt-get install --yes {' '.join(packages)}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
