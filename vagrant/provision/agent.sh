#!/bin/sh
# Install and run hostmesh-agent with one service. Usage: agent.sh ADDRESS ACCOUNT SERVICE PORT PROTOCOL VERSION
# A gateway has no service: agent.sh ADDRESS
set -eu
address=$1
dpkg --force-confold -i /hostmesh/dist/hostmesh-proxy_*.deb /hostmesh/dist/hostmesh-agent_*.deb
if [ $# -gt 1 ]; then
  account=$2 service=$3 port=$4 protocol=$5 version=$6
  cat >/etc/hostmesh/services.d/"$service".yaml <<SERVICE
name: $service
serviceAccount: $account
port: $port
protocol: $protocol
labels: {app: $service, version: $version}
check: {tcp: true, interval: 1s}
SERVICE
fi
[ ! -d /var/lib/hostmesh/certificates ] || exit 0 # it is a node already

# The machine may have more addresses than the mesh's.
printf 'address: %s\n' "$address" >/etc/hostmesh/agent.yaml
[ $# -gt 1 ] || echo 'role: gateway' >>/etc/hostmesh/agent.yaml
node=$(hostname)
key=lab/bundle/$node
bundle=$(mktemp) # nobody else may read it
trap 'rm -f "$bundle"' EXIT
for left in $(seq 600 -1 0); do
  ! consul kv get "$key" >"$bundle" 2>/dev/null || break
  [ "$left" != 600 ] || echo "waiting for $node's bundle from the machine consul (a used one is gone; new ones: vagrant provision consul)"
  [ "$left" != 0 ] || { echo "no bundle for $node after ten minutes" >&2; exit 1; }
  sleep 1
done
hostmesh node init --bundle "$bundle" --force # in place of what an interrupted try left
consul kv delete "$key" >/dev/null
