#!/bin/sh
# Install and run hostmesh-ca, and make a join token for each service account. Usage: ca.sh ADDRESS ACCOUNT...
# The tokens go through Consul's KV, which everyone in this lab may read: good enough for a lab, and for nothing else.
set -eu
address=$1
shift
dpkg --force-confold -i /hostmesh/dist/hostmesh-ca_*.deb
printf 'serverNames:\n  dns: [consul]\n  ips: [%s]\n' "$address" >/etc/hostmesh/ca.yaml
systemctl enable --quiet hostmesh-ca
systemctl restart hostmesh-ca
for account in "$@"; do
  hostmesh ca token create --identity "ns/default/sa/$account" --ttl 1d --uses 10 |
    consul kv put "lab/join-token/$account" - >/dev/null
done
