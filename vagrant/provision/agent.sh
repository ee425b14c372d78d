#!/bin/sh
# Install and run hostmesh-agent with one service. Usage: agent.sh ADDRESS CA SERVICE PORT PROTOCOL VERSION
set -eu
address=$1 ca=$2 service=$3 port=$4 protocol=$5 version=$6
dpkg -i /hostmesh/dist/hostmesh-proxy_*.deb /hostmesh/dist/hostmesh-agent_*.deb
printf 'address: %s\nca: {address: %s}\n' "$address" "$ca" >/etc/hostmesh/agent.yaml
cat >/etc/hostmesh/services.d/"$service".yaml <<SERVICE
name: $service
serviceAccount: bookinfo-$service
port: $port
protocol: $protocol
labels: {app: $service, version: $version}
SERVICE
if [ ! -d /var/lib/hostmesh/certificates ]; then
  consul kv get "lab/join-token/$service" >/etc/hostmesh/join-token
  chown hostmesh: /etc/hostmesh/join-token
  chmod 600 /etc/hostmesh/join-token
fi
hostmesh-agent --check
systemctl enable --quiet hostmesh-agent
systemctl restart hostmesh-agent
