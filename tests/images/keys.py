"""A publisher of the tests' own, with keys made by gpg: signs files as publishers of images do."""

from pathlib import Path

from paddock.base.run import run


class Publisher:
    """Has one key, in a directory of its own."""

    def __init__(self, home: Path, name: str) -> None:
        home.mkdir(mode=0o700, parents=True)
        self.home = home
        self._gpg("--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", "never")
        listed = self._gpg("--with-colons", "--list-keys")
        self.fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        self.keyring = home / "ring.gpg"
        self._gpg("--output", str(self.keyring), "--export")
        self.armoured = home / "ring.asc"
        self._gpg("--output", str(self.armoured), "--armor", "--export")

    def detached(self, data: bytes, *, armour: bool = False) -> bytes:
        return self._signed(data, "--detach-sign", *(["--armor"] if armour else []))

    def clear(self, data: bytes) -> bytes:
        return self._signed(data, "--clear-sign")

    def close(self) -> None:
        """End gpg's agent, which would stay."""
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])

    def _signed(self, data: bytes, *words: str) -> bytes:
        source, target = self.home / "data", self.home / "signed"
        source.write_bytes(data)
        self._gpg("--yes", "--output", str(target), *words, str(source))
        return target.read_bytes()

    def _gpg(self, *words: str) -> str:
        return run(["gpg", "--homedir", self.home, "--batch", "--quiet", "--passphrase", "", *words]).stdout
