#!/bin/sh
# Makes a Debian's tree into what pytest-kgdb boots, and an ext4 file system of it. Run as root, of
# the host or of a user namespace. No loop device, no mount, nothing outside the directories named.
#
#   debian-image.sh ROOT OVERLAY
#
# ROOT: the tree. OVERLAY: files laid over it.
set -eu
root=$1 overlay=$2

cp -R "$overlay/." "$root/"
