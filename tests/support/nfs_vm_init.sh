#!/bin/busybox sh
# First process of the NFS machine: its root is the host's own root, read-only by virtiofs, below a layer of memory.
# It serves /share of the disk vda to itself by NFSv4, runs the job the host left, reports its exit code, powers off.
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
for word in $(cat /proc/cmdline); do
    case $word in sf.job=*) job=${word#*=} ;; esac
done
mkdir -p /host /layer /new
mount -t virtiofs -o ro host /host
mount -t tmpfs none /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work none /new
cp -af /tools/. /new/
for name in proc sys dev; do mount --bind "/$name" "/new/$name"; done
mount -t tmpfs -o mode=755 none /new/run
mount -t ext4 /dev/vda /new/srv
cp "/host$job" /new/run/job
ip link set lo up

# The server, without exports as yet: nfs_inside.py makes them.
mkdir -p /new/srv/share /new/var/lib/nfs/v4recovery
touch /new/var/lib/nfs/etab /new/var/lib/nfs/rmtab
chown 900:900 /new/srv/share
chmod 2770 /new/srv/share
mount -t nfsd nfsd /proc/fs/nfsd
mount --bind /proc/fs/nfsd /new/proc/fs/nfsd
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
inside() { chroot /new /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }
inside rpc.mountd --no-nfs-version 3
inside rpc.nfsd --no-nfs-version 3 4
echo Y >/proc/fs/nfsd/v4_end_grace

port() { for each in /sys/class/virtio-ports/*; do [ "$(cat "$each/name")" = "$1" ] && echo "/dev/${each##*/}"; done; }
inside HOME=/tmp sh /run/job </dev/null >"$(port output)" 2>&1
echo "$?" >"$(port exit)"
poweroff -f
