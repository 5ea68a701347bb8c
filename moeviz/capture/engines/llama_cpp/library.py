"""llama.cpp's own library, out of the package llama-cpp-py-sync, and whether its memory is laid out as we read it.

The package brings the layouts of the very llama.h that its library was built from. All the same nothing is read before
each struct has been checked: structs that are passed by value are measured, defaults are compared, and a tensor that
the library made is read through these layouts.
"""

import ctypes
import logging
import platform
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moeviz.errors import CaptureError

log = logging.getLogger("moeviz.capture")
PACKAGE = "llama_cpp_py_sync"
F32, F16, I32 = 0, 1, 26
TENSOR = """
    struct ggml_tensor { int type; void * buffer; int64_t ne[4]; size_t nb[4]; int op; int32_t op_params[16];
        int32_t flags; void * src[10]; void * view_src; size_t view_offs; void * data; char name[64]; };
    struct ggml_init_params { size_t mem_size; void * mem_buffer; bool no_alloc; };
    void * ggml_init(struct ggml_init_params params);
    void ggml_free(void * context);
    struct ggml_tensor * ggml_new_tensor_4d(void *, int type, int64_t, int64_t, int64_t, int64_t);
    struct ggml_tensor * ggml_view_2d(void *, struct ggml_tensor *, int64_t, int64_t, size_t nb1, size_t offset);
    struct ggml_tensor * ggml_set_name(struct ggml_tensor *, const char *);
    char * ggml_get_name(const struct ggml_tensor *);
    const char * ggml_op_desc(const struct ggml_tensor *);
    size_t ggml_nbytes(const struct ggml_tensor *);
    void ggml_backend_tensor_get(const struct ggml_tensor *, void * data, size_t offset, size_t size);
"""
ROOM, WORD = 1024, 8  # bytes: more than any struct of parameters takes; what structs are rounded up to


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """The functions of llama.cpp, and those of ggml beneath it, each with what makes its values."""

    ffi: Any
    llama: Any
    ggml_ffi: Any
    ggml: Any
    ggml_path: Path
    version: str
    # The last warnings of its log. They may hold paths, so nobody is shown them.
    said: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    keep: list[Any] = field(default_factory=list)  # what it calls back must not be collected


@cache
def library() -> Library:
    """Return the library, opened and checked once. Raises `CaptureError` if it is missing or not as we know it."""
    if find_spec(PACKAGE) is None:
        raise CaptureError('GGUF models run in llama.cpp, which is not installed here: `pip install "moeviz[gguf]"`.')
    try:
        from cffi import FFI  # of its own: the package declares no ggml
        from llama_cpp_py_sync._cffi_bindings import ffi, get_lib

        llama, path = get_lib(), path_of_library()
        ggml_ffi = FFI()
        ggml_ffi.cdef(TENSOR)
        ggml_path = _with_ggml(ggml_ffi, path)
        ggml = ggml_ffi.dlopen(str(ggml_path))
        found = Library(ffi, llama, ggml_ffi, ggml, ggml_path, ffi.string(llama.llama_version()).decode())
        _check_parameters(found, ctypes.CDLL(str(path)))
        _check_batch(found)
        _check_tensor(found)
    except (ImportError, AttributeError, OSError, RuntimeError, KeyError, TypeError) as error:
        raise CaptureError(
            f"llama-cpp-py-sync is installed, and cannot be used: {type(error).__name__}. Install the version that "
            'moeviz asks for: `pip install "moeviz[gguf]"`.'
        ) from error
    _listen_to_log(found)
    llama.llama_backend_init()
    return found


def path_of_library() -> Path:
    """Return the path of the library that the package opens."""
    from llama_cpp_py_sync._cffi_bindings import _find_library

    return Path(_find_library())


def _with_ggml(ffi: Any, llama: Path) -> Path:
    """Find the library with ggml's functions: llama.cpp's own, except on Windows, where each has a file."""
    for path in (llama, *sorted(llama.parent.glob("*ggml-base*"))):
        if hasattr(
            ffi.dlopen(str(path)), "ggml_nbytes"
        ):  # locally: two llama.cpp in a process must not call each other
            return path
    raise AttributeError("ggml_nbytes")


def _check_parameters(found: Library, raw: ctypes.CDLL) -> None:
    for kind, function in (("context", "llama_context_default_params"), ("model", "llama_model_default_params")):
        size = found.ffi.sizeof(f"struct llama_{kind}_params")
        if size > ROOM or (platform.machine().lower() in ("x86_64", "amd64") and _struct_size(raw, function) != size):
            raise _unknown(found, f"its {kind} parameters")
    context, model = found.llama.llama_context_default_params(), found.llama.llama_model_default_params()
    sizes = [context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max]
    types = [int(context.type_k), int(context.type_v)]
    null = found.ffi.NULL
    if sizes != [512, 2048, 512, 1] or types != [F16, F16] or context.cb_eval != null or context.rope_freq_base != 0:
        raise _unknown(found, "its default context parameters")
    if context.embeddings or context.kv_unified or context.ctx_other != null or context.n_samplers:
        raise _unknown(found, "its default context parameters")
    if model.n_gpu_layers != -1 or model.devices != null or model.vocab_only or model.no_alloc:
        raise _unknown(found, "its default model parameters")


def _struct_size(raw: ctypes.CDLL, name: str) -> int:
    """Return the bytes of the struct that a function returns: its output does not depend on what was there before."""
    function = getattr(raw, name)
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]  # the memory that it writes to
    seen = []
    for fill in (0xA5, 0x5A):
        room = (ctypes.c_ubyte * ROOM)(*[fill] * ROOM)
        function(ctypes.addressof(room))
        seen.append(bytes(room))
    last = max(place for place in range(ROOM) if seen[0][place] == seen[1][place])
    return (last + WORD) // WORD * WORD


def _check_batch(found: Library) -> None:
    tokens = found.ffi.new("llama_token[3]", [7, 8, 9])
    batch = found.llama.llama_batch_get_one(tokens, 3)
    null = found.ffi.NULL
    if batch.n_tokens != 3 or batch.token != tokens or batch.logits != null or batch.pos != null:
        raise _unknown(found, "its batches")


def _check_tensor(found: Library) -> None:
    ffi, ggml = found.ggml_ffi, found.ggml
    context = ggml.ggml_init(ffi.new("struct ggml_init_params *", (1 << 16, ffi.NULL, True))[0])
    whole = ggml.ggml_new_tensor_4d(context, I32, 5, 7, 3, 2)
    view = ggml.ggml_set_name(ggml.ggml_view_2d(context, whole, 2, 6, 20, 4), b"ffn_moe_topk-3")
    place = ffi.cast("char *", view) + ffi.offsetof("struct ggml_tensor", "name")
    as_known = (
        (whole.type, list(whole.ne), list(view.ne)) == (I32, [5, 7, 3, 2], [2, 6, 1, 1])
        and (view.nb[1], view.view_offs, view.view_src) == (20, 4, ffi.cast("void *", whole))
        and ggml.ggml_get_name(view) == place
        and ffi.string(view.name) == b"ffn_moe_topk-3"
        and ggml.ggml_nbytes(view) == 5 * 20 + 2 * 4
    )
    ggml.ggml_free(context)
    if not as_known:
        raise _unknown(found, "its tensors")


def _unknown(found: Library, what: str) -> CaptureError:
    return CaptureError(
        f"This llama.cpp ({found.version}) lays out {what} in a way that moeviz does not know, and reading it would "
        'give wrong numbers. Install the version that moeviz asks for: `pip install "moeviz[gguf]"`.'
    )


def _listen_to_log(found: Library) -> None:
    def heard(level: int, text: Any, _: Any) -> None:
        line = found.ffi.string(text).decode(errors="replace").strip()
        if level >= found.llama.GGML_LOG_LEVEL_WARN and line:
            found.said.append(line)
            log.debug("llama.cpp: %s", line)

    found.keep.append(found.ffi.callback("ggml_log_callback", heard))
    found.llama.llama_log_set(found.keep[-1], found.ffi.NULL)
