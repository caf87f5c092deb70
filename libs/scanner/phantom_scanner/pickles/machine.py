"""One pickle stream, run on a stack machine that makes nothing real.

The machine is Python's own unpickler, so memo, marks and frames behave as they do when the file is loaded; what would
look a name up, call it, build it or set its state leaves an inert value instead and is held against the allowlist.
"""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from phantom_scanner.pickles import calls
from phantom_scanner.pickles.allowlist import is_known_bad, kind_of
from phantom_scanner.pickles.values import Made, MalformedError, Name, bytes_of, dtype_of

_Unpickler: Any = pickle._Unpickler  # type stubs know little of it
TREE = "sklearn.tree._tree.Tree"
WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_WRAPPER_KEYS = frozenset(
    ["subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"]
)
_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
)
_NAMES = {getattr(pickle, name)[0]: name for name in dir(pickle) if name.isupper() and len(name) > 1 and
          isinstance(getattr(pickle, name), bytes) and len(getattr(pickle, name)) == 1}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something in a stream that no honest model needs. `rule` names the kind of it."""

    rule: str
    is_critical: bool
    offset: int
    opcode: str
    what: str

    @property
    def place(self) -> str:
        return f"byte {self.offset} ({self.opcode})"


@dataclass(slots=True)
class Seen:
    """What one run of the machine came across."""

    complaints: list[Complaint] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    texts: list[tuple[int, str | bytes | bytearray]] = field(default_factory=list)
    pairs: list[tuple[int, str, str | bytes]] = field(default_factory=list)
    boosters: list[tuple[int, bytes]] = field(default_factory=list)  # XGBoost documents inside
    trees: list[tuple[int, Made]] = field(default_factory=list)  # scikit-learn's, with their states
    wrappers: int = 0
    end: int = 0  # where the stream ended


_TEXT_OPCODES = frozenset(
    each[0]
    for each in (
        *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
        *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES),
        *(pickle.BINBYTES8, pickle.BYTEARRAY8),
    )
)


class Machine(_Unpickler):  # type: ignore[misc]
    """Reads one stream at the file's position. `is_joblib`: numpy payloads follow their wrappers, as joblib reads."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, framework: str, seen: Seen, *, is_joblib: bool) -> None:
        super().__init__(file)
        self._file = file
        self._size = file.getbuffer().nbytes
        self._framework = framework
        self._is_joblib = is_joblib
        self.seen = seen
        self.offset = 0
        self.opcode = 0

    def run(self) -> None:
        """To the STOP of the stream; MalformedError where it has none, or could not be loaded."""
        unframer = pickle._Unframer(self._file.read, self._file.readline)  # type: ignore[attr-defined]
        self._unframer = unframer
        self.read, self.readinto, self.readline = unframer.read, unframer.readinto, unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        try:
            self._run()
        except pickle._Stop:  # type: ignore[attr-defined]
            if self._rest_of_frame():
                raise MalformedError(f"the stream ends at {self.place}, but its frame goes on") from None
            self.seen.end = self._file.tell()
        except _ERRORS as error:
            raise MalformedError(f"{self.place}: {type(error).__name__}: {error!s:.120}") from error

    def _run(self) -> None:
        while True:
            self.offset = self._file.tell() - self._rest_of_frame()
            key = self.read(1)
            if not key:
                raise EOFError("the stream has no STOP")
            self.opcode = key[0]
            if self.opcode not in self.dispatch:
                raise pickle.UnpicklingError(f"there is no opcode {self.opcode:#04x}")
            self.dispatch[self.opcode](self)
            if self.opcode in _TEXT_OPCODES:
                self.seen.texts.append((self.offset, self.stack[-1]))

    @property
    def place(self) -> str:
        return f"byte {self.offset} ({_NAMES.get(self.opcode, hex(self.opcode))})"

    def complain(self, rule: str, what: str, *, is_critical: bool = True) -> None:
        opcode = _NAMES.get(self.opcode, hex(self.opcode))
        self.seen.complaints.append(Complaint(rule, is_critical, self.offset, opcode, what[:400]))

    def _rest_of_frame(self) -> int:
        frame = self._unframer.current_frame
        return len(frame.getbuffer()) - frame.tell() if frame else 0

    # -- names -------------------------------------------------------------------------------------------------
    def find_class(self, module: str, name: str) -> Any:
        if self.proto < 3 and self.fix_imports:  # as the real one translates Python 2's names
            if (module, name) in pickle._compat_pickle.NAME_MAPPING:  # type: ignore[attr-defined]
                module, name = pickle._compat_pickle.NAME_MAPPING[(module, name)]  # type: ignore[attr-defined]
            elif module in pickle._compat_pickle.IMPORT_MAPPING:  # type: ignore[attr-defined]
                module = pickle._compat_pickle.IMPORT_MAPPING[module]  # type: ignore[attr-defined]
        self.seen.names.add(f"{module}.{name}")
        if kind_of(module, name, self._framework) is None:
            whose = f"a {self._framework} model" if self._framework else "a model"
            self.complain(
                "pickle.global",
                f"names {module}.{name}, which is not on the list of what {whose} may name",
                is_critical=is_known_bad(module, name),
            )
        return Name(module, name)

    def get_extension(self, code: int) -> None:
        self.complain(
            "pickle.extension", f"names the extension {code}, which only the loading process can resolve"
        )
        self.append(Name("copyreg", f"extension {code}"))

    def persistent_load(self, pid: Any) -> Any:
        self.complain("pickle.persistent_id", f"refers to the object {pid!r:.60} outside of the file")
        return Made(Name("pickle", "persistent_load"), ())

    def refuse_instance(self) -> None:
        """INST and OBJ: a call that no pickler of Python 3 writes."""
        if self.opcode == pickle.INST[0]:
            module, name = self.readline()[:-1].decode("ascii"), self.readline()[:-1].decode("ascii")
            called, args = self.find_class(module, name), self.pop_mark()
        else:
            args = self.pop_mark()
            called = args.pop(0)
        self.complain(
            "pickle.instance", f"calls {called!s:.100} by an opcode that no pickler of Python 3 writes"
        )
        self.append(self._made(called, tuple(args)))

    # -- calls -------------------------------------------------------------------------------------------------
    def call(self, called: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError("the arguments of a call are no tuple")
        if not isinstance(called, Name):
            self.complain("pickle.call", f"calls a {type(called).__name__}, which is no listed name")
            return self._made(called, args)
        if kind_of(called.module, called.name, self._framework) is not None:
            wrong = calls.complaint(called, args)
            if wrong:
                self.complain("pickle.call", wrong)
        return Made(called, args)

    def _made(self, called: Any, args: tuple[Any, ...]) -> Made:
        return Made(called if isinstance(called, Name) else Name("?", type(called).__name__), args)

    def reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def new_object(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args)

    def new_object_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        if kwargs != {}:
            self.complain("pickle.call", "makes an object with named arguments, which no listed type needs")
        self.stack[-1] = self._new(self.stack[-1], args)

    def _new(self, kind: Any, args: Any) -> Any:
        if isinstance(kind, Name) and kind_of(kind.module, kind.name, self._framework) == "reconstructor":
            self.complain("pickle.call", f"makes an object of the function {kind}")
        return self.call(kind, args)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Made):
            what = str(target) if isinstance(target, Name) else f"a {type(target).__name__}"
            self.complain("pickle.build", f"sets the state of {what}, which is no object that it made")
            return
        wrong = calls.state_complaint(target, state)
        if wrong:
            self.complain("pickle.build", wrong)
        target.state, target.is_built = state, True
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self._remember(part.items())
                self._booster(target, part)
        if str(target.of) == TREE:
            self.seen.trees.append((self.offset, target))
        if str(target.of) == WRAPPER:
            self._wrapper(state)

    def _booster(self, target: Made, state: dict[Any, Any]) -> None:
        handle = bytes_of(state.get("handle"))
        if str(target.of) == "xgboost.core.Booster" and handle is not None:
            self.seen.boosters.append((self.offset, handle))

    # -- items -------------------------------------------------------------------------------------------------
    def _remember(self, items: Any) -> None:
        for key, value in items:
            if isinstance(key, str) and isinstance(value, str | bytes) and value:
                self.seen.pairs.append((self.offset, key, value))

    def extend(self, target: Any, items: list[Any], kind: type) -> None:
        if isinstance(target, kind):
            if isinstance(target, list):
                target.extend(items)
            else:
                target.update(items)  # type: ignore[attr-defined]
        elif not (kind is dict and calls.takes_items(target)):
            what = target.of if isinstance(target, Made) else type(target).__name__
            self.complain("pickle.items", f"adds items to {what!s:.100}, which takes none")
            return
        if kind is dict:
            self._remember(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.extend(self.stack[-1], [(key, value)], dict)

    def set_items(self) -> None:
        items = self.pop_mark()
        self.extend(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)), dict)

    def append_one(self) -> None:
        value = self.stack.pop()
        self.extend(self.stack[-1], [value], list)

    def append_many(self) -> None:
        items = self.pop_mark()
        self.extend(self.stack[-1], items, list)

    def add_items(self) -> None:
        items = self.pop_mark()
        self.extend(self.stack[-1], items, set)

    def make_dict(self) -> None:
        items = self.pop_mark()
        pairs = list(zip(items[::2], items[1::2], strict=True))
        self._remember(pairs)
        self.append(dict(pairs))

    # -- bytes -------------------------------------------------------------------------------------------------
    def byte_array(self) -> None:
        (size,) = pickle.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        if size > self._size:  # the real one would reserve the memory before it looks
            raise pickle.UnpicklingError(f"a bytearray of {size} bytes in a file of {self._size}")
        value = bytearray(size)
        self.readinto(value)
        self.append(value)

    def foreign_buffer(self) -> None:
        raise pickle.UnpicklingError("a buffer outside of the file is needed")

    def _wrapper(self, state: Any) -> None:
        """joblib: an array's bytes follow the BUILD of its wrapper."""
        self.seen.wrappers += 1
        if not self._is_joblib:
            return
        if not isinstance(state, dict) or set(state) != _WRAPPER_KEYS:
            raise MalformedError(
                f"{self.place}: an array's wrapper is not joblib's (save with joblib 1.2 or newer)"
            )
        if self._rest_of_frame():
            raise MalformedError(f"{self.place}: more of the frame follows where an array's bytes must begin")
        if not isinstance(state["subclass"], Name) or str(state["subclass"]) != "numpy.ndarray":
            self.complain("pickle.call", f"an array of the type {state['subclass']!s:.80}")
        dtype = dtype_of(state["dtype"])
        if dtype.has_object:
            self._inner_stream()
            self.stack[-1] = Made(Name("numpy", "ndarray"), (state,))
        else:
            self.stack[-1] = Made(Name("numpy", "ndarray"), (state, self._array_bytes(state, dtype.itemsize)))

    def _inner_stream(self) -> None:
        inner = Machine(self._file, self._framework, self.seen, is_joblib=False)
        before = self.seen.wrappers
        inner.run()
        if self.seen.wrappers != before:
            self.complain("pickle.nested", "an array's wrapper inside an array of objects")

    def _array_bytes(self, state: dict[str, Any], itemsize: int) -> bytes:
        """What joblib would fill the array with."""
        shape = state["shape"]
        if not isinstance(shape, tuple) or not all(type(each) is int and each >= 0 for each in shape):
            raise MalformedError(f"{self.place}: an array has the shape {shape!r:.60}")
        if state["numpy_array_alignment_bytes"] != 16 or state["order"] not in ("C", "F"):
            raise MalformedError(
                f"{self.place}: an array's wrapper has an alignment or order that joblib never writes"
            )
        start = self._file.tell()
        padding = self._file.read(1)
        # Nothing below 17 is an opcode, so no plain unpickler gets past this byte and reads the array as a program.
        if not padding or not 1 <= padding[0] <= 16 or self._file.read(padding[0]) != b"\xff" * padding[0]:
            raise MalformedError(f"byte {start}: the padding before an array is not joblib's")
        size = itemsize
        for each in shape:
            size *= each
            if size > self._size and 0 not in shape:
                break
        left = self._size - self._file.tell()
        if size > left:
            raise MalformedError(f"{self.place}: an array of {size} bytes, but {left} bytes are left")
        return self._file.read(size)


Machine.dispatch.update(
    {
        pickle.INST[0]: Machine.refuse_instance,
        pickle.OBJ[0]: Machine.refuse_instance,
        pickle.REDUCE[0]: Machine.reduce,
        pickle.NEWOBJ[0]: Machine.new_object,
        pickle.NEWOBJ_EX[0]: Machine.new_object_ex,
        pickle.BUILD[0]: Machine.build,
        pickle.APPEND[0]: Machine.append_one,
        pickle.APPENDS[0]: Machine.append_many,
        pickle.SETITEM[0]: Machine.set_item,
        pickle.SETITEMS[0]: Machine.set_items,
        pickle.ADDITEMS[0]: Machine.add_items,
        pickle.DICT[0]: Machine.make_dict,
        pickle.BYTEARRAY8[0]: Machine.byte_array,
        pickle.NEXT_BUFFER[0]: Machine.foreign_buffer,
        pickle.READONLY_BUFFER[0]: Machine.foreign_buffer,
    }
)
