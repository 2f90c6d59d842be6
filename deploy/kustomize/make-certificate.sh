#!/usr/bin/env bash
# Makes a certificate for the control plane with openssl, for clusters without cert-manager: stores it in the Secret
# egress-xds-tls and tells the webhooks whom to believe. The authority that signs it is made the first time and kept in
# the Secret egress-xds-ca. Run it again before the certificate ends; running servers take the new one by themselves.
#
# Usage: make-certificate.sh [DAYS]
set -euo pipefail

days=${1:-365}
namespace=egress-system
name=egress-xds

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
umask 077

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null
}

in_namespace() {
    kubectl --namespace "$namespace" "$@"
}

read_authority() {
    in_namespace get secret "$name-ca" --ignore-not-found --output="jsonpath={.data.$1}" | base64 -d
}

# $1: its name; the rest: the files to keep in it.
store_secret() {
    local secret=$1
    shift
    in_namespace create secret generic "$secret" --type=kubernetes.io/tls "${@/#/--from-file=}" \
        --dry-run=client --output=yaml | kubectl apply --server-side --force-conflicts --filename=-
}

read_authority 'tls\.crt' > ca.crt
read_authority 'tls\.key' > ca.key
if [[ ! -s ca.crt ]]; then
    new_key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=$name authority" -out ca.crt \
        -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign
    store_secret "$name-ca" tls.crt=ca.crt tls.key=ca.key
fi

new_key tls.key
openssl req -new -key tls.key -subj "/CN=$name" -out tls.csr
cat > extensions <<END
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=DNS:$name.$namespace.svc,DNS:$name.$namespace.svc.cluster.local
END
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days "$days" \
    -extfile extensions -out tls.crt 2> /dev/null

store_secret "$name-tls" tls.crt=tls.crt tls.key=tls.key ca.crt=ca.crt
for kind in validatingwebhookconfiguration mutatingwebhookconfiguration; do
    kubectl patch "$kind" "$name" --type=json --patch \
        "[{\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$(base64 -w 0 ca.crt)\"}]"
done
