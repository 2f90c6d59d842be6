# Builds the laboratory inside fresh mount, network and PID namespaces, then stays until its input ends.
# $1: the laboratory's directory, with a file `hosts` in it. $2: the Envoy binary.
set -eu

# Names of network namespaces, the lock of iptables and shared memory become private to the laboratory.
cd "$1"
mount -t tmpfs tmpfs /run
mkdir /run/lab /run/netns
mount --bind . /run/lab
: >/run/envoy
mount --bind "$2" /run/envoy
mount -t tmpfs -o mode=1777 tmpfs /dev/shm 2>/dev/null || true
mount --bind hosts /etc/hosts
if [ -e /etc/resolv.conf ]; then mount --bind resolv.conf /etc/resolv.conf; fi

pod() { ip netns exec pod "$@"; }
corp() { ip netns exec corp "$@"; }
inet() { ip netns exec inet "$@"; }

for name in pod corp inet; do
    ip netns add "$name"
    ip -n "$name" link set lo up
done
ip -n corp link add pod0 type veth peer name eth0 netns pod
ip -n corp link add inet0 type veth peer name eth0 netns inet
for link in "corp pod0" "pod eth0" "corp inet0" "inet eth0"; do
    ip -n "${link% *}" link set "${link#* }" up
done

# The corporate network: reachable from the pod. The Internet: reachable from the corporate network only.
ip -n pod addr add 10.77.0.10/24 dev eth0
ip -n corp addr add 10.77.0.1/24 dev pod0
ip -n pod route add default via 10.77.0.1
for address in 10.78.0.10 10.78.0.20 10.78.0.30; do ip -n corp addr add "$address/32" dev lo; done
ip -n corp addr add 203.0.113.1/24 dev inet0
for address in 203.0.113.10 203.0.113.20; do ip -n inet addr add "$address/24" dev eth0; done

if [ -e /proc/net/if_inet6 ]; then
    ip -n pod addr add fd77::10/64 dev eth0 nodad
    ip -n corp addr add fd77::1/64 dev pod0 nodad
    ip -n pod -6 route add default via fd77::1
    for address in fd78::10 fd78::20 fd78::30; do ip -n corp addr add "$address/128" dev lo nodad; done
    ip -n corp addr add 2001:db8:113::1/64 dev inet0 nodad
    for address in 2001:db8:113::10 2001:db8:113::20; do ip -n inet addr add "$address/64" dev eth0 nodad; done
fi

# The company's firewall: whatever the pod sends towards the Internet itself is counted and dropped.
corp sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward' 2>/dev/null || true
corp iptables -t mangle -A PREROUTING -i pod0 -d 203.0.113.0/24 -j DROP
if [ -e /proc/net/if_inet6 ]; then
    corp ip6tables -t mangle -A PREROUTING -i pod0 -d 2001:db8:113::/64 -j DROP
fi

# The process id that the rest of this machine knows this shell by: /proc is still the outer one.
read -r pid rest </proc/self/stat
echo "ready $pid"
exec cat >/dev/null
