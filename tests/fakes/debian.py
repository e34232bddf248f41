"""Debian's databases, written for one test: dpkg's status, apt's lists and their Release files."""

from __future__ import annotations

LISTS = "/var/lib/apt/lists"
STATUS = "/var/lib/dpkg/status"
BOOKWORM = f"{LISTS}/deb.debian.org_debian-security_dists_bookworm-security"
JAMMY = f"{LISTS}/security.ubuntu.com_ubuntu_dists_jammy-security"


def stanza(
    name: str, version: str, architecture: str = "amd64", *, status: str = "install ok installed", source=""
) -> str:
    said = {"Package": name, "Status": status, "Source": source, "Architecture": architecture, "Version": version}
    return "".join(f"{key}: {value}\n" for key, value in said.items() if value) + "Description: x\n Version: 99\n .\n\n"


def listed(name: str, version: str, architecture: str = "amd64") -> str:
    return f"Package: {name}\nArchitecture: {architecture}\nVersion: {version}\nFilename: pool/{name}.deb\n\n"


def release(suite: str, *, codename: str, label: str, date: str = "Sun, 22 Nov 2026 10:00:00 UTC") -> str:
    origin = label.partition("-")[0]
    return (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"Origin: {origin}\nLabel: {label}\nSuite: {suite}\nCodename: {codename}\nDate: {date}\n"
        "SHA256:\n e3b0c442 0 main/binary-amd64/Packages\n"
    )


DEBIAN_SECURITY = release("oldstable-security", codename="bookworm-security", label="Debian-Security")
UBUNTU_SECURITY = release("jammy-security", codename="jammy", label="Ubuntu")
