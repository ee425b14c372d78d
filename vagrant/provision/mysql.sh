#!/bin/sh
# MariaDB, after the agent, with the ratings that ratings v2-mysql reads. It listens on 127.0.0.1, as Debian has it: what
# comes from other machines comes through Envoy.
set -eu
export DEBIAN_FRONTEND=noninteractive
dpkg-query -W mariadb-server >/dev/null 2>&1 || apt-get install -yq --no-install-recommends mariadb-server
# Or 127.0.0.1 would be called localhost, whose users log in by socket only.
printf '[mysqld]\nskip-name-resolve\n' >/etc/mysql/mariadb.conf.d/60-lab.cnf
mkdir -p /etc/systemd/system/mariadb.service.d
printf '[Unit]\nAfter=hostmesh-agent.service\n' >/etc/systemd/system/mariadb.service.d/lab.conf
systemctl daemon-reload
systemctl enable --quiet mariadb
systemctl restart mariadb
mariadb </hostmesh/vagrant/mysql/ratings.sql
