#!/bin/sh
# What the official image does, as far as the tests need it.
set -eu
data=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$data"
    chown postgres: "$data"
    chmod 700 "$data"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0"
fi
if [ ! -e "$data/made" ]; then
    find "$data" -mindepth 1 -delete
    initdb -D "$data" -U "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 --encoding UTF8 \
        --locale C >/dev/null
    printf "unix_socket_directories = '/tmp'\n" >>"$data/postgresql.conf"
    printf 'host all all all scram-sha-256\n' >>"$data/pg_hba.conf"
    pg_ctl -D "$data" -w -l /tmp/log -o "-c listen_addresses=''" start >/dev/null
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -D "$data" -w -m fast stop >/dev/null
    touch "$data/made"
fi
exec postgres -D "$data" -c "listen_addresses=*"
