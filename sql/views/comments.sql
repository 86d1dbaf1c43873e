-- What each view and column means. A unit stands at the end, in brackets.

COMMENT ON VIEW todoist_tasks IS 'Open tasks, one row each; a user without any has one row without a task';
COMMENT ON COLUMN todoist_tasks.user_id IS 'Whose task it is';
COMMENT ON COLUMN todoist_tasks.task_id IS 'Todoist''s id; null in the row of a user without open tasks';
COMMENT ON COLUMN todoist_tasks.timezone IS 'The user''s time zone [IANA name]';
COMMENT ON COLUMN todoist_tasks.language IS 'The language that the user set in Todoist [ISO 639-1]';
COMMENT ON COLUMN todoist_tasks.content IS 'The task as it was written';
COMMENT ON COLUMN todoist_tasks.description IS 'What was written below it';
COMMENT ON COLUMN todoist_tasks.text IS 'What is embedded: the content without marks, or the description where that leaves nothing';
COMMENT ON COLUMN todoist_tasks.text_hash IS 'Equal for equal texts [128 bits of sha256, hex]';
COMMENT ON COLUMN todoist_tasks.project_id IS 'Todoist''s id of the project';
COMMENT ON COLUMN todoist_tasks.project IS 'The project''s name';
COMMENT ON COLUMN todoist_tasks.section_id IS 'Todoist''s id of the section';
COMMENT ON COLUMN todoist_tasks.section IS 'The section''s name';
COMMENT ON COLUMN todoist_tasks.parent_id IS 'The task of which it is a part';
COMMENT ON COLUMN todoist_tasks.labels IS 'Names of its labels';
COMMENT ON COLUMN todoist_tasks.priority IS 'As in Todoist''s API: 4 is the most urgent, 1 the usual [1 to 4]';
COMMENT ON COLUMN todoist_tasks.due_date IS 'A date, a local time, or an instant with Z [ISO 8601]';
COMMENT ON COLUMN todoist_tasks.due_timezone IS 'The zone of a due time that is fixed to one [IANA name]';
COMMENT ON COLUMN todoist_tasks.due_string IS 'The due date as the user wrote it';
COMMENT ON COLUMN todoist_tasks.is_recurring IS 'Whether it comes again once it is done';
COMMENT ON COLUMN todoist_tasks.deadline_date IS 'The day by which it must be done [ISO 8601]';
COMMENT ON COLUMN todoist_tasks.duration_minutes IS 'How long it takes, by the user [min]';
COMMENT ON COLUMN todoist_tasks.added_at IS 'When it was added [UTC]';
COMMENT ON COLUMN todoist_tasks.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW tip_reactions IS 'Reactions to tips as the nights read them, for contexts; the newest are in reactions';
COMMENT ON COLUMN tip_reactions.user_id IS 'Whose reaction it is';
COMMENT ON COLUMN tip_reactions.decision_id IS 'The request that the tip answered';
COMMENT ON COLUMN tip_reactions.tip_kind IS 'overdue, focus, quick_win, plan, theme or generic';
COMMENT ON COLUMN tip_reactions.theme IS 'The theme that the tip was about: task_clusters.cluster_id';
COMMENT ON COLUMN tip_reactions.reaction IS 'accepted, done, snoozed, dismissed or ignored';
COMMENT ON COLUMN tip_reactions.reacted_at IS 'When it came [UTC]';
COMMENT ON COLUMN tip_reactions.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW task_embeddings IS 'A vector for each open task';
COMMENT ON COLUMN task_embeddings.user_id IS 'Whose task it is';
COMMENT ON COLUMN task_embeddings.task_id IS 'The task';
COMMENT ON COLUMN task_embeddings.text_hash IS 'Of the text that was embedded [128 bits of sha256, hex]';
COMMENT ON COLUMN task_embeddings.model IS 'Model, revision, prompt and dimension: vectors of different ones do not compare';
COMMENT ON COLUMN task_embeddings.embedding IS 'The vector, of length 1 [unitless]';
COMMENT ON COLUMN task_embeddings.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW task_clusters IS 'The theme of each open task, and its double';
COMMENT ON COLUMN task_clusters.user_id IS 'Whose task it is';
COMMENT ON COLUMN task_clusters.task_id IS 'The task';
COMMENT ON COLUMN task_clusters.text_hash IS 'Of the text that was grouped [128 bits of sha256, hex]';
COMMENT ON COLUMN task_clusters.cluster_id IS 'The theme, the same as long as most of its tasks stay; null: alone';
COMMENT ON COLUMN task_clusters.label IS 'What the theme is called';
COMMENT ON COLUMN task_clusters.tags IS 'Words that tasks of the theme share';
COMMENT ON COLUMN task_clusters.n_tasks IS 'Tasks of the theme [tasks]';
COMMENT ON COLUMN task_clusters.same_as IS 'The task that says the same; null: none does';
COMMENT ON COLUMN task_clusters.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW user_contexts IS 'Contexts as the last night assembled them, one a user';
COMMENT ON COLUMN user_contexts.user_id IS 'Whose context it is';
COMMENT ON COLUMN user_contexts.context_json IS 'What an LLM gets to know of the user [JSON]';
COMMENT ON COLUMN user_contexts.context_hash IS 'Of context_json [sha256, hex]';
COMMENT ON COLUMN user_contexts.valid_until IS 'The midnight at which it becomes another one by itself [UTC]';
COMMENT ON COLUMN user_contexts.themes IS 'All themes with all their tasks, and doubles [JSON]';
COMMENT ON COLUMN user_contexts.row_version IS 'Of all that Postgres keeps of it [sha256, hex]';
COMMENT ON COLUMN user_contexts.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW context_store IS 'What the last night knew to stand in Postgres, one row a user';
COMMENT ON COLUMN context_store.user_id IS 'Whose row it is';
COMMENT ON COLUMN context_store.context_hash IS 'Of the context that stood there [sha256, hex]';
COMMENT ON COLUMN context_store.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW ledger IS 'Work planned, done and spared: a row for each run and kind of work, as of the last run';
COMMENT ON COLUMN ledger.run_id IS 'The DAG run; for requests the day';
COMMENT ON COLUMN ledger.step IS 'The DAG; serving: a day of requests';
COMMENT ON COLUMN ledger.started_at IS 'When it began [UTC]';
COMMENT ON COLUMN ledger.finished_at IS 'When it ended; null: it did not get to its end [UTC]';
COMMENT ON COLUMN ledger.work IS 'What the amounts count: todoist_calls, texts_embedded, llm_tokens ...';
COMMENT ON COLUMN ledger.planned IS 'What was to be done, at most [units of work]';
COMMENT ON COLUMN ledger.done IS 'What was done [units of work]';
COMMENT ON COLUMN ledger.saved IS 'What was spared, as it had not changed [units of work]';
COMMENT ON COLUMN ledger.seconds IS 'Time that it took, over all shards [s]';

COMMENT ON VIEW context_history IS 'Every version of a context of the last weeks; those of requests from the next run on';
COMMENT ON COLUMN context_history.user_id IS 'Whose context it was';
COMMENT ON COLUMN context_history.assembled_at IS 'When it was assembled [UTC]';
COMMENT ON COLUMN context_history.materialized_at IS 'When the signals that it is made of were fetched [UTC]';
COMMENT ON COLUMN context_history.context_hash IS 'Of context_json [sha256, hex]';
COMMENT ON COLUMN context_history.context_json IS 'What an LLM got to know of the user [JSON]';
COMMENT ON COLUMN context_history.author IS 'night or request';
COMMENT ON COLUMN context_history.day IS 'The day on which it was assembled [UTC]';
COMMENT ON COLUMN context_history.shard IS 'The part of all users that is computed and stored together';

COMMENT ON VIEW users IS 'Users and their Todoist accounts, read from Postgres with each query';
COMMENT ON COLUMN users.user_id IS 'The product''s id of the user';
COMMENT ON COLUMN users.timezone IS 'The user''s time zone, as far as it is known here [IANA name]';
COMMENT ON COLUMN users.active IS 'Whether the nights look at the user';
COMMENT ON COLUMN users.created_at IS 'When the user was added [UTC]';
COMMENT ON COLUMN users.connected IS 'Whether Todoist still takes the user''s token; null: there is none';
COMMENT ON COLUMN users.observed_at IS 'When a night last fetched the signals without an error [UTC]';
COMMENT ON COLUMN users.refused_at IS 'When Todoist last refused the token [UTC]';
COMMENT ON COLUMN users.materialized_at IS 'When the signals of the context that stands in Postgres were fetched; null: none does [UTC]';

COMMENT ON VIEW decisions IS 'Tips that were given, read from Postgres with each query';
COMMENT ON COLUMN decisions.decision_id IS 'The request and its tip';
COMMENT ON COLUMN decisions.user_id IS 'Who asked';
COMMENT ON COLUMN decisions.decided_at IS 'When it was answered [UTC]';
COMMENT ON COLUMN decisions.tip_kind IS 'overdue, focus, quick_win, plan, theme or generic';
COMMENT ON COLUMN decisions.theme IS 'The theme that the tip is about: task_clusters.cluster_id; null: none';
COMMENT ON COLUMN decisions.source IS 'Where the context came from: stored, inline, stale or none';
COMMENT ON COLUMN decisions.llm IS 'What the LLM had to do: called, skipped or fallback';
COMMENT ON COLUMN decisions.author IS 'Who wrote the candidates: llm, kept, rules or generic';
COMMENT ON COLUMN decisions.materialized_at IS 'When the signals of the context were fetched [UTC]';
COMMENT ON COLUMN decisions.context_hash IS 'The context, see context_history [sha256, hex]';
COMMENT ON COLUMN decisions.candidate_set_id IS 'The candidates among which was chosen';
COMMENT ON COLUMN decisions.policy_version IS 'The policy that chose, @, updates that it had learned from';
COMMENT ON COLUMN decisions.n_candidates IS 'How many there were to choose from [candidates]';
COMMENT ON COLUMN decisions.propensity IS 'Probability with which this one would be chosen [0 to 1]';

COMMENT ON VIEW reactions IS 'What users made of tips, read from Postgres with each query';
COMMENT ON COLUMN reactions.decision_id IS 'The tip';
COMMENT ON COLUMN reactions.reaction IS 'accepted, done, snoozed, dismissed or ignored';
COMMENT ON COLUMN reactions.reacted_at IS 'When it came [UTC]';
COMMENT ON COLUMN reactions.reward IS 'What the policy learned from it [0 to 1]';

COMMENT ON VIEW llm_calls IS 'Calls of the LLM, good or bad, read from Postgres with each query';
COMMENT ON COLUMN llm_calls.called_at IS 'When [UTC]';
COMMENT ON COLUMN llm_calls.user_id IS 'For whom';
COMMENT ON COLUMN llm_calls.candidate_set_id IS 'What came of it; null: nothing that could be used';
COMMENT ON COLUMN llm_calls.model IS 'The model that was asked';
COMMENT ON COLUMN llm_calls.outcome IS 'answered, repaired, invalid, late, refused or failed';
COMMENT ON COLUMN llm_calls.n_requests IS 'Requests, the repair included [requests]';
COMMENT ON COLUMN llm_calls.input_tokens IS 'Tokens of the prompts [tokens]';
COMMENT ON COLUMN llm_calls.output_tokens IS 'Tokens of the answers [tokens]';
COMMENT ON COLUMN llm_calls.cost_usd IS 'What they cost; null: the model''s price is not known [USD]';
COMMENT ON COLUMN llm_calls.seconds IS 'How long it took [s]';

COMMENT ON VIEW materializations IS 'What each run did to each asset, read from Postgres with each query';
COMMENT ON COLUMN materializations.run_id IS 'The DAG run';
COMMENT ON COLUMN materializations.step IS 'The DAG';
COMMENT ON COLUMN materializations.asset IS 'The asset';
COMMENT ON COLUMN materializations.started_at IS 'When the run began [UTC]';
COMMENT ON COLUMN materializations.finished_at IS 'When it ended [UTC]';
COMMENT ON COLUMN materializations.n_shards IS 'Shards that there are [shards]';
COMMENT ON COLUMN materializations.n_shards_run IS 'Shards that were run [shards]';
COMMENT ON COLUMN materializations.n_users IS 'Users of the asset after the run [users]';
COMMENT ON COLUMN materializations.n_users_changed IS 'Users computed; the others were carried over [users]';
COMMENT ON COLUMN materializations.n_rows IS 'Rows after the run [rows]';
COMMENT ON COLUMN materializations.data_version IS 'Of all shards together [sha256, hex]';
COMMENT ON COLUMN materializations.changed IS 'Whether data_version is a new one';
COMMENT ON COLUMN materializations.counts IS 'The asset''s own: calls, texts, rows written [JSON]';

COMMENT ON VIEW shards IS 'Versions and freshness of each shard of each asset, from the files'' own footers';
COMMENT ON COLUMN shards.asset IS 'The asset, which is also the view';
COMMENT ON COLUMN shards.shard IS 'Its number';
COMMENT ON COLUMN shards.n_users IS 'Users known, with rows or without [users]';
COMMENT ON COLUMN shards.n_rows IS 'Rows [rows]';
COMMENT ON COLUMN shards.materialized_at IS 'When the file was made [UTC]';
COMMENT ON COLUMN shards.data_version IS 'Of the rows [sha256, hex]';
COMMENT ON COLUMN shards.code_version IS 'Of the function that made it';
COMMENT ON COLUMN shards.recipe IS 'Versions of all that made it: code, model [JSON]';
COMMENT ON COLUMN shards.inputs IS 'Versions of the inputs that it was made from [JSON]';

COMMENT ON VIEW catalog IS 'Every column of every view: type, unit, meaning (of analyses the question alone), freshness';
COMMENT ON COLUMN catalog.view_name IS 'The view, with its schema where that is not main';
COMMENT ON COLUMN catalog.column_name IS 'The column';
COMMENT ON COLUMN catalog.data_type IS 'DuckDB''s type';
COMMENT ON COLUMN catalog.unit IS 'What values are given in; null: texts and ids';
COMMENT ON COLUMN catalog.meaning IS 'What the column says';
COMMENT ON COLUMN catalog.view_meaning IS 'What a row of the view is';
COMMENT ON COLUMN catalog.n_shards IS 'Shards of an asset that are there [shards]';
COMMENT ON COLUMN catalog.n_rows IS 'Rows of an asset [rows]';
COMMENT ON COLUMN catalog.oldest_at IS 'When the oldest shard was made [UTC]';
COMMENT ON COLUMN catalog.newest_at IS 'When the newest shard was made [UTC]';

COMMENT ON MACRO cosine IS 'How near two vectors are in meaning: 1 for the same, about 0 for nothing in common';
COMMENT ON MACRO TABLE similar_tasks IS 'similar_tasks(task id, n): the n tasks nearest in meaning, of whomever';
COMMENT ON MACRO local_time IS 'local_time(instant, zone): the clock on the wall there';
COMMENT ON MACRO share_low IS 'share_low(k, n): lower bound of the 95 % interval of the share k of n';
COMMENT ON MACRO share_high IS 'share_high(k, n): upper bound of the 95 % interval of the share k of n';
COMMENT ON MACRO is_welcome IS 'Whether a reaction says that the tip was welcome';
COMMENT ON MACRO as_of IS 'The instant as of which the analyses are: now, unless the session was opened for another';
