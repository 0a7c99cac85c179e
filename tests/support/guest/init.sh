#!/bin/busybox sh
# First process of the test guest: loads drivers, mounts every virtio disk, starts the guest agent and the writer.
# Firmware configuration "opt/stillframe", where there is any: interval=N (us between rounds), agent=0 (no agent),
# raw=vdc:vdd (disks without a filesystem). With the kernel argument sf.wait it waits until there is: the memory of such
# a machine is saved, and others begin with it (memory.py).
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /run /mnt /tmp /etc
ln -s /proc/mounts /etc/mtab
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
configuration=/sys/firmware/qemu_fw_cfg/by_name/opt/stillframe/raw
insmod /modules/qemu_fw_cfg.ko
if grep -q sf.wait /proc/cmdline; then
    dd if=/dev/zero of=/tmp/free bs=64k 2>/dev/null # what is zero need not be saved
    rm /tmp/free
    until [ -e "$configuration" ]; do
        echo "guest: waits"
        sleep 0.2
        rmmod qemu_fw_cfg # it looks only once
        insmod /modules/qemu_fw_cfg.ko
    done
    echo 1 > /sys/bus/pci/rescan # the saved machine had no disks
fi
interval=500000 agent=1 raw=
[ -e "$configuration" ] && . "$configuration"
mount_disk() {
    name=$1
    case ":$raw:" in *":$name:"*) return 0 ;; esac
    [ -d "/mnt/$name" ] && return 0
    mkdir "/mnt/$name"
    mount -t ext4 "/dev/$name" "/mnt/$name" 2>/dev/null && return 0
    /sbin/mke2fs -q -F -U 00112233-4455-6677-8899-aabbccddeeff -t ext4 -N 128 -J size=8 -E hash_seed=00112233-4455-6677-8899-aabbccddeeff,lazy_itable_init=1,lazy_journal_init=1,nodiscard "/dev/$name" && mount -t ext4 "/dev/$name" "/mnt/$name" && return 0
    rmdir "/mnt/$name" # tried again
}
echo "guest: drivers are loaded"
for device in /dev/vd?; do
    [ -b "$device" ] && mount_disk "${device#/dev/}"
done
printf '#!/bin/sh\npoweroff -f\n' > /sbin/shutdown && chmod +x /sbin/shutdown # what the agent calls to stop the guest
if [ "$agent" = 1 ]; then
    qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run -f /run/qemu-ga.pid -d
fi
echo "guest: ready"
writer "$interval" /mnt/* &
# An emulated processor starts a program in 10 ms, so what goes on for ever uses the shell alone.
mkfifo /run/never
exec 3<>/run/never
while :; do
    # Disks plugged in later get a filesystem too; the writer takes them up by itself.
    for device in /dev/vd?; do
        [ -b "$device" ] && mount_disk "${device#/dev/}"
    done
    for point in /mnt/*; do
        [ -d "$point" ] && [ ! -b "/dev/${point#/mnt/}" ] && umount -l "$point" 2>/dev/null && rmdir "$point"
    done
    read -r -t 1 _ <&3
done
