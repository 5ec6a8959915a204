"""Ending processes: in order and in time after a signal, and together with their parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from assay.errors import InterruptedRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 9
STDIN = 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block as an exception does, so that every ``finally`` in it runs.

    The first signal raises `KeyboardInterrupt` in the main thread, later ones are ignored. A process whose main thread
    has not ended `GRACE_SECONDS` after the first, since it computes outside of Python, is ended.

    Raises
    ------
    InterruptedRunError
        A signal arrived and the block did not end as usual.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if received:
            return
        received.append(number)
        _ignore_signals()
        raise KeyboardInterrupt

    previous_handlers = {number: signal.signal(number, interrupt) for number in SIGNALS}
    with _deadline():
        try:
            yield
        except BaseException as error:
            if not received:
                raise
            # Prefect puts back the handler that it met, which Python would take away before the process ends.
            _ignore_signals()
            raise InterruptedRunError(received[0]) from error
        finally:
            if not received:
                for number, handler in previous_handlers.items():
                    signal.signal(number, handler)


@contextmanager
def interruptible_once() -> Iterator[None]:
    """Let only the first signal in the block reach the handler that is set, and ignore later ones, as they end it.

    Prefect's handler of SIGTERM, which stands in place of that of `interruptible` during a flow, raises at each.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {int(number): signal.getsignal(number) for number in SIGNALS}
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if received:
            return
        received.append(number)
        _ignore_signals()
        handler = handlers[number]
        assert callable(handler)
        handler(number, frame)

    caught = [number for number in SIGNALS if callable(handlers[number])]
    for number in caught:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        if not received:
            for number in caught:
                signal.signal(number, handlers[number])


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _deadline() -> Iterator[None]:
    """End the process `GRACE_SECONDS` after a signal, whatever the main thread does and whichever handler is set."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def wait() -> None:
        with receiver:
            while number := receiver.recv(1):
                if number[0] in SIGNALS:
                    time.sleep(GRACE_SECONDS)
                    late = InterruptedRunError(number[0])
                    sys.stderr.write(f"assay: {late}\n")
                    sys.stderr.flush()
                    os._exit(late.exit_code)

    threading.Thread(target=wait, name="deadline", daemon=True).start()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        sender.close()


def end_with_parent() -> None:
    """End this process when its parent ends, which holds the other end of its standard input.

    Ctrl-C reaches every process of a terminal; this one ignores it, so that its parent can end it in order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        while os.read(STDIN, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
