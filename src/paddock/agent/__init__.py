"""The node agent: a process on each node that serves one local hypervisor over HTTP on a unix socket."""
