#!/bin/bash
# Boots a Debian kernel with two NUMA nodes, one of them without CPUs, in a
# software-emulated machine, and runs the programs $BUILD/vm/* there, or those
# named as arguments. Prints a line for each, the whole output of what failed,
# and last the sum.
#
# The kernel's package is unpacked below build/, not installed. Nothing in the
# machine reaches the network or a disk; it is given up after VM_TIMEOUT s.
cd "$(dirname "$0")/../.." || exit 1
export LC_ALL=C
build=${BUILD:-build} work=build/numa_vm limit=${VM_TIMEOUT:-230}
log=$work/log root=$work/root
rm -rf "$root" "$log"
[ $# -gt 0 ] || set -- $(cd "$build/vm" && ls)
mkdir -p "$work" "$root"/{bin,dev,proc,sys,tmp,tests} || exit 1

fail() {
    echo "not ok check-numa: $*"
    echo "0 passed, 1 failed"
    exit 1
}

if [ "$(uname -m)" != x86_64 ]; then
    echo "ok check-numa # SKIP the machine is an x86_64 one, and so must this be"
    exit 0
fi

# ---- the kernel --------------------------------------------------------------

if ! ls "$work"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: //p' | head -n 1)
    [ -n "$package" ] || fail "no package linux-image-cloud-amd64 is known (apt-get update)"
    (cd "$work" && rm -f -- *.deb && apt-get -qq download "$package" 2>/dev/null &&
        dpkg -x -- *.deb kernel && rm -f -- *.deb) || fail "$package cannot be downloaded"
fi
kernel=$(ls "$work"/kernel/boot/vmlinuz-*)

# ---- the machine's file system -------------------------------------------------

# A program, as $2 of the machine, and the libraries it needs.
put() {
    local library
    install -D "$1" "$root/$2" || fail "$1 is not there"
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | grep -v libterrace); do
        [ -e "$root/$library" ] || install -D "$library" "$root/$library"
    done
}

install -D /bin/busybox "$root/bin/busybox" || fail "busybox is not there"
install tests/numa_vm/init.sh "$root/init"
for module in configfs null_blk; do
    find "$work/kernel" -name $module.ko -exec install {} "$root" \;
done
for program; do put "$build/vm/$program" "tests/$program"; done
put "$build/bin/terrace" bin/terrace
install "$build"/lib/libterrace.so.[0-9] "$root/lib"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz" || fail "no initrd"

# ---- running -------------------------------------------------------------------

timeout -k 10 "$limit" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 2688M -nodefaults -display none \
    -no-reboot -serial "file:$log" \
    -object memory-backend-ram,id=near,size=2304M -object memory-backend-ram,id=far,size=384M \
    -numa node,nodeid=0,cpus=0-1,memdev=near -numa node,nodeid=1,memdev=far -numa dist,src=0,dst=1,val=20 \
    -kernel "$kernel" -initrd "$work/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 nokaslr hugepagesz=1G hugepages=0:1" </dev/null >"$work/qemu" 2>&1
status=$?
[ $status -ne 124 ] || echo "# the machine was still running after $limit s"

# ---- what came of it -----------------------------------------------------------

tr -d '\r' <"$log" >"$work/text"
passed=0 failed=0
for name; do
    sed -n "/^== $name\$/,/^== end /p" "$work/text" >"$work/part"
    line=$(grep -a 'Synthesis:' "$work/part" | tail -n 1)
    ok=$(sed -n 's/.*Passing: \([0-9]*\).*/\1/p' <<<"$line")
    bad=$(sed -n 's/.*Failing: \([0-9]*\).*/\1/p' <<<"$line")
    if [ -z "$ok" ] || { [ "$bad" -eq 0 ] && ! grep -qx '== end 0' "$work/part"; }; then bad=1; fi
    passed=$((passed + ${ok:-0})) failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        echo "ok $name: $ok passed"
    else
        echo "not ok $name: ${ok:-0} passed, $bad failed"
        sed 's/^/# /' "$work/part"
    fi
done
sed -n '/^== terrace$/,/^== end /{/^==/!p}' "$work/text" >"$work/info"
if grep -q '^    copy  *to numa:1 ' "$work/info"; then
    passed=$((passed + 1))
    echo "ok terrace info --measure"
else
    failed=$((failed + 1))
    echo "not ok terrace info --measure"
    sed 's/^/# /' "$work/info"
fi
if [ $failed -ne 0 ]; then
    grep '^kernel: ' "$work/text" | tail -n 5 | sed 's/^/# /'
    sed 's/^/# qemu: /' "$work/qemu"
    echo "# all of the machine's output: $log"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
