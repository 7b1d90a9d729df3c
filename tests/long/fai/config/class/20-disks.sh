#! /bin/bash
# What disks there are.
set_disk_info
