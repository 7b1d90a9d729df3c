"""What we let a guest's shell do for copies of files and for commands that are watched, by its guest agent.

POSIX sh, for busybox as for GNU and BSD. Arguments come beside the script, never into it. Names tell the fake, whose
guests have no shell, which one is meant.
"""

from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the name that it runs under."""

    name: str
    text: str

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """The command for the guest agent."""
        return ("/bin/sh", "-c", self.text, self.name, *arguments)


NOTHING = 3  # exit code: there is no such file or directory
TAKEN = 17  # exit code: something else is there already
CUT = 4  # exit code: not all of it arrived

# PATH -> "none", or "file|directory|other MODE SIZE"
STAT = Script(
    "paddock-stat",
    r"""
if [ -d "$1" ]; then k=directory; elif [ -f "$1" ]; then k=file
elif [ -e "$1" ] || [ -L "$1" ]; then k=other; else echo none; exit 0; fi
s=$(stat -L -c '%a %s' -- "$1" 2>/dev/null || stat -L -f '%Lp %z' -- "$1" 2>/dev/null) || s='644 0'
echo "$k $s"
""",
)

# DIRECTORY -> a file of ours with its tar, and how many bytes that has
PACK = Script(
    "paddock-pack",
    r"""
umask 077
t=/var/tmp; [ -d "$t" ] && [ -w "$t" ] || t=/tmp
f=$(mktemp "$t/paddock-XXXXXX") || exit 1
tar -C "$1" -cf "$f" . ; r=$?
# GNU tar's 1: files changed while they were read, as logs do
[ $r -eq 1 ] && tar --version 2>/dev/null | grep -q GNU && r=0
[ $r -eq 0 ] || { rm -f "$f"; exit 1; }
s=$(wc -c < "$f") && echo "$f" && echo $s
""",
)

# TARGET NAME file|directory keep|replace -> a file of ours to write to, and where it will go: into TARGET as NAME, if
# TARGET is a directory
PREPARE = Script(
    "paddock-prepare",
    r"""
t=$1; [ -d "$t" ] && t=${t%/}/$2
if [ "$3" = directory ] && [ "$4" = keep ] && { [ -e "$t" ] || [ -L "$t" ]; }; then
  echo "$t is there already" >&2; exit 17; fi
if [ "$3" = file ] && [ -d "$t" ]; then echo "$t is a directory" >&2; exit 17; fi
d=$(dirname "$t")
[ -d "$d" ] || { echo "there is no directory $d" >&2; exit 3; }
umask 077
f=$(mktemp "$d/.paddock-XXXXXX") || exit 1
echo "$f"; echo "$t"
""",
)

# OURS TARGET MODE SIZE: put the file in its place, in one step
PLACE = Script(
    "paddock-place",
    r"""
s=$(wc -c < "$1") || exit 1
[ $s -eq "$4" ] || { echo "$s of $4 bytes arrived" >&2; exit 4; }
[ ! -d "$2" ] || { echo "$2 is a directory" >&2; exit 17; }
chmod "$3" "$1" && mv -f "$1" "$2" || exit 1
command -v restorecon >/dev/null 2>&1 && restorecon "$2" >/dev/null 2>&1
exit 0
""",
)

# OURS TARGET keep|replace SIZE: unpack the tar beside its place, then put the directory there in one step
UNPACK = Script(
    "paddock-unpack",
    r"""
s=$(wc -c < "$1") || exit 1
[ $s -eq "$4" ] || { echo "$s of $4 bytes arrived" >&2; exit 4; }
mkdir "$1.d" && tar -C "$1.d" -xf "$1" || exit 1
rm -f "$1"
if [ -e "$2" ] || [ -L "$2" ]; then
  [ "$3" = replace ] || { echo "$2 is there already" >&2; exit 17; }
  mv "$2" "$1.old" || exit 1
fi
mv "$1.d" "$2" || { mv "$1.old" "$2" 2>/dev/null; exit 1; }
rm -rf "$1.old"
command -v restorecon >/dev/null 2>&1 && restorecon -R "$2" >/dev/null 2>&1
exit 0
""",
)

# OURS: remove what is left of it
CLEAR = Script("paddock-clear", r"""rm -rf "$1" "$1.d" """)

# COMMAND...: start it in the background, in a session of its own -> a directory of ours with its files `out` and `err`,
# and in the end `code`; and its process
START = Script(
    "paddock-start",
    r"""
umask 077
t=/var/tmp; [ -d "$t" ] && [ -w "$t" ] || t=/tmp
d=$(mktemp -d "$t/paddock-XXXXXX") || exit 1
cat > "$d/in" && : > "$d/out" && : > "$d/err" || exit 1
s=; command -v setsid >/dev/null 2>&1 && s=setsid
$s /bin/sh -c 'd=$1; shift; umask 022
"$@" < "$d/in" > "$d/out" 2> "$d/err"; echo $? > "$d/code.new"; mv "$d/code.new" "$d/code"
' paddock "$d" "$@" < /dev/null > /dev/null 2>&1 &
echo "$d"; echo $!
""",
)

# OURS PROCESS: end it, gently for a moment and then by force, with all that it started
STOP = Script(
    "paddock-stop",
    r"""
p=-$2; kill -TERM -- "$p" 2>/dev/null || { p=$2; kill -TERM -- "$p" 2>/dev/null; }
for i in 1 2 3; do kill -0 -- "$p" 2>/dev/null || break; sleep 1; done
kill -KILL -- "$p" 2>/dev/null
rm -rf "$1"
""",
)
