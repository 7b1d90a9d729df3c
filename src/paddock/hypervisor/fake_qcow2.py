"""A whole qcow2 file in pure Python: an empty disk with a few words at its start. Snapshots of fake machines are such.

Format: QEMU's docs/interop/qcow2.txt, version 3.
"""

import struct

BITS = 16
CLUSTER = 1 << BITS  # bytes
ENTRIES = CLUSTER // 8  # of a table that fills one cluster
COPIED = 1 << 63  # flag of a table's entry: its cluster has one user
_FIXED = 4  # clusters besides the L1 table: header, refcount table, refcount block, and the L2 table
_REFCOUNT_ORDER = 4  # 16 bits each
_HEADER_LENGTH = 104


def qcow2(size: int, words: bytes) -> bytes:
    """The file of a disk of `size` bytes that holds `words` (at most a cluster) and nothing else."""
    l1_entries = max(1, -(-size // (CLUSTER * ENTRIES)))
    l1_clusters = -(-l1_entries // ENTRIES)
    l2_at = 3 + l1_clusters
    data_at, clusters = l2_at + 1, l1_clusters + _FIXED + 1
    file = bytearray(clusters * CLUSTER)
    file[:_HEADER_LENGTH] = _header(size, l1_entries)
    _put(file, 1, struct.pack(">Q", 2 * CLUSTER))
    _put(file, 2, struct.pack(">H", 1) * clusters)
    _put(file, 3, struct.pack(">Q", l2_at * CLUSTER | COPIED))
    _put(file, l2_at, struct.pack(">Q", data_at * CLUSTER | COPIED))
    _put(file, data_at, words[:CLUSTER])
    return bytes(file)


def _put(file: bytearray, cluster: int, data: bytes) -> None:
    at = cluster * CLUSTER
    file[at : at + len(data)] = data


def _header(size: int, l1_entries: int) -> bytes:
    """The fields in their order; no backing file, no encryption, no internal snapshots, no features."""
    first = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, BITS, size, 0, l1_entries, 3 * CLUSTER, CLUSTER, 1, 0, 0
    )
    return first + struct.pack(">QQQII", 0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH)
