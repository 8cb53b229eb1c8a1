#!/bin/sh
# Runs a Debian's own mkinitramfs(8) in its tree. Run as root: the host's, or that of a user
# namespace.
#
#   debian-initramfs.sh TREE OVERLAY EXTRA WORK RELEASE IMAGE
#
# TREE     the tree, a tar archive
# OVERLAY  a directory of files to be laid over it: those that are on the disk
# EXTRA    more of them: the kernel's modules and its configuration
# WORK     an empty directory
# RELEASE  the kernel's release
# IMAGE    the file to be made
set -eu
umask 022
tree=$1 overlay=$2 extra=$3 work=$4 release=$5 image=$6
root=$work/root
trap 'rm -rf --one-file-system "$root"' EXIT

mkdir "$root"
tar --extract --file="$tree" --directory="$root" --numeric-owner --preserve-permissions
# udev is at work in the initramfs, too, and goes by the same names and times as on the disk.
for more in "$overlay" "$extra"; do
	cp -R --no-preserve=ownership "$more/." "$root/"
done
[ -e "$root/lib/modules" ] || ln -s ../usr/lib/modules "$root/lib/modules"
# There is no suspended system to be woken up, and none to be waited for.
printf 'COMPRESS=gzip\nRESUME=none\n' >"$root/etc/initramfs-tools/conf.d/pytest-kgdb"

mkdir -p "$root/dev"
: >"$root/dev/null"
: >"$root/dev/urandom"
# In a mount namespace of its own: what is mounted there is gone before anything is removed.
unshare --mount -- sh -euc '
	mount --bind /dev/null "$1/dev/null"
	mount --bind /dev/urandom "$1/dev/urandom"
	exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
		mkinitramfs -o /initramfs "$2"
' sh "$root" "$release"
cp "$root/initramfs" "$image"
