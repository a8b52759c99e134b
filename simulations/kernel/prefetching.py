"""How is a record brought near before it is needed? The processor's own instruction, which numba has no name for."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_READ, _KEEP, _DATA = 0, 3, 1
_numba: Any = numba  # its types do not know its settings
_build: Any = cgutils


def _prefetch(_typing: Any, array: Any, index: Any, offset: Any) -> Any:
    """Begin to load the line of the cache that lies ``offset`` bytes into row ``index`` of an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = _build.unpack_tuple(builder, rows.strides)[0]
        row, into = (
            context.cast(builder, value, kind, types.intp)
            for value, kind in zip(arguments[1:], signature.args[1:], strict=True)
        )
        begin = builder.bitcast(rows.data, _build.voidptr_t)
        address = builder.gep(begin, [builder.add(builder.mul(row, stride), into)])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(instruction, [address, number(_READ), number(_KEEP), number(_DATA)])
        return context.get_dummy_value()

    return types.void(array, index, offset), generate


def _do_nothing(_array: Any, _index: int, _offset: int) -> None:
    """Stand in for it where numba is switched off: plain Python has nothing to hurry."""


prefetch: Any = _do_nothing if _numba.config.DISABLE_JIT else intrinsic(_prefetch)
