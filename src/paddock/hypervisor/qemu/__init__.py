"""Our own hypervisor: one QEMU process per machine, which outlives us, and a directory that says all about it."""
