# What Istio's image does in a pod, with its own rules and a stand-in for its configuration.
#
# istio-iptables: the rules that Istio documents and `istio-iptables -p 15001 -z 15006 -u 1337 -g 1337 -i '*' -b '*'
# -d 15090,15021,15020` writes. proxy: an Envoy with the configuration that istiod would send, from $CONFIGURATION.
set -eu
case "$1" in
proxy) exec /opt/envoy/envoy --disable-hot-restart --concurrency 2 --file-flush-interval-msec 50 \
    --config-yaml "$CONFIGURATION" ;;
istio-iptables) ;;
*) exit 2 ;;
esac
for restore in "iptables-restore 127.0.0.1/32" "ip6tables-restore ::1/128"; do
    loopback=${restore#* }
    inbound=127.0.0.6/32
    case "$restore" in ip6*) inbound=::6/128 ;; esac
    ${restore% *} --noflush --wait 10 <<RULES
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s $inbound -j RETURN
-A ISTIO_OUTPUT -o lo ! -d $loopback -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d $loopback -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d $loopback -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
COMMIT
RULES
done
