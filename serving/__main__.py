"""`python -m serving`: the service, with every concrete door named here."""

from __future__ import annotations

import gc
import logging
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import uvicorn
import uvloop
from fastapi import FastAPI

from contexts.assemble import Budget
from contexts.settings import DatabaseSettings, SettingsError, VaultSettings, read_settings
from contexts.todoist import Todoist
from contexts.vault import Vault, VaultError
from serving.app import Callers, build_app
from serving.background import repeated
from serving.bandit import ThompsonPolicy
from serving.features import VERSION
from serving.flights import Locks
from serving.inline import Inline
from serving.learn import Learner
from serving.llm import LLM, ModelError
from serving.metrics import Metrics
from serving.recommend import Recommender, Timing
from serving.settings import ServingSettings
from serving.startup import NotReady, check
from serving.store import connected

POLICY = f"thompson-{VERSION}"

_FETCHES_AT_ONCE = 64
_LEARNED_EVERY = 5.0
_IGNORED_EVERY = 300.0


def utc_now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


def main() -> int:
    """Serve until told to end; 1 with a sentence when something that is needed is not there."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: every door is closed
    try:
        settings, url = read_settings(ServingSettings), read_settings(DatabaseSettings).database_url
        vault = Vault(read_settings(VaultSettings).keys)
        uvloop.run(_serve(settings, url, vault))
    except (SettingsError, ModelError, VaultError, NotReady) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        sys.stderr.write(f"DATABASE_URL: Postgres cannot be reached or refuses: {why}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(settings: ServingSettings, url: str, vault: Vault) -> None:
    async with opened(settings, url, vault) as app:
        config = uvicorn.Config(
            app,
            host=settings.serving_host,
            port=settings.serving_port,
            access_log=False,
            log_config=None,
            lifespan="off",
            proxy_headers=False,
        )
        gc.freeze()  # what is there now stays: no collection has to look at it again
        await uvicorn.Server(config).serve()


@asynccontextmanager
async def opened(
    settings: ServingSettings, url: str, vault: Vault, *, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[FastAPI]:
    """The service over open doors, after a look at whether they are the right ones.

    Raises NotReady, VaultError or ModelError; OSError and asyncpg's own errors when Postgres cannot be reached.
    """
    llm = LLM(settings.llm_model, seconds=settings.llm_timeout) if settings.llm_model else None
    timeout, metrics = settings.request_budget, Metrics()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            connected(
                url,
                n_connections=settings.database_connections,
                timeout=timeout,
                reaction_days=settings.reaction_days,
            )
        )
        await check(store.pool, vault)
        locks = await stack.enter_async_context(Locks.connected(url, timeout=timeout))
        todoist = Todoist(
            settings.todoist_api_url,
            patience=settings.todoist_timeout,
            read_timeout=settings.todoist_timeout,
            concurrency=_FETCHES_AT_ONCE,
            app=settings.oauth_app,
        )
        inline = Inline(
            store,
            await stack.enter_async_context(todoist.session(metrics.todoist_calls.inc)),
            vault,
            Budget(settings.context_token_budget),
            metrics,
            seconds=settings.todoist_timeout,
            clock=clock,
        )
        learner = Learner(store.pool, POLICY, metrics, clock)
        await learner.refresh()
        recommender = Recommender(
            store=store,
            locks=locks,
            inline=inline,
            author=llm,
            learner=learner,
            policy=ThompsonPolicy(POLICY),
            metrics=metrics,
            timing=Timing(settings.freshness_sla, settings.revalidate_after, settings.request_budget),
            clock=clock,
            new_id=uuid4,
            new_seed=lambda: secrets.randbits(63),
        )
        stack.push_async_callback(recommender.close)
        await stack.enter_async_context(repeated("learning", _LEARNED_EVERY, learner.refresh))
        await stack.enter_async_context(
            repeated("ignoring", _IGNORED_EVERY, lambda: learner.ignore(settings.ignored_after))
        )
        callers = Callers([token.get_secret_value() for token in settings.service_tokens])
        yield build_app(recommender, learner, callers, metrics)


if __name__ == "__main__":
    sys.exit(main())
