#!/bin/sh
# Run one of the lab's applications, after the agent, as a user of its own. Usage: app.sh SERVICE SCRIPT PORT
# SCRIPT is below this repository's vagrant/, for example bookinfo/reviews.py. Its environment is this script's:
# SERVICE_VERSION, ENABLE_RATINGS, STAR_COLOR, DB_TYPE, MYSQL_DB_….
set -eu
service=$1 script=$2 port=$3
place=/usr/local/lib/hostmesh-lab
for folder in bookinfo httpbin; do
  install -d "$place/$folder"
  cp -r "/hostmesh/vagrant/$folder/." "$place/$folder/"
done
if [ -n "${DB_TYPE:-}" ] && ! command -v mariadb >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends mariadb-client-core
fi
id "$service" >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$service"
{ echo "PYTHONPATH=$place/bookinfo" && env | grep -E '^(SERVICE_VERSION|ENABLE_RATINGS|STAR_COLOR|DB_TYPE|MYSQL_DB_[A-Z]+)='; } >"/etc/$service.env" || :
cat >"/etc/systemd/system/$service.service" <<UNIT
[Unit]
Description=Lab application: $script
After=hostmesh-agent.service

[Service]
User=$service
EnvironmentFile=/etc/$service.env
ExecStart=/usr/bin/python3 $place/$script $port
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet "$service"
systemctl restart "$service"
