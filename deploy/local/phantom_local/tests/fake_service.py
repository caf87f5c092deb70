"""A stand-in for our processes: serves /ready on a port, ends on SIGTERM. Run as a script.

python fake_service.py <metrics port> [unready reason]
"""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

REASONS = {"broken": sys.argv[2]} if len(sys.argv) > 2 else {}


class Door(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        attention = ["3 prediction records were dropped"]
        body = json.dumps({"ready": not REASONS, "reasons": REASONS, "attention": attention}).encode()
        self.send_response(503 if REASONS else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
HTTPServer(("127.0.0.1", int(sys.argv[1])), Door).serve_forever()
