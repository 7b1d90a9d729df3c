#! /bin/bash
set_disk_info
