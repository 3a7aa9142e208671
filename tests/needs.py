"""Names the system packages that the tests need and this machine lacks; fails if there are any."""

from __future__ import annotations

import shutil
import sys

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


def missing() -> list[str]:
    """Debian packages of the programs that are not on the path, sorted."""
    return sorted({package for program, package in NEEDS.items() if not shutil.which(program)})


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
