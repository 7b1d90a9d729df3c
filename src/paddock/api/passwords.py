"""Root passwords: shown once, kept only as a crypt hash that the guest understands."""

from passlib.hash import sha512_crypt

from paddock.base.ids import new_password

ROUNDS = 1000  # the least that crypt(3) takes: rounds protect guessable passwords, and this one has 117 bits


def new_root_password() -> tuple[str, str]:
    """A new password and its hash."""
    password = new_password()
    return password, str(sha512_crypt.using(rounds=ROUNDS).hash(password))
