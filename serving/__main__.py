"""`python -m serving`: serve tips over HTTP, in this process or in a group of several."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from contexts.assembly.model import UserContext
from contexts.settings import (
    CredentialSettings,
    DatabaseSettings,
    SettingsError,
    check_settings,
    misspelt_names,
    read_settings,
)
from contexts.todoist.credentials import CredentialCipher, CredentialsError
from serving.access_log import log_lines_alone
from serving.candidate_writer import Writings
from serving.composition import open_app
from serving.connections import ConnectionTable
from serving.membership import Membership
from serving.metrics import share_metrics
from serving.metrics_folder import metrics_folder
from serving.pools import DATABASE_ERRORS
from serving.process_group import ProcessGroup, listening_socket
from serving.server import Server, allow_open_files, check_port
from serving.settings import ServingSettings
from serving.startup import NotReady

log = logging.getLogger(__name__)

_SWITCH_INTERVAL_S = 0.0005
"""The event loop waits this long for the thread that reads a large account, a tenth of Python's default."""


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until a signal ends the process; 1, with a sentence on stderr, if the service cannot start.

    arguments: those of a process that a group has started, see `Membership`.
    """
    if {"--help", "-h"} & set(arguments):
        print("python -m serving: serve tips over HTTP, without options: docs/settings.md has the settings")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log_lines_alone()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    for sentence in misspelt_names(os.environ, ServingSettings):
        log.warning(sentence)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: connections are closed
    try:
        check_settings(ServingSettings, DatabaseSettings, CredentialSettings)
        settings, url = read_settings(ServingSettings), read_settings(DatabaseSettings).database_url
        cipher = CredentialCipher(read_settings(CredentialSettings).keys)
        member = Membership.from_arguments(arguments)
        if member is None and settings.serving_workers > 1:
            return _serve_in_group(settings)
        uvloop.run(_serve(settings, url, cipher, member))
    except (SettingsError, CredentialsError, NotReady) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except DATABASE_ERRORS as error:
        reason = str(error) or type(error).__name__
        sys.stderr.write(f"DATABASE_URL: Postgres cannot be reached, or refuses the service: {reason}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _serve_in_group(settings: ServingSettings) -> int:
    """Serve with several processes until a signal ends them; returns the exit status."""
    address = listening_socket(settings.serving_host, settings.serving_port)
    with metrics_folder() as folder, address as listener:
        command = [sys.executable, "-m", "serving"]
        return ProcessGroup(
            settings.serving_workers, command, listener, folder, grace_period_s=settings.grace_period
        ).run()


async def _serve(settings: ServingSettings, url: str, cipher: CredentialCipher, member: Membership | None) -> None:
    """Serve in this process. member: its place in a group of processes, if it has one."""
    allow_open_files(settings.max_connections + settings.database_connections)
    if member is None:  # otherwise the group listens there already
        await check_port(settings.serving_host, settings.serving_port)
    else:
        share_metrics(member.metrics_folder, member.slot)
    writings = Writings(max_started=settings.llm_concurrency)
    async with open_app(settings, url, cipher, writings=writings) as app:
        table = ConnectionTable(settings.connection_limits, app.metrics.refused_connection)
        app.metrics.watch_connections(lambda: len(table), settings.max_connections)
        server = Server(
            app,
            table,
            settings.shutdown,
            host=settings.serving_host,
            port=settings.serving_port,
            n_background=lambda: writings.n_running,
            on_listening=member.announce if member else lambda: None,
        )
        if member is not None:
            member.follow(stop=server.stop, force=server.force, retire=server.retire)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        UserContext.model_rebuild()  # otherwise the first request would build its validator
        gc.freeze()  # these objects live as long as the process: garbage collections need not visit them
        await server.serve([member.listener] if member else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
