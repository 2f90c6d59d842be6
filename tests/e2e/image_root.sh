# Makes a container's root file system of an image that was built without a container engine, in the mount namespace that
# this runs in. The host's system directories stand in for the base image's. All of it is read-only but what pods mount.
# $1: the root; $2: what the build made; $3: where the host's Python is installed; $4: policies.
set -eu
umask 022
root=$1
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"

readonly_bind() {
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root$(dirname "$2")" && : > "$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o remount,ro,bind "$root$2"
}

for path in /bin /sbin /lib /lib64 /usr /etc/alternatives /etc/ssl /etc/ld.so.cache /etc/protocols /etc/resolv.conf "$3"; do
    if [ -L "$path" ] && [ "$(dirname "$path")" = / ]; then
        cp -P "$path" "$root$path"
    elif [ -e "$path" ]; then
        readonly_bind "$path" "$path"
    fi
done
readonly_bind "$2/opt/egress-xds" /opt/egress-xds
readonly_bind "$4" /etc/egress-xds/policies

mkdir -p "$root/proc" "$root/dev" "$root/etc/egress-xds/trust"
mount --rbind /proc "$root/proc"
for device in null zero random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
# An emptyDir of Kubernetes.
mount -t tmpfs -o mode=777 tmpfs "$root/etc/egress-xds/trust"
mount -o remount,ro "$root"
