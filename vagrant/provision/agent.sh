#!/bin/sh
# Install and run hostmesh-agent with one service. Usage: agent.sh ADDRESS CA ACCOUNT SERVICE PORT PROTOCOL VERSION
# A gateway has no service: agent.sh ADDRESS CA ACCOUNT
set -eu
address=$1 ca=$2 account=$3
dpkg --force-confold -i /hostmesh/dist/hostmesh-proxy_*.deb /hostmesh/dist/hostmesh-agent_*.deb
printf 'address: %s\nca: {address: %s}\n' "$address" "$ca" >/etc/hostmesh/agent.yaml
if [ $# -gt 3 ]; then
  service=$4 port=$5 protocol=$6 version=$7
  cat >/etc/hostmesh/services.d/"$service".yaml <<SERVICE
name: $service
serviceAccount: $account
port: $port
protocol: $protocol
labels: {app: $service, version: $version}
check: {tcp: true, interval: 1s}
SERVICE
else
  echo 'role: gateway' >>/etc/hostmesh/agent.yaml
fi
if [ ! -d /var/lib/hostmesh/certificates ]; then
  consul kv get "lab/join-token/$account" >/etc/hostmesh/join-token
  chown hostmesh: /etc/hostmesh/join-token
  chmod 600 /etc/hostmesh/join-token
fi
hostmesh-agent --check
systemctl enable --quiet hostmesh-agent
systemctl restart hostmesh-agent
