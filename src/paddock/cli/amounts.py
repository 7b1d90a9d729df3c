"""Amounts of memory and disk as people type them."""


def gigabytes_of(text: str) -> float | None:
    """2G, 2GiB, 512M, 1T or a bare number of GB, in GB; None for what is no amount."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}.get(number[-1:], 0.0)
    digits = number[:-1] if unit else number
    if not digits.replace(".", "", 1).isdecimal() or not digits.isascii():
        return None
    return float(digits) * (unit or 1.0)
