#!/bin/busybox sh
# The first process of the virtual machine of check.sh: runs every program in
# /tests and says between "== NAME" and "== end STATUS" what it wrote.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /var/tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
insmod /configfs.ko
insmod /null_blk.ko nr_devices=1 gb=1
echo 16 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
ip link set lo up 2>/dev/null

for program in /tests/*; do
    echo "== ${program##*/}"
    "$program" 2>&1
    echo "== end $?"
done
echo "== terrace"
TERRACE_TIERS=numa /bin/terrace info --measure 2>/dev/null
echo "== end $?"
dmesg | grep -iE 'oom|out of memory|hugetlb' | sed 's/^/kernel: /'
poweroff -f
