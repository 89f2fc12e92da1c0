#!/usr/bin/env bash
# Makes the pictures of the status page in docs/images anew: the tests of the page take them of the scenes they try. What
# is seen is simulated. Look at each before it is committed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ "${1:-}" != with-database ]; then
    need_cargo
    scripts/install-deps.sh browser pictures
    scripts/test-db.sh run scripts/screenshots.sh with-database
    exit
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The page asks for the system's own font, which is another one on each machine: the pictures are to have this one.
cat >"$folder/fonts.conf" <<'END'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <alias binding="strong"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="strong"><family>sans-serif</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="strong"><family>sans</family><prefer><family>Inter</family></prefer></alias>
</fontconfig>
END
step "the tests of the page"
FONTCONFIG_FILE=$folder/fonts.conf M365_LEDGER_SCREENSHOTS=$folder SQLX_OFFLINE=true \
    cargo test --locked --all-features --test it page::
for picture in "$folder"/*.png; do
    # 128 colours are enough for a page, and make a third of the bytes.
    pngquant --force --strip --output "docs/images/$(basename "$picture")" 128 "$picture"
done
ls -l docs/images
