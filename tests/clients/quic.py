"""QUIC between two processes: `quic.py serve ADDRESS` and `quic.py call HOST`.

The client looks its host up, says "ready" and waits for a line; then it opens one connection, sends a request, reads
the answer, closes, and reports the bytes of all datagrams that it handed to and was handed by its socket."""
import asyncio, datetime, json, os, socket, ssl, sys, tempfile

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PORT = 443
# The whole answer fits a default receive buffer: what a full one drops passed the interface and not the socket.
REQUEST, ANSWER = 40_000, 60_000


class Server(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, b"a" * ANSWER, end_stream=True)
            self.transmit()


class Client(QuicConnectionProtocol):
    """Counts what passes the socket."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.sent = self.received = self.answer = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        send = transport.sendto

        class Counting:
            def sendto(_, data, *rest):
                self.sent += len(data)
                send(data, *rest)

            def __getattr__(_, name):
                return getattr(transport, name)

        super().connection_made(Counting())

    def datagram_received(self, data, address):
        self.received += len(data)
        super().datagram_received(data, address)

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.answer += len(event.data)
            if event.end_stream and not self.done.done():
                self.done.set_result(None)


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "laboratory")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
    chain, private = os.path.join(folder, "chain.pem"), os.path.join(folder, "key.pem")
    with open(chain, "wb") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
    with open(private, "wb") as file:
        file.write(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return chain, private


async def run_server(address):
    with tempfile.TemporaryDirectory() as folder:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
        configuration.load_cert_chain(*certificate(folder))
        await serve(address, PORT, configuration=configuration, create_protocol=Server)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def call(host):
    address = socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM)[0][4][0]
    print("ready", flush=True)
    sys.stdin.readline()
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name=host, verify_mode=ssl.CERT_NONE)
    async with connect(address, PORT, configuration=configuration, create_protocol=Client) as client:
        stream = client._quic.get_next_available_stream_id()
        client._quic.send_stream_data(stream, b"q" * REQUEST, end_stream=True)
        client.transmit()
        await client.done
    print(json.dumps({"sent": client.sent, "received": client.received, "answer": client.answer}), flush=True)


asyncio.run(run_server(sys.argv[2]) if sys.argv[1] == "serve" else call(sys.argv[2]))
