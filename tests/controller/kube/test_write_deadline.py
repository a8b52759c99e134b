"""Is a write over within the time that the fence was asked for, however long the connection takes?"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controller.adapters.kube.changes import JSON_PATCH, Change
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.kinds import PODS
from controller.adapters.kube.questions import Question, Unreached
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from simulations.kubernetes_api.kubeconfig import kubeconfig, write_kubeconfig

ANSWER_S = 2.9
SYN_AGAIN_S = 1.0
WITHIN_S = 3.3


@contextmanager
def _busy_server(begins: threading.Event) -> Iterator[str]:
    """Serve nobody until ``begins``: with a full queue, whoever connects is heard at the second try, a second later."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        over = threading.Event()

        def answer(taken: socket.socket) -> None:
            with taken:
                if taken.recv(65536) and not over.wait(ANSWER_S):
                    taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        def serve() -> None:
            begins.wait()
            while not over.is_set():
                try:
                    taken = server.accept()[0]
                except OSError:
                    return
                threading.Thread(target=answer, args=(taken,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)


def test_a_write_takes_no_longer_than_the_fence_was_asked_for(tmp_path: Path) -> None:
    begins, elapsed = threading.Event(), SystemClock().elapsed
    asked: list[float] = []

    def fence(needs_s: float) -> str:
        asked.append(needs_s)
        threading.Timer(0.2, begins.set).start()
        return ""

    with _busy_server(begins) as url:
        file = write_kubeconfig(tmp_path / "kubeconfig", kubeconfig(url, ""))
        settings = KubernetesSettings(kubeconfig=file, connect_timeout_s=3.0, write_timeout_s=WITHIN_S)
        api = KubernetesApi(settings, elapsed, fence)
        began_s = elapsed()
        with pytest.raises(Unreached, match="no whole answer in time"):
            api.change(Change(Question("patch", PODS, "prod", "llama-1"), [], JSON_PATCH))
        took_s = elapsed() - began_s
        api.close()
    assert asked == [WITHIN_S]
    assert SYN_AGAIN_S <= took_s < WITHIN_S + 0.4 < SYN_AGAIN_S + ANSWER_S
