#!/bin/sh
# archive.sh DAY PACKAGE...: installs packages of Debian as its archive was on a day. For the build of images.
set -eu
day=$1
shift
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
for part in debian/$day:bookworm debian/$day:bookworm-updates debian-security/$day:bookworm-security; do
  echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/${part%%:*} ${part##*:} main"
done >/etc/apt/sources.list
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
