"""Alerts as operators get them: a mail server, a webhook's receiver, Slack; a receiver that is down, a guard that dies.

The webhook's receiver checks signatures with the package that the makers of Standard Webhooks publish.
"""

import json
import logging
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import warnings
import urllib.error
import urllib.request
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from standardwebhooks.webhooks import Webhook

from harness import House

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CONFIG = """
[organization]
name = "Acme <&> Söhne"
[[limit]]
name = "alerting"
window = "month"
soft = [0.000001]
[alerts]
link = "https://guard.example/"
[alerts.email]
smtp = "{scheme}://alerts%40acme.example@127.0.0.2:{mail}"
password = {{ env = "MAIL_PASSWORD" }}
from = "spendguard <alerts@acme.example>"
to = ["Finance <finance@acme.example>", "ops@acme.example"]
[[alerts.webhook]]
url = "http://127.0.0.1:{web}/hook?team=1"
secret = {{ env = "WEBHOOK_SECRET" }}
[[alerts.slack]]
url = {{ env = "SLACK_URL" }}
"""


class Mail:
    """A mail server that keeps what it gets within TLS, from who knows the password."""

    def __init__(self, certificate, **options):
        self.messages, self.logins, self.refused = [], [], set()
        # Not 127.0.0.1, to which mail may go in the clear.
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            self.port = probe.getsockname()[1]
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(certificate)
        options = {name: self.tls if value is True else value for name, value in options.items()}
        self.server = Controller(
            self, "127.0.0.2", self.port, authenticator=self.authenticate, auth_required=True, **options
        )
        self.server.start()

    def authenticate(self, server, session, envelope, mechanism, auth_data):
        self.logins.append((auth_data.login, auth_data.password))
        return AuthResult(success=auth_data.password == b"correct horse" and isinstance(auth_data, LoginPassword))

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refused:
            return "451 not now"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server, session, envelope):
        self.messages.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 taken"


class Web(BaseHTTPRequestHandler):
    """Takes webhooks at /hook unless it is down, and Slack's at /slack."""

    down = True
    hooks, refused, slacks = [], [], []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/slack":
            Web.slacks.append(json.loads(body))
        elif Web.down:
            Web.refused.append(self.headers["webhook-id"])
            self.send_response(503)
            return self.end_headers()
        else:
            assert self.path == "/hook?team=1", self.path
            payload = Webhook(SECRET).verify(body, dict(self.headers))
            Web.hooks.append((self.headers["webhook-id"], payload))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def until(what, ready, seconds=40):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"it did not happen in time: {what}")
        time.sleep(0.1)


def chat(house, project):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {house.keys[project]}", "content-type": "application/json"}
    request = urllib.request.Request(house.proxy + "/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def own_recipients(house, mail):
    """A spend alert, whose own recipient takes no mail until the guard has been killed."""
    mail.refused = {"cfo@acme.example"}
    channel = {"type": "email", "recipients": ["cfo@acme.example"], "subject_prefix": "Budget:"}
    alert = house.api("POST", "/v1/organization/spend_alerts", {
        "threshold_amount": 100, "currency": "USD", "interval": "month", "notification_channel": channel,
    })
    before = len(mail.messages)
    entry = next(e for e in house.api("GET", "/guard/v1/ledger")["data"] if e["kind"] == "settle")
    house.api("POST", f"/guard/v1/ledger/{entry['id']}/adjust", {"amount_usd": "2", "note": "a large bill"})

    def deliveries():
        """The deliveries of the alert, by channel, once each was tried."""
        alerts = [one for one in house.api("GET", "/guard/v1/alerts")["data"] if one["limit"] == alert["id"]]
        found = {d["channel"]: d for one in alerts for d in one["deliveries"]}
        return found if found and all(d["attempts"] for d in found.values()) else None

    until("each channel was tried", deliveries)
    assert deliveries()["email"]["state"] == "waiting" and "451" in deliveries()["email"]["error"], deliveries()
    assert deliveries()["email"]["recipients"] == ["cfo@acme.example"] and deliveries()["webhook-1"]["state"] == "sent", deliveries()
    house.kill_and_restart()
    mail.refused = set()
    until("the spend alert's own mail", lambda: len(mail.messages) > before)
    until("it is noted", lambda: deliveries()["email"]["state"] == "sent")
    receivers, message = mail.messages[-1]
    assert receivers == ["cfo@acme.example"] and message["to"] == "cfo@acme.example", (receivers, message["to"])
    assert message["subject"].startswith("Budget: [Acme <&> Söhne] Limit " + alert["id"]), message["subject"]
    assert len(mail.messages) == before + 1, "the others get no mail"
    print("ok  a spend alert is mailed to its own recipients alone, after kill -9 too")


def main():
    # The server that is all within TLS does not know that it is.
    warnings.simplefilter("ignore")
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    folder = tempfile.TemporaryDirectory()
    certificate = folder.name + "/certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mail", "-keyout", certificate,
         "-out", certificate + ".part", "-addext", "subjectAltName=IP:127.0.0.2", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )
    with open(certificate, "a") as both, open(certificate + ".part") as part:
        both.write(part.read())
    mail = Mail(certificate, tls_context=True)
    web = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    port = web.server_address[1]
    environment = {
        "MAIL_PASSWORD": "correct horse", "WEBHOOK_SECRET": SECRET, "SLACK_URL": f"http://127.0.0.1:{port}/slack",
        "SSL_CERT_FILE": certificate,
    }
    with House(CONFIG.format(scheme="smtp", mail=mail.port, web=port), environment) as house:
        assert chat(house, "default") == 200 and chat(house, "default") == 200
        until("a mail for each recipient", lambda: len(mail.messages) == 2)
        until("a message in Slack", lambda: Web.slacks)
        until("a webhook that is refused", lambda: Web.refused)
        receivers = sorted(receivers for receivers, _ in mail.messages)
        assert receivers == [["finance@acme.example"], ["ops@acme.example"]], receivers
        message = mail.messages[0][1]
        assert message["subject"].startswith("[Acme <&> Söhne] Limit alerting: the organization passed"), message["subject"]
        assert "https://guard.example/" in message.get_content() and "resets at" in message.get_content()
        assert "&lt;&amp;&gt; Söhne" in Web.slacks[0]["text"], Web.slacks[0]
        print("ok  mail and Slack have an alert, though the webhook's receiver is down")

        # A death before it is noted that something was sent sends it again, so that is waited for.
        until("both are noted", lambda: house.cli("alerts", "list")[1].count("  sent") == 3)
        house.kill_and_restart()
        Web.down = False
        until("the webhook", lambda: Web.hooks)
        assert Web.hooks[0][0] == Web.refused[0], "the same alert has the same id"
        assert Web.hooks[0][1]["type"] == "limit.soft" and Web.hooks[0][1]["data"]["limit"] == "alerting"
        assert chat(house, "default") == 200
        print("ok  the webhook comes after kill -9, signed, under the same id")

        for _ in range(3):
            assert chat(house, "empty") == 429
        until("the hard limit's mail", lambda: len(mail.messages) > 3)
        until("the hard limit's webhook", lambda: len(Web.hooks) > 1)
        until("the hard limit in Slack", lambda: len(Web.slacks) > 1)
        time.sleep(1)
        assert [hook["type"] for _, hook in Web.hooks] == ["limit.soft", "limit.hard"], Web.hooks
        sent = ([message["subject"] for _, message in mail.messages], Web.slacks)
        assert (len(mail.messages), len(Web.slacks)) == (4, 2), f"something is sent twice: {sent}"
        print("ok  a hard limit that refuses is sent once")

        own_recipients(house, mail)

        code, text = house.cli("alerts", "list")
        assert code == 0 and "alerting" in text and "webhook-1" in text and "sent" in text, text
        code, text = house.cli("alerts", "test")
        assert code == 0 and text.count("sent") == 3, text
        assert mail.messages[-1][1]["subject"].endswith("] Test of spendguard's alerts")
        Web.down = True
        code, text = house.cli("alerts", "test")
        assert code == 1 and "webhook-1: failed, it answered 503" in text, text
        print("ok  the commands list alerts and test each channel")

        within = Mail(certificate, ssl_context=True, auth_require_tls=False)
        more = CONFIG.format(scheme="smtps", mail=within.port, web=port)
        house.config = house.config.replace(CONFIG.format(scheme="smtp", mail=mail.port, web=port), more)
        house.kill_and_restart()
        house.cli("alerts", "test")
        assert len(within.messages) == 2, "TLS from the start, to each recipient"
        house.environment["SSL_CERT_FILE"] = "/dev/null"
        house.kill_and_restart()
        code, text = house.cli("alerts", "test")
        assert code == 1 and "email: failed" in text and len(within.messages) == 2, text
        within.server.stop()
        print("ok  mail goes by STARTTLS and by TLS, and not to a server of an unknown certificate")
    assert all(login == b"alerts@acme.example" for login, _ in mail.logins), mail.logins
    mail.server.stop()


if __name__ == "__main__":
    main()
