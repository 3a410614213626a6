#!/bin/sh
# nft.sh ROOT: puts `nft` with its libraries into a directory that can be laid over an image of Debian's C library.
set -eu
root=$1
libraries=usr/lib/$(uname -m)-linux-gnu
mkdir -p "$root/usr/sbin" "$root/$libraries" "$root/usr/share/doc"
cp -L /usr/sbin/nft "$root/usr/sbin/nft"
# The C library and its loader are the image's own.
ldd /usr/sbin/nft | awk '$2 == "=>" && $3 ~ "^/" && $1 !~ "^lib(c|m)\\.so" { print $1, $3 }' | while read -r name path; do
  cp -L "$path" "$root/$libraries/$name"
  owner=$(dpkg-query -S "$(realpath "$path")" "$path" "/usr$path" 2>/dev/null | head -n 1 | cut -d: -f1)
  [ -z "$owner" ] || cp -R --parents "/usr/share/doc/$owner/copyright" "$root"
done
cp -R --parents /usr/share/doc/nftables/copyright "$root"
