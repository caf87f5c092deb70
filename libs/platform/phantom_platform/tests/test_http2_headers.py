"""Header blocks: our short cuts against the hpack library, and what a request's head is made of."""

import random

import hpack
import pytest

from phantom_platform.http2.headers import (
    MAX_HEADER_BYTES,
    HeaderDecoder,
    HeaderEncoder,
    HeaderError,
    TooLargeError,
    literal,
)
from phantom_platform.http2.requests import (
    TRAILERS,
    metadata_block,
    percent_decoded,
    percent_encoded,
    read_binary,
    read_request,
    read_timeout,
)

NAMES = [b":path", b"grpc-timeout", b"user-agent", b"x-words", b"te", b"authorization", b"n" * 130]
VALUES = [b"", b"a", b"trailers", b"/a.B/C", b"v" * 60, b"\xff\x00\x80", b"w" * 127, b"z" * 900]


def library() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=2**20)


def pairs_of(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def random_fields(rng: random.Random) -> list[hpack.HeaderTuple]:
    kinds = (hpack.HeaderTuple, hpack.HeaderTuple, hpack.NeverIndexedHeaderTuple)
    return [rng.choice(kinds)(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.randrange(6))]


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_blocks_reads_as_the_library_reads_it(seed):
    rng = random.Random(seed)
    encoder, theirs, ours = hpack.Encoder(), library(), HeaderDecoder(lambda pairs: pairs)
    sent: list[list[hpack.HeaderTuple]] = []
    for _ in range(150):
        if rng.random() < 0.08:
            encoder.header_table_size = rng.choice((0, 64, 200, 1000, 4096))
        fields = rng.choice(sent) if sent and rng.random() < 0.5 else random_fields(rng)
        sent.append(fields)
        block = encoder.encode(fields, huffman=rng.random() < 0.5)
        if rng.random() < 0.2:
            block += b"".join(literal(*rng.choice([*zip(NAMES, VALUES, strict=False)])) for _ in range(3))
        assert ours.decode(block) == pairs_of(theirs, block)


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_read_as_the_library_reads_them_or_are_refused(seed):
    rng = random.Random(seed)
    encoder = hpack.Encoder()
    theirs, ours = library(), HeaderDecoder(lambda pairs: pairs)
    for _ in range(300):
        block = bytearray(encoder.encode(random_fields(rng), huffman=rng.random() < 0.5))
        for _ in range(rng.randrange(3)):
            if block:
                block[rng.randrange(len(block))] = rng.randrange(256)
        try:
            expected = pairs_of(theirs, bytes(block))
        except Exception:
            with pytest.raises(HeaderError):
                ours.decode(bytes(block))
            return
        assert ours.decode(bytes(block)) == expected


def test_a_table_that_was_emptied_is_not_remembered():
    ours = HeaderDecoder(lambda pairs: pairs)
    added = b"\x40\x01a\x01b"
    assert ours.decode(added) == [(b"a", b"b")]
    assert ours.decode(b"\xbe") == [(b"a", b"b")]  # the newest entry, and the block is remembered
    ours.decode(b"\x20")  # size 0
    with pytest.raises(HeaderError):
        ours.decode(b"\xbe")


def test_a_size_update_is_applied_each_time_it_comes():
    ours, theirs = HeaderDecoder(lambda pairs: pairs), library()
    full = b"\x3f\xe1\x1f"  # size 4096
    for block in (b"\x20", full, b"\x20", full, b"\x40\x01a\x01b", b"\xbe"):
        assert ours.decode(block) == pairs_of(theirs, block)


def test_a_list_that_is_too_large_leaves_the_table_as_the_peer_has_it():
    encoder, ours = hpack.Encoder(), HeaderDecoder(lambda pairs: pairs)
    large = [(b"first", b"kept")] + [(b"x", b"y" * 1000)] * 17
    with pytest.raises(TooLargeError, match=str(MAX_HEADER_BYTES)):
        ours.decode(encoder.encode(large, huffman=False))
    assert ours.decode(encoder.encode([(b"x", b"y" * 1000), (b"z", b"1")])) == [
        (b"x", b"y" * 1000),
        (b"z", b"1"),
    ]


def test_a_bomb_of_indexed_fields_is_not_unpacked():
    ours = HeaderDecoder(lambda pairs: pairs)
    ours.decode(b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4000)
    with pytest.raises(HeaderError):
        ours.decode(b"\xbe" * 10_000)


@pytest.mark.parametrize("table_bytes", [0, 100, 4095, 4096, 65_536])
def test_what_we_write_the_library_reads(table_bytes):
    ours, theirs = HeaderEncoder(), hpack.Decoder()
    theirs.max_allowed_table_size = min(table_bytes, 4096)
    ours.limit(table_bytes)
    rng = random.Random(table_bytes)
    for _ in range(300):
        fields = [
            (rng.choice(NAMES), rng.choice(VALUES) + b"%d" % rng.randrange(9))
            for _ in range(rng.randrange(1, 5))
        ]
        block = ours.start() + b"".join(
            ours.repeated(*each) if rng.random() < 0.7 else literal(*each) for each in fields
        )
        assert pairs_of(theirs, block) == fields


@pytest.mark.parametrize("seed", range(10))
def test_blocks_that_are_kept_hold_until_the_table_changes(seed):
    ours, theirs, rng = HeaderEncoder(), hpack.Decoder(), random.Random(seed)
    fields = [(name, value) for name in NAMES for value in VALUES]
    kept = [tuple(rng.sample(fields, rng.randrange(4))) for _ in range(6)]
    for at in range(300):
        if at == 250:
            theirs.max_allowed_table_size = 100
            ours.limit(100)
        if rng.random() < 0.1:
            name, value = rng.choice(fields)
            assert pairs_of(theirs, ours.start() + ours.repeated(name, value)) == [(name, value)]
        said = rng.choice(kept)
        assert pairs_of(theirs, ours.block(b"\x88", said)) == [(b":status", b"200"), *said]


def test_a_table_that_shrinks_later_is_left_alone_from_then_on():
    ours, theirs = HeaderEncoder(), hpack.Decoder()
    first = ours.start() + ours.repeated(b"a", b"b")
    assert pairs_of(theirs, first) == [(b"a", b"b")]
    ours.limit(0)
    theirs.max_allowed_table_size = 0
    ours.limit(4096)
    block = ours.start() + ours.repeated(b"a", b"b")
    assert pairs_of(theirs, block) == [(b"a", b"b")]


# -- heads of requests -----------------------------------------------------------------------------------------------

HEAD = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b"content-type", b"application/grpc"),
]


@pytest.mark.parametrize(
    "more",
    [
        [(b":path", b"/again")],
        [(b":status", b"200")],
        [(b"X-Upper", b"1")],
        [(b"a b", b"1")],
        [(b"", b"1")],
        [(b"connection", b"close")],
        [(b"te", b"gzip")],
        [(b"x", b"line\nfeed")],
        [(b"x", b"nul\0")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"9" * 400)],
    ],
)
def test_a_head_that_http_forbids_is_no_request(more):
    assert read_request([*HEAD, *more]) is None


def test_a_head_without_what_http_asks_for_is_no_request():
    for left_out in range(3):
        assert read_request([pair for at, pair in enumerate(HEAD) if at != left_out]) is None
    assert read_request([(b"x", b"1")]) is TRAILERS


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_only_grpc_is_grpc(content_type, is_grpc):
    head = read_request([*HEAD[:3], (b"content-type", content_type)])
    assert head is not None
    assert head.is_grpc is is_grpc


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1S", 1.0),
        (b"20m", 0.02),
        (b"3H", 10_800.0),
        (b"2M", 120.0),
        (b"99999999n", 0.099999999),
        (b"5u", 5e-6),
        (b"", None),
        (b"S", None),
        (b"123456789S", None),
        (b"1.5S", None),
        (b"-1S", None),
        (b"1s", None),
        (b"1\xb2", None),
        (b"\xb21S", None),
    ],
)
def test_a_timeout_is_digits_and_a_unit(text, seconds):
    assert read_timeout(text) == pytest.approx(seconds)
    head = read_request([*HEAD, (b"grpc-timeout", text)])
    assert head is not None
    assert head.bad == ("grpc-timeout" if seconds is None else "")


def test_binary_metadata_comes_padded_or_not_and_joined_with_commas():
    assert read_binary(b"AAE") == read_binary(b"AAE=") == [b"\x00\x01"]
    assert read_binary(b"AAE,AAI=, AAM") == [b"\x00\x01", b"\x00\x02", b"\x00\x03"]
    assert read_binary(b"") == [b""]
    for wrong in (b"A", b"A*==", b"\xff\xff"):
        assert read_binary(wrong) is None


def test_metadata_that_http_cannot_say_is_refused():
    assert metadata_block((("a", "b"), ("c-bin", b"\x00"))) == b"\x00\x01a\x01b\x00\x05c-bin\x02AA"
    for name, value in (
        ("Upper", "x"),
        ("a b", "x"),
        ("", "x"),
        (":path", "x"),
        ("x", "ü"),
        ("x", "a\r\nb: c"),
    ):
        with pytest.raises(ValueError, match="metadata"):
            metadata_block(((name, value),))
    with pytest.raises(TypeError):
        metadata_block((("x", 1),))


@pytest.mark.parametrize("text", ["", "plain", "100 %", "ümläut\n", "%41", "\x00\x7f", "日本語", "\ud800"])
def test_a_status_message_survives_percent_encoding(text):
    encoded = percent_encoded(text)
    assert encoded.isascii()
    assert percent_decoded(encoded) == text.encode("utf-8", "replace").decode()


def test_a_malformed_escape_stays_as_it_is():
    assert percent_decoded(b"50% %zz %+f %4") == "50% %zz %+f %4"
    assert percent_decoded(b"%FF") == "\ufffd"
