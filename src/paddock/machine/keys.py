"""Keys of a keyboard: QEMU's names of them (QKeyCode), what people call them, and how a text is typed.

A chord is what is pressed at once, like ("ctrl", "alt", "delete").
"""

from string import ascii_lowercase, digits

from paddock.base.errors import Invalid

Chord = tuple[str, ...]

MAX_CHORDS = 128  # in one call
MAX_KEYS = 8  # in one chord

_NAMED = """
shift shift_r alt alt_r ctrl ctrl_r meta_l meta_r menu esc minus equal backspace tab bracket_left bracket_right ret
semicolon apostrophe grave_accent backslash comma dot slash asterisk spc caps_lock num_lock scroll_lock kp_divide
kp_multiply kp_subtract kp_add kp_enter kp_decimal sysrq print pause home pgup pgdn end left up down right insert
delete less power sleep wake
"""
KEYS = frozenset((*_NAMED.split(), *ascii_lowercase, *digits, *(f"f{n}" for n in range(1, 13)),
                  *(f"kp_{n}" for n in range(10))))  # fmt: skip

_CALLED = {
    "control": "ctrl", "del": "delete", "ins": "insert", "enter": "ret", "return": "ret", "escape": "esc",
    "space": "spc", "win": "meta_l", "super": "meta_l", "meta": "meta_l", "cmd": "meta_l", "altgr": "alt_r",
    "pageup": "pgup", "pagedown": "pgdn", "bksp": "backspace", "printscreen": "print", "period": "dot",
    "capslock": "caps_lock", "numlock": "num_lock", "quote": "apostrophe", "lshift": "shift", "rshift": "shift_r",
}  # fmt: skip
_PLAIN = dict(zip(" -=[];'`\\,./\t\n", (
    "spc", "minus", "equal", "bracket_left", "bracket_right", "semicolon", "apostrophe", "grave_accent", "backslash",
    "comma", "dot", "slash", "tab", "ret",
), strict=True))  # fmt: skip
_SHIFTED = dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True))


def chord(text: str) -> Chord:
    """`ctrl-alt-delete` as keys. Raises Invalid naming the key that there is not."""
    names = [n for n in text.lower().replace("+", "-").split("-") if n]
    keys = tuple(_CALLED.get(name, name) for name in names)
    if wrong := [name for name, key in zip(names, keys, strict=True) if key not in KEYS]:
        hint = "letters, digits, f1 to f12, ctrl, alt, shift, enter, esc, tab, delete, up, down, left, right, minus"
        raise Invalid(f"there is no key {wrong[0]!r}", hint=f"keys are: {hint}", field="keys")
    if not 0 < len(keys) <= MAX_KEYS:
        raise Invalid(f"{text!r} names no keys, or more than {MAX_KEYS} at once", field="keys")
    return keys


def check(chords: tuple[Chord, ...]) -> None:
    """Raises Invalid for what is no key, and for too many."""
    if len(chords) > MAX_CHORDS or any(not 0 < len(keys) <= MAX_KEYS for keys in chords):
        raise Invalid(f"at most {MAX_CHORDS} times {MAX_KEYS} keys at once can be pressed in one call", field="keys")
    if unknown := {key for keys in chords for key in keys} - KEYS:
        raise Invalid(f"there is no key {min(unknown)!r}", field="keys")


def typed(text: str) -> tuple[Chord, ...]:
    """The keys that write a text on a US keyboard. Raises Invalid for a character that it has not."""
    return tuple(_character(c) for c in text)


def _character(c: str) -> Chord:
    if c in KEYS:
        return (c,)
    if c.isascii() and c.isupper():
        return ("shift", c.lower())
    if c in _PLAIN:
        return (_PLAIN[c],)
    if c in _SHIFTED:
        return ("shift", *_character(_SHIFTED[c]))
    raise Invalid(f"a US keyboard has no key for {c!r}", field="text")
