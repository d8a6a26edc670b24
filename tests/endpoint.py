"""An OpenAI-compatible endpoint for tests: a server in a thread that answers well, badly, late or not at all."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

YES = "Yes, it is."


class Server:
    """Answers with what `say` makes of a request's body: a text, or (status, headers), or None to hang up; or with `raw`.

    A header may promise more than is sent: then it keeps the line open for a second.
    """

    def __init__(self):
        self.bodies, self.keys, self.at_once, self.most = [], [], 0, 0
        self.lock = threading.Lock()
        self.say, self.raw = lambda body, number: YES, None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append((handler.path, body))
            self.keys.append(handler.headers["Authorization"])
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            number = len(self.bodies)
        said = self.say(body, number)
        with self.lock:
            self.at_once -= 1
        if said is None:
            handler.close_connection = True
            return
        status, headers, content = (
            (said[0], said[1], b"sorry") if isinstance(said, tuple) else (200, {}, self.raw or completion(said))
        )
        try:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
            time.sleep(float("Content-Length" in headers))
        except OSError:  # who asked has gone
            pass


def completion(text):
    usage = {"prompt_tokens": 100, "completion_tokens": 3}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()
