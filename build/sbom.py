"""The list of what is inside the binary, as CycloneDX 1.6: the Python packages, the interpreter, and the machine's
libraries with the Debian package that each came from.
"""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

SOURCES = "sources.txt"  # in the prefix of the portable build
PROJECT = "https://edge.invalid/sbom/"  # only a name space for the serial number


def describe(root: Path, folder: Path, libraries: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The list for the build in `folder`; `libraries` are names and where each came from."""
    version = re.findall(r'__version__ = "(.+)"', (root / "edge" / "__init__.py").read_text())[0]
    commit = environ["SOURCE_COMMIT"]
    edge = component("edge", version, "MIT", PackageURL("generic", None, "edge", version), bom_ref="edge")
    bom = Bom(
        components=[*packages(folder), *from_the_machine(libraries)],
        metadata=BomMetaData(
            component=edge,
            timestamp=datetime.datetime.fromtimestamp(int(environ["SOURCE_DATE_EPOCH"]), datetime.UTC),
        ),
        # The same commit, the same document.
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, PROJECT + commit),
    )
    bom.register_dependency(edge, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def packages(folder: Path) -> Iterator[Component]:
    """The Python packages that the build holds."""
    for metadata in sorted(folder.rglob("*.dist-info/METADATA")):
        head = HeaderParser().parsestr(metadata.read_text())
        name = re.sub(r"[-_.]+", "-", head["Name"]).lower()
        yield component(
            name,
            head["Version"],
            head["License-Expression"] or head["License"],
            PackageURL("pypi", None, name, head["Version"]),
        )


def from_the_machine(libraries: Mapping[str, str]) -> Iterator[Component]:
    """The interpreter, and each Debian package a library was taken from."""
    version = platform.python_version()
    yield component("cpython", version, "Python-2.0.1", PackageURL("generic", None, "cpython", version))
    owners: dict[tuple[str, str], list[str]] = {}
    for name, path in sorted(libraries.items()):
        owners.setdefault(owner(path), []).append(name)
    for (package, package_version), names in sorted(owners.items()):
        kind = "deb" if package_version else "generic"
        purl = PackageURL(kind, "debian" if kind == "deb" else None, package, package_version or None)
        yield component(package, package_version or None, None, purl, description=", ".join(names))


def owner(path: str) -> tuple[str, str]:
    """The Debian package and its version that `path` belongs to; the file's own name and no version elsewhere."""
    for folder in Path(path).parents:
        if (folder / SOURCES).exists():
            return source_package(folder / SOURCES, Path(path).name)
    for known in (path, path.removeprefix("/usr")):
        try:
            asked = ["dpkg-query", "--search", known]
            found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
            package = found.partition(":")[0]
            asked = ["dpkg-query", "--show", "--showformat=${Version}\n", package]
            version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        return package, version.split()[0]
    return Path(path).name, ""


def source_package(listed: Path, library: str) -> tuple[str, str]:
    """What `build/portable/compile` made `library` from: what belongs to no other is Python's, the last one listed."""
    lines = [line.split() for line in listed.read_text().splitlines() if line and not line.startswith("#")]
    for name, version, _release, *libraries in lines:
        if library.startswith(tuple(libraries)):
            return name, version
    return lines[-1][0], lines[-1][1]


def component(name: str, version: str | None, licence: str | None, purl: PackageURL, **more: object) -> Component:
    """One entry; `more` is what `Component` takes."""
    made = Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, **more)  # type: ignore[arg-type]
    if licence and len(licence) < 80:  # some have the whole text there
        made.licenses.add(LicenseFactory().make_from_string(licence))
    made.bom_ref.value = made.bom_ref.value or purl.to_string()
    return made
