"""Honest pickles pass, whatever wrote them; dishonest ones fail, whichever way they reach for what they want."""

import pickle
import struct
import zlib

import numpy as np
import pytest

from phantom_scanner.limits import Limits
from phantom_scanner.tests.conftest import begin, call, called, dumped_by_joblib, named, text, with_frames


def rules(report):
    return {each.id for each in report.findings if each.severity != "info"}


# -- honest ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_an_honest_pipeline_passes_in_every_protocol(protocol, pipelines, look):
    assert len(pipelines) >= 20
    for name, estimator in pipelines.items():
        if protocol < 2 and name not in ("logistic", "forest", "xgboost"):
            continue
        report = look(pickle.dumps(estimator, protocol=protocol))
        assert report.verdict == "pass", (name, report.findings)
        assert report.format == "pickle"


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_an_honest_joblib_file_passes_packed_or_not(compress, pipelines, look):
    for name, estimator in pipelines.items():
        if compress and name not in ("logistic", "forest", "histogram boosting", "xgboost"):
            continue
        report = look(dumped_by_joblib(estimator, compress))
        assert report.verdict == "pass", (name, report.findings)


def test_honest_values_beside_a_model_pass(look):
    values = [
        np.arange(5),
        np.array(["a", "b"], dtype=object),
        np.array(["x", "yy"]),
        np.float64(1),
        np.datetime64("2020-01-01"),
        np.zeros(3, dtype=[("a", "f4"), ("b", "i8")]),
        np.random.default_rng(0),
        {1, 2},
        frozenset([1]),
        b"raw",
        bytearray(b"x"),
        2**70,
        1 + 2j,
        slice(1, 2),
        range(3),
    ]
    for protocol in range(2, 6):
        assert look(pickle.dumps(values, protocol=protocol)).verdict == "pass"
    assert look(dumped_by_joblib(values)).verdict == "pass"


def test_several_pickles_behind_one_another_are_all_read(pipelines, look):
    honest = pickle.dumps(pipelines["logistic"])
    both = look(honest + honest)
    assert both.verdict == "pass"
    assert "2 pickles" in both.notes[0]
    hostile = look(honest + called("os", "system", "id"))
    assert hostile.verdict == "fail"
    assert any(
        f"byte {len(honest)}" in each.location or "os.system" in each.evidence for each in hostile.findings
    )


def test_bytes_behind_the_last_pickle_fail(pipelines, look):
    report = look(pickle.dumps(pipelines["bayes"]) + b"\x00\x01 more")
    assert rules(report) == {"pickle.trailing"}


# -- dishonest ---------------------------------------------------------------------------------------------------
HOSTILE = {
    "os.system": called("os", "system", "id"),
    "posix.system": called("posix", "system", "id", protocol=2),
    "eval": called("builtins", "eval", "1"),
    "exec by its old name": called("__builtin__", "eval", "1", protocol=2),
    "getattr chain": begin()
    + call("builtins", "getattr", call("builtins", "__import__", "os"), "system")
    + b"("
    + text("id")
    + b"tR.",
    "compile": called("builtins", "compile", "1", "x", "eval"),
    "dotted name": called("numpy", "core.multiarray.os.system", "id"),
    "dotted name of a listed type": called("sklearn.pipeline", "Pipeline.__init__"),
    "builtins through numpy": called("numpy", "__builtins__"),
    "numpy.f2py": called("numpy.f2py.crackfortran", "getlincoef", "1", "x"),
    "numpy.f2py.compile": called("numpy.f2py", "compile", "x"),
    "numpy.testing": called("numpy.testing._private.utils", "runstring", "1", "x"),
    "numpy.testing.run_module_suite": called("numpy.testing", "run_module_suite"),
    "partial": called("functools", "partial", named("os", "system", 4)),
    "attrgetter": called("operator", "attrgetter", "system"),
    "methodcaller": called("operator", "methodcaller", "system", "id"),
    "runpy": called("runpy", "_run_code", "1"),
    "pip": called("pip._internal.cli.main", "main", "install"),
    "pip main": called("pip", "main", "install"),
    "joblib.load": called("joblib", "load", "/tmp/x"),
    "joblib's evaluate": called("joblib._parallel_backends", "eval"),
    "pickle.loads": called("pickle", "loads", "x"),
    "pandas.read_pickle": called("pandas.io.pickle", "read_pickle", "/tmp/x"),
    "numpy.load": called("numpy", "load", "/tmp/x"),
    "sklearn's own function": called("sklearn.datasets._base", "load_files", "/tmp"),
    "torch": called("torch.serialization", "load", "x"),
    "timeit": called("timeit", "timeit", "1"),
    "code of one's own": called("types", "CodeType"),
    "import of a module": called("importlib", "import_module", "os"),
    "ssl server": called("http.server", "test"),
    "ctypes": called("ctypes", "CDLL", "libc.so.6"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_call_fails_and_names_what_it_calls(name, look):
    report = look(HOSTILE[name])
    assert report.verdicts["malware_scan"] == "fail", report.findings
    found = next(each for each in report.findings if each.id == "pickle.global")
    assert found.location.startswith("byte ")
    assert "(STACK_GLOBAL)" in found.location or "(GLOBAL)" in found.location


def test_the_finding_names_the_module_the_name_and_the_opcodes_place(look):
    report = look(called("os", "system", "id"))
    found = next(each for each in report.findings if each.id == "pickle.global")
    assert (found.location, found.severity) == ("byte 14 (STACK_GLOBAL)", "critical")
    assert "os.system" in found.evidence


def test_a_name_hidden_in_the_memo_is_seen_as_the_machine_sees_it(look):
    # memo 0 is overwritten between its putting and its getting: whoever reads the strings in order sees "collections".
    opcodes = (
        text("collections") + b"q\x00" + text("os") + b"q\x000" + b"0" + b"h\x00" + text("system") + b"\x93"
    )
    report = look(begin() + opcodes + b"(" + text("id") + b"tR.")
    assert any("names os.system" in each.evidence for each in report.findings)


def test_a_duplicated_and_popped_name_is_seen_as_the_machine_sees_it(look):
    opcodes = text("os") + b"2" + text("path") + b"0" + b"0" + text("system") + b"\x93"
    report = look(with_frames(opcodes + b"(" + text("id") + b"tR."))
    assert any("names os.system" in each.evidence for each in report.findings)


def test_old_instance_opcodes_fail_even_for_listed_names(look):
    inst = b"(S'id'\nios\nsystem\n."
    report = look(inst)
    assert {"pickle.instance", "pickle.global"} <= rules(report)
    assert any("os.system" in each.evidence for each in report.findings)
    obj = b"(" + b"ccollections\nOrderedDict\n" + b"o."
    assert "pickle.instance" in rules(look(begin(2) + obj))


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_an_extension_code_fails(opcode, look):
    assert "pickle.extension" in rules(look(begin(2) + opcode + b"."))


@pytest.mark.parametrize("opcodes", [b"(Pabc\n.", b"\x80\x02X\x03\x00\x00\x00abcQ."])
def test_an_object_outside_of_the_file_fails(opcodes, look):
    assert "pickle.persistent_id" in rules(look(opcodes, ""))


@pytest.mark.parametrize(
    "attribute", ["__setstate__", "__reduce__", "__class__", "__reduce_ex__", "__getattr__"]
)
def test_a_state_that_sets_a_special_attribute_fails(attribute, look):
    made = named("sklearn.dummy", "DummyClassifier", 4) + b")\x81"
    in_dict = made + b"}" + text(attribute) + b"K\x01sb."
    in_slots = made + b"N}" + text(attribute) + b"K\x01s\x86b."
    for opcodes in (in_dict, in_slots):
        assert "pickle.build" in rules(look(begin() + opcodes))


def test_the_state_of_a_class_itself_or_a_second_state_fails(look):
    on_class = named("sklearn.dummy", "DummyClassifier", 4) + b"N}" + text("predict") + b"K\x01s\x86b."
    assert "pickle.build" in rules(look(begin() + on_class))
    twice = named("sklearn.dummy", "DummyClassifier", 4) + b")\x81}b}b."
    assert "pickle.build" in rules(look(begin() + twice))


def test_a_listed_function_may_not_be_given_another_name_to_call(look):
    gadget = call(
        "numpy.random._pickle", "__randomstate_ctor", "MT19937", named("collections", "OrderedDict", 4)
    )
    assert "pickle.call" in rules(look(begin() + gadget + b"."))
    rebuilt = call(
        "copyreg",
        "_reconstructor",
        named("sklearn.dummy", "DummyClassifier", 4),
        named("builtins", "dict", 4),
        b"}",
    )
    assert "pickle.call" in rules(look(begin() + rebuilt + b"."))
    huge = call(
        "numpy._core.multiarray",
        "_reconstruct",
        named("numpy", "ndarray", 4),
        b"J\xff\xff\xff\x7f\x85",
        b"C\x01b",
    )
    assert "pickle.call" in rules(look(begin() + huge + b"."))
    assert "pickle.call" in rules(look(called("sklearn.pipeline", "Pipeline", "steps")))


def test_calling_what_a_call_made_fails(look):
    twice = begin() + call("collections", "OrderedDict") + b"(" + text("x") + b"tR."
    assert "pickle.call" in rules(look(twice))


def test_items_may_be_set_on_containers_only(look):
    made = named("sklearn.dummy", "DummyClassifier", 4) + b")\x81"
    assert "pickle.items" in rules(look(begin() + made + text("a") + b"K\x01s."))
    assert "pickle.items" in rules(look(begin() + made + b"K\x01a."))


def test_a_pickle_inside_of_bytes_is_read_too(look):
    inner = called("os", "system", "id")
    for packed in (
        inner,
        dumped_by_joblib({"x": 1})[:0] + inner,
        zlib.compress(inner),
        called("os", "system", "id", protocol=2),
    ):
        for protocol in (2, 4):
            report = look(pickle.dumps({"blob": packed, "n": 1}, protocol=protocol))
            assert any(
                each.id == "pickle.nested" and "os.system" in each.evidence for each in report.findings
            )
    twice = pickle.dumps({"blob": pickle.dumps({"blob": inner})})
    assert any("os.system" in each.evidence for each in look(twice).findings)


def test_a_joblib_file_of_objects_is_read_to_the_bottom(look):
    class Evil:
        def __reduce__(self):
            return (print, ("never run",))

    report = look(dumped_by_joblib({"objects": np.array([Evil()], dtype=object)}))
    assert any("builtins.print" in each.evidence for each in report.findings)
    packed = look(dumped_by_joblib([Evil()], ("zlib", 3)))
    assert any("builtins.print" in each.evidence for each in packed.findings)


def test_a_program_hidden_in_an_arrays_bytes_does_not_pass_for_an_array(look):
    # joblib would step over these bytes; a plain unpickler must not get to run them, so the padding may not go.
    honest = dumped_by_joblib(np.frombuffer(called("os", "system", "id").ljust(64, b"."), dtype=np.uint8))
    assert look(honest).verdict == "pass"
    array = honest.index(called("os", "system", "id"))
    padding = next(at for at in range(array - 1, 0, -1) if honest[at] != 0xFF)
    assert honest[padding] == array - padding - 1 <= 16
    forged = honest[:padding] + b"." + honest[padding + 1 :]
    assert look(forged).verdict == "fail"
    old = honest.replace(b"numpy_array_alignment_bytes", b"numpy_array_alignment_bytez")
    assert look(old).verdict == "fail"


def test_an_array_that_announces_more_than_the_file_holds_fails(look):
    honest = dumped_by_joblib(np.arange(300, dtype=np.int64))
    report = look(honest[:-400])
    assert report.verdict == "fail"
    assert any("are left" in each.evidence for each in report.findings)


def test_more_opcodes_behind_a_wrapper_in_its_frame_fail(look):
    honest = dumped_by_joblib(np.arange(3, dtype=np.int64))
    frame = honest.index(b"\x95")
    (size,) = struct.unpack_from("<Q", honest, frame + 1)
    end = frame + 9 + size
    evil = call("os", "system", "id")
    forged = (
        honest[: frame + 1]
        + struct.pack("<Q", size + len(evil))
        + honest[frame + 9 : end]
        + evil
        + honest[end:]
    )
    assert look(forged).verdict == "fail"


def test_what_breaks_off_or_is_too_large_fails_and_reserves_nothing(look, pipelines):
    whole = pickle.dumps(pipelines["logistic"])
    for length in (3, 40, len(whole) // 2, len(whole) - 1):
        assert look(whole[:length]).verdict == "fail"
    assert look(begin(5) + b"\x96" + struct.pack("<Q", 2**60) + b".").verdict == "fail"
    assert look(begin() + b"\x8e" + struct.pack("<Q", 2**62) + b".").verdict == "fail"
    assert look(begin(5) + b"\x97.").verdict == "fail"
    assert look(begin() + b"\x00.").verdict == "fail"


def test_a_packed_bomb_fails_and_is_never_unpacked_whole(look):
    limits = Limits(ratio_from_bytes=1 << 20)
    for packed in (zlib.compress(bytes(30_000_000)), dumped_by_joblib(bytes(3_000_000), ("xz", 6))):
        report = look(packed, limits=limits)
        assert "archive.bomb" in rules(report), report.findings


def test_a_bomb_inside_of_a_pickles_bytes_fails_beside_everything_else(look):
    inner = {"blob": zlib.compress(bytes(30_000_000)), "x": 1}
    report = look(
        pickle.dumps(inner)[:-1] + b"0" + called("os", "system", "id")[2:],
        limits=Limits(ratio_from_bytes=1 << 20),
    )
    assert {"pickle.nested", "pickle.global"} <= rules(report)


def test_bytes_behind_a_packed_stream_fail(look):
    packed = dumped_by_joblib({"a": 1}, ("gzip", 3))
    assert "archive.trailing" in rules(look(packed + packed))


def test_a_damaged_xgboost_booster_inside_a_pickle_is_refused(pipelines, look):
    raw = pickle.dumps(pipelines["xgboost"])
    at = raw.index(b"left_children")
    damaged = bytearray(raw)
    place = raw.index(b"[$l#L", at) + 13 if b"[$l#L" in raw[at : at + 60] else at + 40
    damaged[place : place + 4] = struct.pack(">i", 2_000_000)
    report = look(bytes(damaged))
    assert report.verdicts["structure"] == "fail", report.findings
    assert "booster" in next(each for each in report.findings if each.scan == "structure").location


def test_picklescans_opinion_is_listed_and_does_not_decide(look):
    agreed = look(called("os", "system", "id"))
    assert any(each.by == "picklescan" and each.severity == "info" for each in agreed.findings)
    # Its list of bad names cannot know every module; ours of good ones need not.
    unknown = look(called("sklearn.datasets._base", "load_files", "/tmp"))
    assert unknown.verdict == "fail"
    assert any("disagrees" in note for note in unknown.notes)


def test_random_bytes_and_mutations_never_raise(look, pipelines):
    rng = np.random.default_rng(3)
    whole = pickle.dumps(pipelines["forest"])[:4000]
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(0, 256)
        look(bytes(damaged))
    for _ in range(100):
        look(b"\x80\x04" + rng.bytes(200))


def test_nothing_in_a_scan_imports_or_calls_what_a_pickle_names(look, tmp_path):
    import sys

    witness = tmp_path / "witness"
    for opcodes in (called("os", "system", f"touch {witness}"), b"c__hello__\nmain\n."):
        look(opcodes)
    assert not witness.exists()
    assert "__hello__" not in sys.modules
