"""The programs of the control plane: built once from pinned Go modules, kept outside of the tree.

``python -m testbed.controlplane.assets`` builds what is missing and prints where it is.

A directory of ready programs (``SNUGFIT_KUBE_ASSETS``) is taken as it is. ``SNUGFIT_KUBE_VERSION``
(``1.35.4``, say) selects another Kubernetes than the pinned one: its module is derived from the
requirements that this version states itself, and resolved anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
KUBERNETES = "k8s.io/kubernetes"
ETCD = "go.etcd.io/etcd/server/v3"
_PROGRAMS = ("kube-scheduler", "kube-apiserver", "kube-controller-manager")
_TOOLS = {"helm": "helm.sh/helm/v4/cmd/helm", "kwok": "sigs.k8s.io/kwok/cmd/kwok"}
_TELL_EVERY_S = 30.0
_STAGING = re.compile(r"^\s*(\S+) => \./staging/", re.MULTILINE)


class AssetsMissing(Exception):
    """The programs are not there; says how to get them."""


@dataclass(frozen=True)
class Assets:
    """Where the programs are.

    Parameters
    ----------
    kubernetes
        Directory of etcd and the components of Kubernetes.
    tools
        Directory of helm and kwok.
    version
        Version of Kubernetes without the ``v``.
    """

    kubernetes: Path
    tools: Path
    version: str

    @property
    def minor(self) -> int:
        """The 37 of 1.37.2."""
        return int(self.version.split(".")[1])

    def program(self, name: str) -> Path:
        """Path of one program."""
        found = (self.tools if name in _TOOLS else self.kubernetes) / name
        if not found.exists():
            raise AssetsMissing(f"{found} is missing; build it with `make kube`")
        return found


@dataclass(frozen=True)
class _Build:
    """One module and the programs that it gives."""

    label: str
    module: Path
    packages: Mapping[str, str]
    ldflags: str
    cache: Path

    @property
    def target(self) -> Path:
        """Everything that could change the programs is in the name."""
        digest = hashlib.sha256()
        for part in (
            (self.module / "go.mod").read_bytes(),
            (self.module / "go.sum").read_bytes(),
            self.ldflags.encode(),
            _go("env", "GOVERSION", "GOOS", "GOARCH").encode(),
        ):
            digest.update(hashlib.sha256(part).digest())
        return self.cache / f"{self.label}-{digest.hexdigest()[:16]}"

    def done(self) -> bool:
        """The directory only ever appears complete."""
        return self.target.is_dir()

    def run(self) -> Path:
        """Build if nobody has; an interrupted build leaves nothing that counts."""
        target = self.target
        with _locked(self.cache / f"{target.name}.lock"):
            if target.is_dir():
                return target
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            steps = 1 + len(self.packages)
            _step(
                f"{self.label}, step 1 of {steps}: download the modules",
                "list", "-mod=readonly", "-deps", *self.packages.values(), cwd=self.module,
            )  # fmt: skip
            for number, (name, package) in enumerate(self.packages.items(), start=2):
                _step(
                    f"{self.label}, step {number} of {steps}: build {name}",
                    "build", "-mod=readonly", "-trimpath", "-ldflags", self.ldflags,
                    "-o", str(partial / name), package, cwd=self.module,
                )  # fmt: skip
            partial.rename(target)
        return target


def find(environ: Mapping[str, str] = os.environ) -> Assets:
    """The programs, if they are there.

    Raises
    ------
    AssetsMissing
        Says what is missing and what to do.
    """
    ready = _given(environ)
    if ready:
        return ready
    if shutil.which("go") is None:
        raise AssetsMissing("no `go` on the PATH and no SNUGFIT_KUBE_ASSETS")
    builds = _builds(environ)
    if builds is None or not all(build.done() for build in builds):
        raise AssetsMissing("the control plane is not built yet; `make kube` builds it")
    return Assets(builds[0].target, builds[1].target, _version(environ))


def build(environ: Mapping[str, str] = os.environ) -> Assets:
    """The programs, built where they are not there yet (minutes, the first time)."""
    ready = _given(environ)
    if ready:
        return ready
    if shutil.which("go") is None:
        raise AssetsMissing("no `go` on the PATH and no SNUGFIT_KUBE_ASSETS")
    _derive_module(environ)
    builds = _builds(environ)
    assert builds is not None
    if not all(each.done() for each in builds):
        sys.stderr.write(
            "the control plane is built once from pinned modules; 20 minutes on two cores\n"
        )
    kubernetes, tools = (each.run() for each in builds)
    return Assets(kubernetes, tools, _version(environ))


def _given(environ: Mapping[str, str]) -> Assets | None:
    text = environ.get("SNUGFIT_KUBE_ASSETS")
    if not text:
        return None
    directory = Path(text)
    lacking = [name for name in ("etcd", *_PROGRAMS, *_TOOLS) if not (directory / name).exists()]
    if lacking:
        raise AssetsMissing(f"SNUGFIT_KUBE_ASSETS={directory} lacks {', '.join(lacking)}")
    said = subprocess.run(
        [directory / "kube-apiserver", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return Assets(directory, directory, said.split()[-1].lstrip("v"))


def _pinned_version() -> str:
    text = (MODULES / "kubernetes" / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^\s*{re.escape(KUBERNETES)} v(\S+)", text, re.MULTILINE)
    assert found is not None
    return found[1]


def _version(environ: Mapping[str, str]) -> str:
    return environ.get("SNUGFIT_KUBE_VERSION", "").lstrip("v") or _pinned_version()


def _cache(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "snugfit" / "kube"


def _module(environ: Mapping[str, str]) -> Path:
    version = _version(environ)
    if version == _pinned_version():
        return MODULES / "kubernetes"
    return _cache(environ) / f"module-{version}"


def _builds(environ: Mapping[str, str]) -> tuple[_Build, _Build] | None:
    module, cache, version = _module(environ), _cache(environ), _version(environ)
    if not (module / "go.sum").exists():
        return None
    programs = {name: f"{KUBERNETES}/cmd/{name}" for name in _PROGRAMS}
    stamp = f"-s -w -X k8s.io/component-base/version.gitVersion=v{version}"
    return (
        _Build(f"kubernetes-{version}", module, {"etcd": ETCD, **programs}, stamp, cache),
        _Build("tools", MODULES / "tools", _TOOLS, "-s -w", cache),
    )


def _derive_module(environ: Mapping[str, str]) -> None:
    """The module of a version that is not the pinned one, from that version's own go.mod."""
    module, version = _module(environ), _version(environ)
    if (module / "go.sum").exists():
        return
    with _locked(module.with_name(f"{module.name}.lock")):
        partial = module.with_name(f"{module.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        listed = _go("mod", "download", "-json", f"{KUBERNETES}@v{version}", cwd=partial)
        theirs = Path(json.loads(listed)["GoMod"]).read_text(encoding="utf-8")
        etcd = re.search(rf"^\s*{re.escape(ETCD)} (v\S+)", theirs, re.MULTILINE)
        go = re.search(r"^go (\S+)", theirs, re.MULTILINE)
        assert etcd is not None and go is not None
        staging = f"v0.{version.split('.', 1)[1]}"
        tools = (ETCD, *(f"{KUBERNETES}/cmd/{name}" for name in _PROGRAMS))
        lines = [
            "module snugfit.io/e2e/kubernetes",
            f"go {go[1]}",
            *(f"tool {tool}" for tool in tools),
            f"require {KUBERNETES} v{version}",
            f"require {ETCD} {etcd[1]}",
            *(f"replace {name} => {name} {staging}" for name in _STAGING.findall(theirs)),
        ]
        (partial / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _go("mod", "tidy", cwd=partial)
        partial.rename(module)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs at once build once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _step(what: str, *args: str, cwd: Path) -> None:
    """A part of a build that takes minutes: lines when it begins and ends, and some meanwhile."""
    begun = time.monotonic()
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_TELL_EVERY_S):
            sys.stderr.write(f"  ... {time.monotonic() - begun:.0f} s\n")

    sys.stderr.write(f"{what}\n")
    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        _go(*args, cwd=cwd)
    finally:
        ended.set()
        telling.join()
    sys.stderr.write(f"  done in {time.monotonic() - begun:.0f} s\n")


def _go(*args: str, cwd: Path | None = None) -> str:
    done = subprocess.run(["go", *args], cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise AssetsMissing(f"`go {' '.join(args[:2])}` failed with {done.returncode}; see above")
    return done.stdout


if __name__ == "__main__":
    try:
        assets = build()
    except AssetsMissing as error:
        sys.exit(
            f"the control plane of the end-to-end tests cannot be built: {error}\n"
            "SNUGFIT_KUBE_ASSETS=DIRECTORY takes ready programs instead; `make test` needs neither"
        )
    sys.stdout.write(f"{assets.kubernetes}\n{assets.tools}\n")
