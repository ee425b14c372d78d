#!/bin/sh
# Run one of Bookinfo's applications, after the agent, as a user of its own. Usage: bookinfo.sh SERVICE
# Its environment is this script's: SERVICE_VERSION, ENABLE_RATINGS, STAR_COLOR.
set -eu
service=$1
install -d /usr/local/lib/bookinfo
cp -r /hostmesh/vagrant/bookinfo/. /usr/local/lib/bookinfo/
env | grep -E '^(SERVICE_VERSION|ENABLE_RATINGS|STAR_COLOR)=' >/etc/bookinfo.env || : >/etc/bookinfo.env
cat >/etc/systemd/system/bookinfo.service <<UNIT
[Unit]
Description=Bookinfo: $service
After=hostmesh-agent.service

[Service]
DynamicUser=yes
EnvironmentFile=/etc/bookinfo.env
ExecStart=/usr/bin/python3 /usr/local/lib/bookinfo/$service.py 9080
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet bookinfo
systemctl restart bookinfo
