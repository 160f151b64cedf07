"""The fence around fetching: what a node's configuration does not allow is not connected to."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingest.decoding.nursery import Nursery
from ingest.file_source import SourceFailed
from ingest.inputs import Inputs
from ingest.net.fence import Fence, Fenced
from streams.inputs import FetchSection
from tests.fix_radio import HERE, RATE, Radio, tone
from tests.fix_tls import Authority
from tests.test_stream_source import heard, pitch, tuned, why_not

Resolve = Callable[[str, int], list[str]]


def node(nursery: Nursery, resolve: Resolve | None = None, **fetch: object) -> Inputs:
    """A node with that configuration, and names that mean what the test says."""
    limits = FetchSection(stalled_after=0.5, give_up_after=2.0, **fetch)  # type: ignore[arg-type]
    return Inputs(limits, nursery=nursery, fence=Fence(limits, resolve))


@contextmanager
def another(host: str, port: int) -> Iterator[Radio]:
    """A second station, at the same port of another address of this machine."""
    made = Radio(host, port)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1%1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    """Private, link-local, multicast and reserved addresses, also inside those of the other family."""
    assert not Fence(FetchSection()).allows(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_what_is_public_is_allowed(address: str) -> None:
    """Addresses that anyone can reach may be fetched from without being listed."""
    assert Fence(FetchSection()).allows(address)


def test_a_network_that_is_listed_is_allowed() -> None:
    """What the node's owner lists may be fetched from, and its neighbour may not."""
    fence = Fence(FetchSection(private=("192.168.7.0/24", "fd00:7::/64")))
    assert fence.allows("192.168.7.9")
    assert fence.allows("fd00:7::9")
    assert not fence.allows("192.168.8.9")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://a/", "rtmp://a/b", "concat:http://a/", "http://", "http://a b/"]
)
def test_only_addresses_of_the_web(url: str) -> None:
    """Everything else that FFmpeg would open is refused before anything is opened."""
    with pytest.raises(Fenced):
        Fence(FetchSection()).check(url)


def test_hosts_that_are_listed() -> None:
    """Where hosts are listed, no other is asked: a name, or all below a domain, but not what ends alike."""
    fence = Fence(FetchSection(hosts=("radio.example", "*.stream.example")))
    for host in ("radio.example", "a.stream.example", "RADIO.example."):
        fence.check(f"http://{host}/live")
    for host in ("evilstream.example", "stream.example", "radio.example.evil"):
        with pytest.raises(Fenced, match="hosts of the node"):
            fence.check(f"http://{host}/live")


def test_a_scheme_that_is_not_listed() -> None:
    """A node that fetches over https alone does not fetch over http."""
    with pytest.raises(Fenced, match="schemes of the node"):
        Fence(FetchSection(schemes=("https",))).check("http://radio.example/")


def test_a_name_that_means_something_else_a_moment_later(nursery: Nursery, radio: Radio) -> None:
    """DNS rebinding: the address that was checked is connected to, and the next time it is checked anew."""
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return [next(answers)]

    with another("127.0.0.2", radio.port) as inner:
        inner.plays("/live", tone(2000))
        radio.plays("/live", tone(500))
        inputs = node(nursery, resolve, private=HERE)
        url = f"http://radio.example:{radio.port}/live"
        with tuned(inputs, url) as source:
            assert pitch(heard(source, 1.0), RATE) == pytest.approx(500, abs=2)
        assert asked == ["radio.example"]
        assert why_not(inputs, url).startswith("radio.example is 127.0.0.2, which is not public")
        assert inner.asked == []


def test_of_several_addresses_only_those_allowed_are_tried(nursery: Nursery, radio: Radio) -> None:
    """A name that stands for a public and a private address gets no connection to the private one."""
    with another("127.0.0.2", radio.port) as inner:
        inner.plays("/live", tone(2000))
        radio.plays("/live", tone(500))
        inputs = node(nursery, lambda host, port: ["127.0.0.2", "127.0.0.1"], private=HERE)
        with tuned(inputs, f"http://radio.example:{radio.port}/live") as source:
            assert pitch(heard(source, 1.0), RATE) == pytest.approx(500, abs=2)
        assert inner.asked == []


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n{key}#EXTINF:2,\n{segment}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("where", ["redirect", "m3u", "pls", "segment", "key", "variant"])
def test_nothing_leads_behind_the_fence(nursery: Nursery, radio: Radio, where: str) -> None:
    """A redirect, an entry of a playlist, a segment, a key or a variant at 127.0.0.2: not connected to."""
    with another("127.0.0.2", radio.port) as inner:
        inner.plays("/secret", tone(500))
        secret = inner.url("/secret")
        radio.has("/sound.mp3", tone(500))
        begin = {
            "redirect": lambda: radio.sends("/begin", 302, Location=secret),
            "m3u": lambda: radio.has("/begin.m3u", f"#EXTM3U\n{secret}\n"),
            "pls": lambda: radio.has("/begin", f"[playlist]\nFile1={secret}\n"),
            "segment": lambda: radio.has("/begin.m3u8", HLS.format(key="", segment=secret)),
            "key": lambda: radio.has(
                "/begin.m3u8",
                HLS.format(key=f'#EXT-X-KEY:METHOD=AES-128,URI="{secret}"\n', segment="sound.mp3"),
            ),
            "variant": lambda: radio.has(
                "/begin.m3u8", f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=64000\n{secret}\n"
            ),
        }[where]()
        why = why_not(node(nursery, private=HERE), begin)
        assert "127.0.0.2, which is not public; list its network in private" in why
        assert inner.asked == []


@pytest.mark.parametrize("playlist", ["m3u", "hls", "pls"])
def test_a_file_in_a_playlist(nursery: Nursery, radio: Radio, tmp_path: Path, playlist: str) -> None:
    """`file:` in a playlist names a file of this machine: it is not opened."""
    path = tmp_path / "secret.mp3"
    path.write_bytes(tone(500))
    url = {
        "m3u": lambda: radio.has("/a.m3u", f"#EXTM3U\nfile://{path}\n"),
        "hls": lambda: radio.has("/a.m3u8", HLS.format(key="", segment=f"file://{path}")),
        "pls": lambda: radio.has("/a", f"[playlist]\nFile1=file://{path}\n"),
    }[playlist]()
    assert "has the scheme 'file'" in why_not(node(nursery, private=HERE), url)


def test_a_playlist_for_ffmpeg_itself(nursery: Nursery, radio: Radio) -> None:
    """A playlist in the place of sound is not given to FFmpeg, which would open what it names."""
    radio.plays("/secret", tone(500))
    body = b"ID3\x04\0\0\0\0\0\0" + HLS.format(key="", segment=radio.url("/secret")).encode()
    why_not(node(nursery, private=HERE), radio.plays("/live", body, then="end"))
    assert [path for path, _ in radio.asked] == ["/live"]


def test_redirects_have_an_end(nursery: Nursery, radio: Radio) -> None:
    """A redirect to itself is followed as often as is configured."""
    url = radio.sends("/round", 302, Location="/round")
    why = why_not(node(nursery, private=HERE, redirects=3), url)
    assert why.endswith("more than 3 redirects")
    assert len(radio.asked) == 4


def test_playlists_have_an_end(nursery: Nursery, radio: Radio) -> None:
    """A playlist that names itself is given up, and one without end is not read to its end."""
    itself = radio.has("/a.m3u", "#EXTM3U\na.m3u\n")
    assert "playlists that name one another" in why_not(node(nursery, private=HERE), itself)
    endless = radio.plays("/b.m3u", b"#EXTM3U\n", *[b"#" * 9_000] * 200)
    why = why_not(node(nursery, private=HERE, playlist_bytes=10_000), endless)
    assert "larger than the 10000 bytes" in why


def test_a_segment_has_an_end(nursery: Nursery, radio: Radio) -> None:
    """A segment larger than is configured is given up."""
    radio.has("/big.ts", bytes(60_000))
    url = radio.has("/a.m3u8", HLS.format(key="", segment="big.ts"))
    assert "larger than the 50000 bytes" in why_not(node(nursery, private=HERE, segment_bytes=50_000), url)


def test_a_password_goes_to_its_own_host(nursery: Nursery, radio: Radio, tmp_path: Path) -> None:
    """The credentials of a host are sent to it, and not to where it redirects."""
    (tmp_path / "radio.example").write_text("me:s3cret\n")

    def guarded(request: object) -> None:
        if "Authorization" not in request.headers:  # type: ignore[attr-defined]
            request.nothing(401)  # type: ignore[attr-defined]
            return
        request.nothing(302, Location=f"http://other.example:{radio.port}/sound")  # type: ignore[attr-defined]

    radio.at["/live"] = guarded
    radio.plays("/sound", tone(500))
    inputs = node(
        nursery, lambda host, port: ["127.0.0.1"], private=HERE, credentials_directory=str(tmp_path)
    )
    with tuned(inputs, f"http://radio.example:{radio.port}/live") as source:
        heard(source, 0.5)
    sent = [headers.get("Authorization") for _, headers in radio.asked]
    assert sent == ["Basic bWU6czNjcmV0", None]


@pytest.mark.parametrize(
    ("name", "trusted", "told"),
    [
        ("radio.example", True, None),
        ("radio.example", False, "unable to get local issuer certificate"),
        ("other.example", True, "Hostname mismatch"),
    ],
)
def test_tls(
    nursery: Nursery, radio: Radio, tmp_path: Path, name: str, trusted: bool, told: str | None
) -> None:
    """HTTPS is heard where the certificate is the host's and its authority is trusted; else it is told."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(ours if trusted else theirs).certify(name))
    radio._server.socket = context.wrap_socket(radio._server.socket, server_side=True)
    radio.plays("/live", tone(500))
    inputs = node(nursery, lambda host, port: ["127.0.0.1"], private=HERE, ca_file=str(ours.file))
    url = f"https://radio.example:{radio.port}/live"
    if told is None:
        with tuned(inputs, url) as source:
            assert pitch(heard(source, 1.0), RATE) == pytest.approx(500, abs=2)
    else:
        assert told in why_not(inputs, url)


def test_plain_http_where_tls_was_meant(nursery: Nursery, radio: Radio) -> None:
    """An https address of a server that speaks http is told as what it is."""
    inputs = node(nursery, private=HERE)
    assert "https://127.0.0.1" in why_not(inputs, radio.url("/live").replace("http:", "https:"))


def test_a_failure_to_resolve_is_told(nursery: Nursery) -> None:
    """A name that nobody knows is named."""

    def unknown(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(SourceFailed, match=r"radio\.example: Name or service not known"):
        Fence(FetchSection(), unknown).addresses("radio.example", 80)
