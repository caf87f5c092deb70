"""Archives whose names, links, headers or sizes are not what they seem."""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from phantom_scanner.limits import Limits
from phantom_scanner.tests.conftest import called


def rules(report):
    return {each.id for each in report.findings if each.severity != "info"}


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name) if isinstance(name, str) else name, data, method)
    return bytearray(file.getvalue())


def tarred(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="session")
def skops_file(pipelines, tmp_path_factory):
    import skops.io

    path = tmp_path_factory.mktemp("skops") / "model"
    skops.io.dump(pipelines["logistic"], path)
    return path.read_bytes()


def test_an_honest_skops_file_passes(skops_file, look):
    report = look(skops_file)
    assert (report.verdict, report.format) == ("pass", "skops"), report.findings


def test_a_skops_file_with_an_unlisted_type_fails(skops_file, look):
    with zipfile.ZipFile(io.BytesIO(skops_file)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    changed = [
        (n, d.replace(b'"LogisticRegression"', b'"system"').replace(b"sklearn.linear_model._logistic", b"os"))
        for n, d in members
    ]
    report = look(bytes(zipped(*changed)))
    assert any("os.system" in each.evidence for each in report.findings)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "C:/x", "a\\..\\x", "a\nb", "..\\x"])
def test_a_name_that_leads_elsewhere_fails(name, look):
    assert "archive.path" in rules(look(bytes(zipped((name, b"1")))))
    if "\\" not in name:
        assert "archive.path" in rules(look(tarred((tarfile.TarInfo(name), b"1"))))


def test_links_and_devices_fail(look):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    assert "archive.link" in rules(look(bytes(zipped((link, b"/etc/passwd")))))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        assert "archive.link" in rules(look(tarred((info, b""))))


def test_names_that_come_twice_fail_also_but_for_case(look):
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(("schema.json", b"{}"), ("schema.json", b"[]"))
    assert "archive.duplicate" in rules(look(bytes(twice)))
    assert "archive.duplicate" in rules(look(bytes(zipped(("a.npy", b"1"), ("A.npy", b"2")))))
    assert "archive.duplicate" in rules(
        look(tarred((tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a"), b"2")))
    )


def test_a_bomb_fails_by_ratio_by_size_and_by_number(look):
    limits = Limits(ratio_from_bytes=1 << 20, members=50)
    assert "archive.bomb" in rules(look(bytes(zipped(("a", bytes(8_000_000)))), limits=limits))
    many = zipped(*((str(n), b"") for n in range(60)))
    assert "archive.bomb" in rules(look(bytes(many), limits=limits))
    small = Limits(unpacked_bytes=1000)
    assert "archive.bomb" in rules(look(bytes(zipped(("a", bytes(range(256)) * 8))), limits=small))


def test_a_size_that_the_headers_hide_does_not_get_past(look):
    data = zipped(("a", bytes(2_000_000)))
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, central + 24, 10)  # the directory says 10 bytes
    assert rules(look(bytes(data))) & {"archive.mismatch", "archive.corrupt"}


FLAG_TRICKS = {
    "encrypted in the directory": ("central", 8, 0x01),
    "encrypted in the header": ("local", 6, 0x01),
    "strongly encrypted": ("central", 8, 0x40),
    "masked headers": ("local", 6, 0x2000),
    "another method in the header": ("local", 8, 0x63),
    "another method in the directory": ("central", 10, 0x63),
    "another checksum in the header": ("local", 14, 0x1234),
    "another checksum in the directory": ("central", 16, 0x1234),
    "another size in the header": ("local", 22, 0x7),
    "another name length in the header": ("local", 26, 0x2),
}


@pytest.mark.parametrize("trick", FLAG_TRICKS)
def test_a_header_that_says_something_else_than_the_directory_fails(trick, look):
    which, offset, value = FLAG_TRICKS[trick]
    data = zipped(("data.pkl", called("os", "system", "id")))
    at = data.rindex(b"PK\x01\x02") if which == "central" else 0
    (before,) = struct.unpack_from("<H", data, at + offset)
    struct.pack_into("<H", data, at + offset, before ^ value)
    report = look(bytes(data))
    assert report.verdicts["malware_scan"] == "fail"
    assert any(each.id.startswith("archive.") for each in report.findings), report.findings


def test_the_name_in_the_header_must_be_the_directorys(look):
    data = zipped(("model.json", b"{}"))
    data[30:40] = b"model.pkl\x00"
    assert "archive.mismatch" in rules(look(bytes(data)))


def test_bytes_around_a_zip_file_and_a_second_end_fail(look):
    data = bytes(zipped(("a", b"1")))
    assert "archive.trailing" in rules(look(data + b"more"))
    assert look(b"more" + data).verdict != "pass"
    other = bytes(zipped(("b", b"2")))
    assert {"archive.prefix", "archive.ambiguous"} & rules(look(data + other))


def test_members_that_share_bytes_fail(look):
    data = zipped(("a", b"1" * 50), ("b", b"1" * 50), method=zipfile.ZIP_STORED)
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, central + 42, 0)  # b is where a is
    found = rules(look(bytes(data)))
    assert {"archive.overlap", "archive.mismatch"} & found


def test_a_pickle_inside_an_archive_is_read_by_its_content_whatever_its_name(look):
    evil = called("os", "system", "id")
    for packed in (
        bytes(zipped(("weights.json", evil))),
        tarred((tarfile.TarInfo("readme.txt"), evil)),
        bytes(zipped(("inner", bytes(zipped(("innermost", evil)))))),
        bytes(zipped(("inner", zlib.compress(evil)))),
    ):
        report = look(packed)
        found = [each for each in report.findings if "os.system" in each.evidence and each.by == "phantom"]
        assert found, report.findings
        assert ": byte" in found[0].location


def test_objects_in_a_numpy_file_are_read_as_the_pickle_they_are(look):
    class Evil:
        def __reduce__(self):
            return (print, ("never run",))

    file = io.BytesIO()
    np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    report = look(bytes(zipped(("a.npy", file.getvalue()))))
    assert any("builtins.print" in each.evidence for each in report.findings)
    plain = io.BytesIO()
    np.save(plain, np.arange(3))
    assert look(bytes(zipped(("a.npy", plain.getvalue())))).verdicts["malware_scan"] == "pass"
    assert look(b"\x93NUMPY\x01\x00\xff\xff{}").verdict == "fail"


def test_archives_nested_too_deeply_fail(look):
    data = b"1"
    for _ in range(8):
        data = bytes(zipped(("a", data)))
    assert "archive.depth" in rules(look(data))


@pytest.mark.parametrize("start", [b"\x7fELF\x02\x01", b"MZ\x90\x00", b"#!/bin/sh\nid\n"])
def test_a_program_in_a_models_place_fails(start, look):
    assert "program" in rules(look(start + bytes(100)))
    assert "program" in rules(look(bytes(zipped(("model.onnx", start + bytes(100))))))


def test_an_archive_that_is_no_model_fails_its_structure(look):
    assert "structure.unknown_format" in rules(look(bytes(zipped(("a.txt", b"hello")))))


def test_what_is_of_no_known_kind_is_not_assessed_and_blocks(look):
    report = look(b"\x01\x02\x03 what is this?" * 10)
    assert report.verdicts["malware_scan"] == "not_assessed"
    assert report.blocks
    assert look(b"").blocks


def test_mutations_of_archives_never_raise(skops_file, look):
    rng = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(skops_file)
        for place in rng.integers(0, len(damaged), 2):
            damaged[place] = rng.integers(0, 256)
        look(bytes(damaged))
