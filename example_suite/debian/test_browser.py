"""Find what a browser shows in physical memory, and the process that holds it.

Firefox needs minutes under emulation, and --kgdb-disk-package=firefox-esr.
"""

from __future__ import annotations

import pytest

MARKER = "no-search-engine-knows-this-7f3a91"
SERVER = "busybox httpd -f -vv -p 127.0.0.1:80 -h /srv/www >/tmp/httpd.log 2>&1 &"
BROWSER = "HOME=/root firefox-esr --headless http://127.0.0.1/ >/tmp/firefox.log 2>&1 &"


@pytest.mark.kgdb(memory="1G", timeout=1800)
def test_which_process_holds_the_page(kgdb):
    kgdb.run(f"mkdir -p /srv/www && echo '<p>{MARKER}</p>' >/srv/www/index.html")
    kgdb.run(SERVER)
    kgdb.run(BROWSER)
    kgdb.run("until grep -q url:/ /tmp/httpd.log; do sleep 1; done")

    owners = {}
    while not any(comm.startswith(("Isolated Web", "Web Content")) for comm in owners.values()):
        kgdb.run("sleep 10")  # until the page has reached the process that shows it
        for address in kgdb.physical.find(MARKER.encode()):
            for owner in kgdb.physical.page_owners(address):
                owners[owner.pid] = owner.comm

    for pid, comm in owners.items():
        assert kgdb.run(f"cat /proc/{pid}/comm").output == f"{comm}\n"
