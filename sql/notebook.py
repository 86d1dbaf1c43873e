"""Charts of the main analyses. `make notebook` opens the notebook; it also runs as a script."""

import marimo

app = marimo.App(width="medium", app_title="Feature-to-prompt")


@app.cell
def _():
    import marimo as mo
    import matplotlib.pyplot as plt
    import pandas as pd

    from assets.analysis.letters import drawable, font_families
    from assets.analysis.session import session_from_environment
    from assets.engine.errors import AssetError

    plt.rcParams["font.family"] = font_families()
    session_context = session_from_environment(days=90)  # stays open until it is garbage-collected
    session = session_context.__enter__()
    return AssetError, drawable, mo, pd, plt, session, session_context


@app.cell
def _(AssetError, drawable, mo, plt, session):
    def chart(name, draw):
        """A figure of an analysis, or a message if there is nothing to draw."""
        question = session.question(name)
        try:
            rows = session.sql(f"FROM analysis.{name}").df()
        except AssetError as error:
            return mo.md(f"> {question} {error}")
        if rows.empty:
            return mo.md(f"> {question} There is no data yet.")
        figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
        draw(rows, axes)
        axes.set_title(question, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def bars_with_intervals(label):
        """A function that draws shares with their 95 % intervals, one bar per row."""

        def draw(rows, axes):
            top_rows = rows[rows.n_reacted >= 3].dropna(subset=["share_low"]).head(12).iloc[::-1]
            shares = top_rows.share_welcome
            errors = [(shares - top_rows.share_low).clip(lower=0), (top_rows.share_high - shares).clip(lower=0)]
            names = [f"{drawable(name)} ({n})" for name, n in zip(top_rows[label], top_rows.n_reacted, strict=True)]
            axes.barh(names, shares, height=0.6, xerr=errors, color="#8fb4d9", ecolor="#44546a", capsize=3)
            axes.set(xlim=(0, 1), ylim=(-0.7, max(len(names), 4) - 0.3))
            axes.set_xlabel(
                "share of welcome tips among at least three tips with a reaction (number of tips), 95 % intervals"
            )

        return draw

    def name_days(days, axes):
        """Name at most ten of the days below their bars, which are at 0, 1, 2, ..."""
        step = -(-len(days) // 10)
        axes.set_xticks(range(0, len(days), step), [day.strftime("%d %b") for day in days[::step]], rotation=0)
        axes.set_xlim(-0.7, max(len(days), 7) - 0.3)

    return bars_with_intervals, chart, name_days


@app.cell
def _(mo):
    mo.md("""
    # Tips and the contexts behind them

    Each chart shows an analysis of `sql/analysis`; `make sql` prints the same analyses in a terminal.
    """)
    return


@app.cell
def _(chart):
    def _draw(rows, axes):
        bottom = 0
        for name, color in (("stored", "#5b9f6d"), ("inline", "#e8b04b"), ("stale", "#c8553d")):
            axes.bar(rows.hour, rows[f"share_{name}"], bottom=bottom, color=color, label=name)
            bottom = bottom + rows[f"share_{name}"]
        ages = axes.twinx()
        ages.plot(rows.hour, rows.median_age_hours, color="#44546a", marker="o")
        ages.set_ylabel("median age, h")
        ages.set_ylim(0, 1.1 * max(1, rows.median_age_hours.max()))
        axes.set_xticks(range(0, 24, 3))
        axes.set_xlabel("hour of the day, UTC")
        axes.set_ylabel("share of tips")
        axes.legend(ncols=3, frameon=False, loc="upper right", bbox_to_anchor=(1, -0.12))

    freshness = chart("freshness_by_hour", _draw)
    freshness
    return (freshness,)


@app.cell
def _(bars_with_intervals, chart):
    kinds = chart("tip_kinds", bars_with_intervals("tip_kind"))
    kinds
    return (kinds,)


@app.cell
def _(bars_with_intervals, chart):
    themes = chart("welcome_themes", bars_with_intervals("label"))
    themes
    return (themes,)


@app.cell
def _(chart, name_days):
    def _draw(rows, axes):
        positions = range(len(rows))
        axes.bar(positions, rows.n_tips, width=0.6, color="#d5dde5")
        axes.set_ylabel("tips")
        name_days(list(rows.day), axes)
        shares = axes.twinx()
        shares.plot(positions, rows.share_skipped, color="#5b9f6d", marker="o")
        shares.set_ylim(0, 1.05)
        shares.set_ylabel("share without an LLM call")

    skips = chart("llm_skips", _draw)
    skips
    return (skips,)


@app.cell
def _(chart, name_days):
    def _draw(rows, axes):
        table = rows.pivot(index="day", columns="work", values="seconds").dropna(axis=1, how="all")
        days, table.index = list(table.index), range(len(table))
        table.plot.bar(stacked=True, ax=axes, colormap="tab20")
        name_days(days, axes)
        axes.set_xlabel("")
        axes.set_ylabel("seconds of work")
        axes.legend(title=None, frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")

    costs = chart("pipeline_cost", _draw)
    costs
    return (costs,)


@app.cell
def _(chart):
    def _draw(rows, axes):
        axes.bar(rows.signal_age, rows.n_users, width=0.6, color="#8fb4d9")
        axes.set_xlim(-0.7, max(len(rows), 5) - 0.3)
        axes.set_ylabel("active users")

    users = chart("freshness_of_users", _draw)
    users
    return (users,)


@app.cell
def _(chart, pd):
    def _draw(rows, axes):
        for model, weeks in rows.groupby("model"):
            name = model.rsplit("/", 1)[-1][:40]
            axes.plot(pd.to_datetime(weeks.week), weeks.similarity, marker="o", label=name)
        axes.set_ylim(top=1.02)
        axes.set_xlabel("week in which tasks were added")
        axes.set_ylabel("cosine similarity to all weeks")
        axes.legend(frameon=False, fontsize=8)

    drift = chart("embedding_drift", _draw)
    drift
    return (drift,)


if __name__ == "__main__":
    app.run()
