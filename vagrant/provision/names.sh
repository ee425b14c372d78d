#!/bin/sh
# Let dnsmasq answer this machine's names: the servers it had stay upstream. Nothing in it knows of the mesh.
set -eu
grep -qw "$(hostname)" /etc/hosts || echo "127.0.1.1 $(hostname)" >>/etc/hosts
export DEBIAN_FRONTEND=noninteractive
if ! dpkg-query -W dnsmasq >/dev/null 2>&1; then
  apt-get update -q
  apt-get install -yq --no-install-recommends dnsmasq iptables iproute2 ca-certificates python3 curl jq
fi
if ! grep -qx 'nameserver 127.0.0.1' /etc/resolv.conf; then
  grep '^nameserver' /etc/resolv.conf >/etc/dnsmasq-upstream.conf || : # no Internet, no upstream
  printf 'resolv-file=/etc/dnsmasq-upstream.conf\nbind-interfaces\nlisten-address=127.0.0.1\n' >/etc/dnsmasq.d/local.conf
  # The DHCP client must not write it again.
  if [ -d /etc/dhcp ]; then
    grep -qx 'supersede domain-name-servers 127.0.0.1;' /etc/dhcp/dhclient.conf ||
      echo 'supersede domain-name-servers 127.0.0.1;' >>/etc/dhcp/dhclient.conf
  fi
  rm -f /etc/resolv.conf
  echo 'nameserver 127.0.0.1' >/etc/resolv.conf
fi
systemctl restart dnsmasq
# The sample rules, for the commands of the tour.
ln -sfn /hostmesh/vagrant/samples /home/vagrant/samples
