#!/bin/sh
# Install and run hostmesh-ca, and make for each node the file with which it joins. Usage: ca.sh ADDRESS NODE=ACCOUNT...
# The files go through Consul's KV, which everyone in this lab may read: good enough for a lab, and for nothing else.
set -eu
address=$1
shift
dpkg --force-confold -i /hostmesh/dist/hostmesh-ca_*.deb
printf 'serverNames:\n  dns: [consul]\n  ips: [%s]\n' "$address" >/etc/hostmesh/ca.yaml
systemctl enable --quiet hostmesh-ca
systemctl restart hostmesh-ca
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for it in "$@"; do
  node=${it%%=*} account=${it#*=}
  hostmesh node bundle "$node" --ca "$address" --identity "ns/default/sa/$account" --ttl 1d --out "$folder/bundle" --force
  consul kv put "lab/bundle/$node" "@$folder/bundle" >/dev/null
done
