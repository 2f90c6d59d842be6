#!/bin/sh
# Installs Debian packages and leaves nothing of their installation behind but them.
#
#   packages.sh PACKAGE...
#
# Which versions these are, the day of the build decides: an image with packages is not the same image tomorrow.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "$@"
apt-get clean
# Logs and caches hold the time of the build.
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache \
    /var/cache/debconf/*-old /var/lib/dpkg/*-old
