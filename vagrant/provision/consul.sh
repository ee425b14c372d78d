#!/bin/sh
# Install Consul (the package that .ci/fetch-bullseye downloaded) and run it. Usage: consul.sh server|client ADDRESS SERVER
set -eu
role=$1 address=$2 server=$3
if ! command -v consul >/dev/null; then
  set -- /hostmesh/build/downloads/consul_*.deb
  [ -e "$1" ] || { echo "run 'make deb' on your machine first: it fetches Consul" >&2; exit 1; }
  dpkg-deb -x "$1" /tmp/consul-package
  install -m 755 /tmp/consul-package/usr/bin/consul /usr/local/bin/consul
  rm -rf /tmp/consul-package
fi
id consul >/dev/null 2>&1 || useradd --system --home-dir /var/lib/consul --shell /usr/sbin/nologin consul
install -d -o consul -g consul -m 700 /var/lib/consul
case $role in
  server) options="-server -bootstrap-expect=1" ;;
  *) options="-retry-join=$server -retry-interval=1s" ;;
esac
cat >/etc/systemd/system/consul.service <<UNIT
[Unit]
Description=Consul
Wants=network-online.target
After=network-online.target

[Service]
User=consul
ExecStart=/usr/local/bin/consul agent $options -node=$(hostname) -bind=$address -client=127.0.0.1 -data-dir=/var/lib/consul
ExecReload=/bin/kill -HUP \$MAINPID
KillSignal=SIGINT
Restart=on-failure
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet consul
systemctl restart consul
for _ in $(seq 300); do # the server may be made at this time
  curl -sf http://127.0.0.1:8500/v1/status/leader | grep -q : && exit 0
  sleep 1
done
echo "consul has no leader after five minutes: journalctl -u consul" >&2
exit 1
