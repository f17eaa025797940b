"""Open a page to play with a model: generate, look at the spikes, complete pictures.

The page runs on this machine, and nothing is loaded from elsewhere. It offers all models that ship, and MODEL. Press
Ctrl-C to end it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

from spiking_vq.errors import InputError
from spiking_vq.fields import Range
from stages.app.models import Models
from stages.cli.machine import check_device
from stages.cli.options import ModelOptions, read_options

EXAMPLE = "spiking-vq app mnist"

Port = Annotated[int, Range("in 0..65535", lambda port: 0 <= port <= 65535)]


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of `app`.

    Attributes:
        host: address to listen at; the default is this machine only, 0.0.0.0 lets others on its network in.
        port: to listen at; 0 takes any that is free.
        device: of torch, such as `cpu` or `cuda`.
    """

    host: str = "127.0.0.1"
    port: Port = 7860
    device: str = "cpu"


def main(arguments: list[str]) -> None:
    """Check what the page needs, then serve it."""
    options = read_options(Options, arguments)
    check_device(options.device)
    if missing := [name for name in ("gradio", "matplotlib") if find_spec(name) is None]:
        raise InputError(f"the page needs {' and '.join(missing)}: pip install 'spiking_vq[app]'")
    models = Models(options.find(), options.device)
    models.pipeline(models.first)
    serve(models, options.host, free_port(options.host, options.port))


def free_port(host: str, port: int) -> int:
    """The port, or any that is free where it is 0.

    Raises:
        InputError: it cannot be listened at.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = f"port {port} of {host} is in use: choose another, such as port={(port + 1) % 65536}, or port=0"
        elif getattr(error, "errno", None) == errno.EACCES:
            reason = f"port {port} is not allowed: choose one above 1023, such as port=7860"
        else:
            reason = f"host={host} is no address of this machine ({error}): leave it out, or give 0.0.0.0"
        raise InputError(reason) from error


def serve(models: Models, host: str, port: int) -> None:
    """Serve the page until Ctrl-C; uploads lie in a folder that is then removed."""
    with TemporaryDirectory(prefix="spiking_vq-app-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder} | without_proxy(host)
        import gradio as gr  # here: it reads these when it is imported, and it is an extra
        import matplotlib as mpl

        from stages.app.complete import MOST_BYTES
        from stages.app.events import build
        from stages.app.page import CSS

        mpl.use("Agg")  # windows belong to the main thread, and the page computes in others
        ended = Event()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed then, too
        page = build(models, ended).queue(max_size=32)
        theme = gr.themes.Default(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"])
        theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
        try:
            page.launch(
                server_name=_bracketed(host),
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=MOST_BYTES,
                enable_monitoring=False,
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                footer_links=[],
                theme=theme,
                css_paths=CSS,
            )
            print(f"open http://{_for_a_browser(host)}:{port} in a browser; Ctrl-C ends it")
            if not _is_this_machine(host):
                print(f"everyone who reaches port {port} of this machine can use it")
            Event().wait()
        finally:
            ended.set()
            page.close(verbose=False)


def without_proxy(host: str) -> dict[str, str]:
    """Environment in which the page is reached directly where a proxy is set: gradio asks it whether it is there."""
    direct = next(filter(None, map(os.environ.get, ("no_proxy", "NO_PROXY"))), "")
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(filter(None, (direct, host, "localhost,127.0.0.1"))))


def _for_a_browser(host: str) -> str:
    """The host in the page's address; `localhost` for all of this machine."""
    return "localhost" if host in ("0.0.0.0", "::") else _bracketed(host)


def _bracketed(host: str) -> str:
    """The host, in brackets if it is of IPv6."""
    return f"[{host}]" if ":" in host else host


def _is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
