#!/bin/sh
# Makes an ext4 image of a Debian's tree, to be booted by QEMU. Run as root: the host's, or that of
# a user namespace. It needs no loop device and mounts nothing.
#
#   debian-image.sh TREE OVERLAY EXTRA WORK IMAGE SIZE CONSOLE START
#
# TREE     the tree, a tar archive
# OVERLAY  a directory of files to be laid over it
# EXTRA    more of them: keys, modules; a second directory
# WORK     an empty directory
# IMAGE    the file to be made
# SIZE     its size in MiB
# CONSOLE  the terminal of the root shell
# START    where the file system begins in it, in MiB
set -eu
umask 022
tree=$1 overlay=$2 extra=$3 work=$4 image=$5 size=$6 console=$7 start=$8
root=$work/root
trap 'rm -rf "$root"' EXIT

mkdir "$root"
tar --extract --file="$tree" --directory="$root" --numeric-owner --preserve-permissions \
	--xattrs --xattrs-include='*'
rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
for more in "$overlay" "$extra"; do
	cp -R --no-preserve=ownership "$more/." "$root/"
done
# Where /usr is not merged, the kernel's tools look for modules in /lib.
[ -e "$root/lib/modules" ] || ln -s ../usr/lib/modules "$root/lib/modules"
# An initramfs moves its mounts there.
mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/run"
chmod 755 "$root" "$root/usr/lib/pytest-kgdb" "$root"/usr/lib/pytest-kgdb/*

# What a guest that lives for one test has no use for.
mask() {
	for unit; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
}
mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer logrotate.timer man-db.timer systemd-tmpfiles-clean.timer
mask hwclock.service quotaon.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
	systemd-boot-update.service systemd-firstboot.service systemd-fsckd.socket \
	systemd-hwdb-update.service systemd-initctl.socket systemd-journal-catalog-update.service \
	systemd-journal-flush.service systemd-journald-audit.socket systemd-machine-id-commit.service \
	systemd-networkd-wait-online.service systemd-networkd-persistent-storage.service \
	systemd-networkd.socket systemd-creds.socket systemd-hostnamed.socket systemd-sysext.socket \
	systemd-udev-load-credentials.service systemd-pcrphase.service \
	systemd-pcrphase-sysinit.service systemd-pstore.service systemd-random-seed.service \
	systemd-repart.service systemd-sysusers.service systemd-timesyncd.service \
	systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-update-done.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service ldconfig.service
mask systemd-ask-password-console.path systemd-ask-password-wall.path
# There is one terminal, and one shell on it.
mask getty@tty1.service getty-static.service console-getty.service "serial-getty@$console.service"
# Modules are loaded when they are asked for.
mask modprobe@.service
# The login manager cannot do without the bus, which is here only if a package wanted it.
[ -e "$root/usr/bin/dbus-daemon" ] || mask systemd-logind.service
mkdir -p "$root/etc/systemd/system-generators"
for name in bless-boot cryptsetup getty gpt-auto hibernate-resume integritysetup ssh system-update tpm2 \
	veritysetup; do
	ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$name-generator"
done
# A kernel with BASE_SMALL has no room for them.
ln -sf /dev/null "$root/etc/sysctl.d/50-pid-max.conf"

wants=$root/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -sf "/etc/systemd/system/pytest-kgdb-console@.service" \
	"$wants/pytest-kgdb-console@$console.service"
ln -sf /lib/systemd/system/systemd-networkd.service "$wants/systemd-networkd.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"
chmod 600 "$root/etc/ssh/ssh_host_ed25519_key"
chmod 700 "$root/root/.ssh"

# The features are those of e2fsprogs 1.42, so that every kernel and every Debian's fsck knows them.
mke2fs -q -t ext4 -L debian -m 0 -I 256 -J size=16 \
	-O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit \
	-O flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
	-E "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,offset=$((start << 20))" \
	-d "$root" "$image" "$((size - start))M"
truncate -s "${size}M" "$image"
