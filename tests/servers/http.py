"""HTTP servers: nginx (ranges, index pages, its small part of WebDAV), one of our own with every bad habit (see
``range_server``), and WsgiDAV, once with many threads and once with one, which makes its conditions free of races."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import Missing, accepts, free_port, program, spawn, until

NGINX = """
daemon off; pid {D}/pid; worker_processes 2; {user}
error_log {D}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off; default_type application/octet-stream; absolute_redirect off; client_max_body_size 0;
    client_body_temp_path {D}/t1; proxy_temp_path {D}/t2; fastcgi_temp_path {D}/t3; uwsgi_temp_path {D}/t4;
    scgi_temp_path {D}/t5;
    server {{
        listen 127.0.0.1:{port} backlog=511;
        location /www/ {{ alias {D}/www/; autoindex on; }}
        location /json/ {{ alias {D}/www/; autoindex on; autoindex_format json; }}
        location /norange/ {{ alias {D}/www/; max_ranges 0; }}
        location /closed/ {{ alias {D}/www/; }}
        location /zip/ {{ alias {D}/www/; gzip on; gzip_types *; gzip_min_length 1; }}
        location /put/ {{ alias {D}/www/; autoindex on; dav_methods PUT DELETE MKCOL COPY MOVE; dav_access all:rw; }}
        location /503 {{ add_header Retry-After 1 always; return 503; }}
        location /moved/ {{ rewrite ^/moved/(.*)$ /www/$1 redirect; }}
    }}
}}
"""
WSGIDAV = """
import sys
from cheroot import wsgi
from wsgidav.wsgidav_app import WsgiDAVApp

folder, port, threads = sys.argv[1:]
app = WsgiDAVApp({
    "provider_mapping": {"/": folder}, "simple_dc": {"user_mapping": {"*": True}}, "verbose": 0,
    "logging": {"enable": False}, "block_size": 65536,
})
wsgi.Server(("127.0.0.1", int(port)), app, numthreads=int(threads), max=int(threads), request_queue_size=256).start()
"""


def start_nginx(folder: Path) -> tuple[Any, dict[str, Any]]:
    nginx = program("nginx", hint="apt-get install nginx-light")
    (folder / "www").mkdir()
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(D=folder, port=port, user=user))
    process = spawn([nginx, "-e", folder / "err.log", "-p", folder, "-c", folder / "nginx.conf"], folder)
    until(accepts(port), process, folder)
    return process, {"port": port, "url": f"http://127.0.0.1:{port}", "root": str(folder / "www")}


def start_range_server(folder: Path) -> tuple[Any, dict[str, Any]]:
    port = free_port()
    process = spawn([sys.executable, "-P", Path(__file__).parent / "range_server.py", port], folder)
    until(accepts(port), process, folder)
    return process, {"port": port, "url": f"http://127.0.0.1:{port}"}


def _start_wsgidav(folder: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    if find_spec("wsgidav") is None or find_spec("cheroot") is None:
        raise Missing("pip install wsgidav cheroot")
    (folder / "www").mkdir()
    port = free_port()
    process = spawn([sys.executable, "-W", "ignore", "-c", WSGIDAV, folder / "www", port, threads], folder)
    until(accepts(port), process, folder)
    return process, {"port": port, "url": f"http://127.0.0.1:{port}", "root": str(folder / "www")}


def start_wsgidav(folder: Path) -> tuple[Any, dict[str, Any]]:
    return _start_wsgidav(folder, 8)


def start_wsgidav_serial(folder: Path) -> tuple[Any, dict[str, Any]]:
    return _start_wsgidav(folder, 1)


# -- for the tests: the back door of the range server ------------------------------------------------------------------


def bare(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes | None:
    """One request by other means than ours; None where there is no such object."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: bytes = answer.read()
            return found
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise
