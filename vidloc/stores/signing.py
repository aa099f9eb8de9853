"""Signatures of stores by ssh keys (`ssh-keygen -Y`), as developers have them: who vouches for rows and manifest.

Signed are two hashes: the content id, and that of the manifest (descriptions of the streams, facts of the items). The
lists that they are hashes of lie beside the signature, so that a part of the store can be proven to be a part of it:

    statement      `vidloc signature 1`, `content ID`, `manifest SHA256`: what is signed
    statement.sig  the signature, in ssh's own format, namespace `vidloc`
    entries.tsv    sorted lines STREAM<tab>ITEM<tab>DIGEST; their sha256 is the content id
    manifest.tsv   sorted lines `stream`<tab>NAME<tab>JSON and `item`<tab>ID<tab>JSON; their sha256 is the manifest's

In a Zarr store they lie in its folder `signatures`, for an HDF5 file in `NAME.signatures` beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import FeatureStore, open_store
from vidloc.stores.durable import replace_file
from vidloc.stores.remote_files import local_path
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.tables import WITH_ROWS

FOLDER = "signatures"
_STATEMENT, _SIGNATURE, _ENTRIES, _MANIFEST = "statement", "statement.sig", "entries.tsv", "manifest.tsv"
_NAMES = (_STATEMENT, _SIGNATURE, _ENTRIES, _MANIFEST)
_TITLE = "vidloc signature 1"
_NAMESPACE = "vidloc"
_MAX_BYTES = 2**31


@dataclass(frozen=True)
class SignatureReport:
    """A signature that holds.

    Attributes:
        signer: who signed, as the file of allowed signers calls them.
        content: content id that was signed.
        num_entries: (stream, item) pairs with rows in the store, all of them among `num_signed`.
    """

    signer: str
    content: str
    num_entries: int
    num_signed: int

    @property
    def is_whole(self) -> bool:
        """Whether the store is all that was signed."""
        return self.num_entries == self.num_signed


def sign(path: str | Path, key: Path) -> str:
    """Sign a store with a private key (or a public one whose private key an agent holds), and give its content id.

    Rows are not read: verify the store first. An earlier signature is replaced.

    Raises:
        StoreError: no store there.
        OptionError: ssh-keygen is missing, or cannot sign with that key.
    """
    with open_store(path) as store:
        entries, manifest, content = _entries(store), _manifest(store), store.digest()
    lists = {_ENTRIES: _joined(entries), _MANIFEST: _joined(manifest)}
    statement = _statement(content, _sha256(lists[_MANIFEST]))
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", _NAMESPACE], statement)
    if done.returncode:
        raise OptionError(f"{key} cannot sign: {_said(done)}")
    _write(Path(path), {_STATEMENT: statement, _SIGNATURE: done.stdout, **lists})
    return content


def verify_signature(path: str | Path, allowed_signers: Path) -> SignatureReport:
    """Make sure that a store is what somebody allowed has signed, or a part of it.

    Rows are not read: that they have the digests which the tables state is what `verify` finds.

    Raises:
        StoreError: there is no signature, it is not that of an allowed signer, or the store holds anything else.
        OptionError: ssh-keygen or the file of allowed signers is missing.
    """
    if not allowed_signers.is_file():
        raise OptionError(f"there is no file of allowed signers {allowed_signers}: lines of a name and a public key.")
    with open_store(path) as store:
        files = _read_all(store)
        if files is None:
            raise StoreError(f"store {path} is not signed. Its maker signs it by: vidloc store sign {path} --key KEY")
        signer = _signer(path, files, allowed_signers)
        content = hashlib.sha256(files[_ENTRIES]).hexdigest()
        if files[_STATEMENT] != _statement(content, _sha256(files[_MANIFEST])):
            raise StoreError(f"store {path}: its lists of digests or facts are not those that {signer} signed.")
        signed = set(files[_ENTRIES].decode().splitlines())
        entries = _entries(store)
        _require_all(path, signer, "rows", entries, signed)
        _require_all(
            path, signer, "descriptions or facts", _manifest(store), set(files[_MANIFEST].decode().split("\n"))
        )
        return SignatureReport(signer, content, len(entries), len(signed))


def copy_signature(store: RemoteStore, out: str | Path) -> bool:
    """Keep the signature of a store elsewhere with what was pulled from it; whether there is one."""
    files = _read_all(store)
    if files is not None:
        _write(Path(out), files)
    return files is not None


def _entries(store: FeatureStore) -> list[str]:
    return sorted(
        (
            f"{stream}\t{item}\t{entry.digest}"
            for stream in store.streams()
            for item, entry in store.entries(stream).items()
            if entry.status in WITH_ROWS
        ),
        key=str.encode,
    )


def _manifest(store: FeatureStore) -> list[str]:
    streams = (f"stream\t{name}\t{_json(spec.model_dump(mode='json'))}" for name, spec in store.streams().items())
    infos = (store.info(item) for item in store.items())
    items = (f"item\t{info.item_id}\t{_json(info.model_dump(mode='json', exclude_none=True))}" for info in infos)
    return sorted((*streams, *items), key=str.encode)


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _statement(content: str, manifest: str) -> bytes:
    return f"{_TITLE}\ncontent {content}\nmanifest {manifest}\n".encode()


def _require_all(path: str | Path, signer: str, what: str, lines: list[str], signed: set[str]) -> None:
    stray = next((line for line in lines if line not in signed), None)
    if stray is not None:
        raise StoreError(f"store {path} has {what} that {signer} did not sign: {' '.join(stray.split(chr(9))[:2])}.")


def _signer(path: str | Path, files: Mapping[str, bytes], allowed_signers: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="vidloc-") as folder:
        signature = Path(folder) / _SIGNATURE
        signature.write_bytes(files[_SIGNATURE])
        given = ["-s", str(signature), "-f", str(allowed_signers)]
        found = _ssh_keygen(["-Y", "find-principals", *given], b"")
        names = found.stdout.decode(errors="replace").splitlines()
        if found.returncode or not names:
            raise StoreError(f"store {path} is signed by a key that {allowed_signers} does not list ({_said(found)}).")
        done = _ssh_keygen(["-Y", "verify", "-I", names[0], "-n", _NAMESPACE, *given], files[_STATEMENT])
        if done.returncode:
            raise StoreError(f"store {path}: the signature of {names[0]} does not hold ({_said(done)}).")
        return names[0]


def _ssh_keygen(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise OptionError("signatures need ssh-keygen (OpenSSH 8.2 or later), which is not installed.")
    return subprocess.run([program, *arguments], input=data, capture_output=True, check=False)  # noqa: S603


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[:300] or "ssh-keygen says nothing"


def _folder(path: Path) -> Path:
    return path / FOLDER if path.is_dir() else path.with_name(f"{path.name}.{FOLDER}")


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    folder = _folder(path)
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link; signatures are kept in a folder of the store itself.")
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        replace_file(folder / name, data)


def _read_all(store: FeatureStore) -> dict[str, bytes] | None:
    """The files of a signature; `None` where there is none."""
    files = {}
    for name in _NAMES:
        try:
            files[name] = _read(store, name)
        except (FileNotFoundError, NotADirectoryError):
            if not files:
                return None
            raise StoreError(f"store {store.path}: its signature lacks {name}; take or sign it again.") from None
    return files


def _read(store: FeatureStore, name: str) -> bytes:
    if isinstance(store, RemoteStore):
        if store.backend != "zarr":
            raise FileNotFoundError(name)  # what lies beside a file is no part of an address
        return store.files.read(f"{FOLDER}/{name}")
    path = _folder(local_path(store.path)) / name
    if path.is_symlink() or path.parent.is_symlink():
        raise StoreError(f"{path} is a link; links are not followed.")
    if path.stat().st_size > _MAX_BYTES:
        raise StoreError(f"{path} has more than {_MAX_BYTES} bytes, more than any list of digests.")
    return path.read_bytes()
