#!/usr/bin/env python3
"""Executes a program without io_uring, as in a container whose system call filter rejects it.

usage: without_io_uring.py PROGRAM [ARGUMENT...]
"""

import ctypes
import os
import struct
import sys

# seccomp(2) and prctl(2).
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
EPERM = 1

# Instructions of the filter: load a word, jump if equal, return.
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06

# The number of the system call is the same on all architectures.
IO_URING_SETUP = 425


def instruction(code, if_true, if_false, value):
    return struct.pack("HBBI", code, if_true, if_false, value)


def main():
    program = b"".join(
        [
            instruction(LOAD, 0, 0, 0),  # the number of the system call
            instruction(JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
            instruction(RETURN, 0, 0, SECCOMP_RET_ERRNO | EPERM),
            instruction(RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    filter_of = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, argument in [
        (PR_SET_NO_NEW_PRIVS, 1, None),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_of)),
    ]:
        if libc.prctl(option, ctypes.c_ulong(value), argument, None, None) != 0:
            sys.exit(f"without_io_uring: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[1], sys.argv[1:])


main()
