#!/bin/sh
# MariaDB with the ratings that ratings v2 reads.
set -eu
export DEBIAN_FRONTEND=noninteractive
dpkg-query -W mariadb-server >/dev/null 2>&1 || apt-get install -yq --no-install-recommends mariadb-server
mariadb <<'SQL'
CREATE DATABASE IF NOT EXISTS test;
CREATE TABLE IF NOT EXISTS test.ratings (ReviewID INT PRIMARY KEY, Rating INT NOT NULL);
INSERT IGNORE INTO test.ratings VALUES (1, 5), (2, 4);
CREATE USER IF NOT EXISTS 'root'@'127.0.0.1' IDENTIFIED BY 'password';
GRANT SELECT ON test.* TO 'root'@'127.0.0.1';
SQL
