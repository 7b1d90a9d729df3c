"""Where the CPU time of our processes goes: reads what `sampling/sitecustomize.py` left behind."""

import json
import re
from collections import Counter
from pathlib import Path

ROLES = {"worker": "paddock.cloud.worker", "api": "paddock.api", "agent": "paddock.agent"}


def table(samples: Path, most: int) -> str:
    """A Markdown section per role: the functions that cost most themselves, and with all that they call."""
    parts = []
    for role, module in ROLES.items():
        found = [json.loads(p.read_text()) for p in sorted(samples.glob("*.json"))]
        own, total = Counter[str](), Counter[str]()
        for one in found:
            if module in one["argv"]:
                own.update(one["own"])
                total.update(one["total"])
        if own:
            parts += [f"### {role}", "", *_rows(own, total, most), ""]
    return "\n".join(parts)


def _rows(own: Counter[str], total: Counter[str], most: int) -> list[str]:
    whole = sum(own.values())
    rows = ["| with all it calls | ours | by itself | any |", "| ---: | --- | ---: | --- |"]
    ours = [(k, v) for k, v in total.most_common() if "/paddock/" in k][:most]
    for (a, spent), (b, alone) in zip(ours, own.most_common(most), strict=False):
        rows.append(f"| {spent / whole:.0%} | `{_short(a)}` | {alone / whole:.0%} | `{_short(b)}` |")
    return rows


def _short(where: str) -> str:
    return re.sub(r"^.*?(site-packages|src|python3\.\d+)/", "", where)
