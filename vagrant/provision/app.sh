#!/bin/sh
# Run one of the lab's applications, after the agent, as a user of its own. Usage: app.sh SCRIPT PORT
# SCRIPT is below this repository's vagrant/, for example bookinfo/reviews.py. Its environment is this script's:
# SERVICE_VERSION, ENABLE_RATINGS, STAR_COLOR, DB_TYPE, MYSQL_DB_….
set -eu
script=$1 port=$2
place=/usr/local/lib/hostmesh-lab
for folder in bookinfo httpbin sleep; do
  install -d "$place/$folder"
  cp -r "/hostmesh/vagrant/$folder/." "$place/$folder/"
done
if [ -n "${DB_TYPE:-}" ]; then
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends mariadb-client-core
fi
{ echo "PYTHONPATH=$place/bookinfo" && env | grep -E '^(SERVICE_VERSION|ENABLE_RATINGS|STAR_COLOR|DB_TYPE|MYSQL_DB_[A-Z]+)='; } >/etc/lab-app.env || :
cat >/etc/systemd/system/lab-app.service <<UNIT
[Unit]
Description=Lab application: $script
After=hostmesh-agent.service

[Service]
DynamicUser=yes
AmbientCapabilities=CAP_NET_BIND_SERVICE
EnvironmentFile=/etc/lab-app.env
ExecStart=/usr/bin/python3 $place/$script $port
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet lab-app
systemctl restart lab-app
