#!/bin/sh
# In the test guest, /usr being the databases' disk: what Debian's packages would have set up, and a load that acknowledges.
#
# usage: databases.sh system                  accounts and directories
#        databases.sh agent                   the freeze hooks as the how-to installs them, and the agent started with them
#        databases.sh create DEVICE DEVICE    filesystems at /data and /log, and in them two empty databases
#        databases.sh open DEVICE DEVICE      filesystems that hold databases already
#        databases.sh start                   both servers; ends when they answer
#        databases.sh load                    writes to both, for ever: "acknowledged NAME NUMBER" on the console
set -eu
umask 022
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C
postgresql=$(echo /usr/lib/postgresql/*/bin)
as() {
    account=$1
    shift
    setpriv --reuid "$account" --regid "$account" --init-groups "$@"
}

system() {
    mkdir -p /etc/qemu/fsfreeze-hook.d /var/log /var/run /dev/shm /data /log
    chmod 755 / /etc /run
    ln -sfn /usr/bin/dash /bin/sh
    mount -t tmpfs none /dev/shm
    chmod 1777 /tmp /dev/shm
    printf '%s:x:%s:%s::/:/bin/sh\n' root 0 0 postgres 101 101 mysql 102 102 >/etc/passwd
    printf '%s:x:%s:\n' root 0 postgres 101 mysql 102 >/etc/group
    ln -sfn /run/postgresql /var/run/postgresql
    install -d -o postgres -g postgres /run/postgresql
    install -d -o mysql -g mysql /run/mysqld
    ip link set lo up
}

agent() {
    cp /usr/share/hooks/fsfreeze-hook /etc/qemu/fsfreeze-hook
    cp /usr/share/hooks/postgresql /usr/share/hooks/mariadb /etc/qemu/fsfreeze-hook.d/
    printf '[general]\nfsfreeze-hook=/etc/qemu/fsfreeze-hook\n' >/etc/qemu/qemu-ga.conf
    (
        sleep 1 # what has called this is answered first
        kill "$(pidof qemu-ga)"
        while pidof qemu-ga; do sleep 0.1; done
        rm -f /run/qemu-ga.pid
        /sbin/qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run -f /run/qemu-ga.pid -d
    ) >/dev/null 2>&1 &
}

create() {
    for device; do # with given numbers nobody waits for the kernel to have random ones
        /sbin/mke2fs -q -F -U 00112233-4455-6677-8899-aabbccddeeff -t ext4 -N 4096 -J size=16 \
            -E hash_seed=00112233-4455-6677-8899-aabbccddeeff,lazy_itable_init=1,lazy_journal_init=1,nodiscard "$device"
    done
    open "$@"
    install -d -o postgres -g postgres -m 700 /data/postgresql /log/postgresql /log/tablespace
    install -d -o mysql -g mysql -m 700 /data/mysql /log/mysql
    as postgres "$postgresql/initdb" -N --no-locale -E UTF8 --auth=peer -D /data/postgresql -X /log/postgresql
    {
        printf '%s;\n' 'CREATE DATABASE mysql' 'USE mysql' "SET @auth_root_socket='root'"
        cat /usr/share/mysql/mysql_system_tables.sql \
            /usr/share/mysql/mysql_system_tables_data.sql
    } | as mysql mariadbd $mariadb --bootstrap --log-warnings=0 --enforce-storage-engine= --max_allowed_packet=8M
    start
    as postgres psql -Xq -c "CREATE TABLESPACE beside LOCATION '/log/tablespace'" \
        -c "CREATE TABLE a (n int PRIMARY KEY)" -c "CREATE TABLE b (n int PRIMARY KEY) TABLESPACE beside" -d postgres
    mariadb -e "CREATE DATABASE d; CREATE TABLE d.a (n INT PRIMARY KEY); CREATE TABLE d.b (n INT PRIMARY KEY)"
}

open() {
    mount -t ext4 "$1" /data
    mount -t ext4 "$2" /log
}

mariadb="--no-defaults --datadir=/data/mysql --innodb-log-group-home-dir=/log/mysql --socket=/run/mysqld/mysqld.sock
    --skip-networking --innodb-log-file-size=8M --innodb-buffer-pool-size=8M --key-buffer-size=1M --performance-schema=OFF"

start() {
    rm -f /data/postgresql/postmaster.pid # of another boot
    as postgres "$postgresql/pg_ctl" -s -w -t 60 -D /data/postgresql -l /tmp/postgresql.log start -o "-c listen_addresses= \
        -c jit=off -c shared_buffers=8MB -c max_connections=10 -c log_checkpoints=on -c checkpoint_timeout=1h"
    as mysql mariadbd $mariadb --log-error=/tmp/mariadb.log </dev/null >/dev/null 2>&1 &
    tries=600
    until mariadb -e 'SELECT 1' >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || exit 1
        sleep 0.1
    done
}

load() { # a pause between two transactions leaves the processor to others
    tables='BEGIN; INSERT INTO a VALUES (&); INSERT INTO b VALUES (&); COMMIT;'
    seq 1 1000000 | sed "s/.*/$tables SELECT pg_sleep(0.02) \\\\g \/dev\/null\n\\\\echo acknowledged postgresql &/" |
        as postgres psql -Xq -v ON_ERROR_STOP=1 -d postgres >/dev/ttyS0 2>/tmp/load.log &
    seq 1 1000000 | sed "s/.*/$tables SELECT 'acknowledged mariadb', &; DO SLEEP(0.02);/" |
        mariadb --batch --unbuffered --skip-column-names --skip-reconnect d >/dev/ttyS0 2>/tmp/load.log &
}

command=$1
shift
"$command" "$@"
